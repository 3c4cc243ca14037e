"""A builtin gateway: one listener per port of the MeshGateway that its Dataplane is bound to (A4–A9).

The logical listeners of a port stay apart by hostname: in one connection manager for HTTP, in a chain each where TLS
tells the server name. What is wrong with one of them (a certificate that cannot be used) closes its chain and no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TypeAlias

import msgspec
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector
from envoy_data_plane.envoy.service.runtime import v3 as runtime
from envoy_data_plane.google import protobuf as google
from immutables import Map

from shared.events.event import EventRef
from shared.events.selecting import selects
from shared.model.resource import Dataplane, Labels, ResourceKey
from shared.naming import spiffe
from zone_cp.view.abroad import NO_MTLS
from zone_cp.view.gateways import GatewayView, ListenerView, PortView, bound_gateway
from zone_cp.view.policies import Effective
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import Failure, MeshView, ProxyView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.assembly import Part
from zone_cp.xds.chains import chain, cross_mesh_socket, listener_filter, listening
from zone_cp.xds.connection_policies import chain_tuning, edge_tuning
from zone_cp.xds.credentials import all_roots, credentials
from zone_cp.xds.filters import Logged, Tuning, proxy_among, proxy_to
from zone_cp.xds.gateway_backends import Destinations, Told, in_every, told
from zone_cp.xds.gateway_clusters import gateway_clusters
from zone_cp.xds.gateway_filters import for_other_meshes, for_server_name, gateway_manager, terminating_socket
from zone_cp.xds.gateway_hosts import host_routes, listener_name, routes_name
from zone_cp.xds.gateway_routes import Connections, shared_connections, virtual_hosts
from zone_cp.xds.inbound import service_of
from zone_cp.xds.log_policies import Parties
from zone_cp.xds.parts import REST, Changed, Compiled, Draft, without
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.server_certificates import Shown, shown
from zone_cp.xds.shape import pack, part
from zone_cp.xds.snapshot import LISTENER, RUNTIME, Encoded
from zone_cp.xds.wire import encode

_Closed: TypeAlias = dict[int, Failure]
"""Listeners that are not served, by their number."""


class _Seat(msgspec.Struct, frozen=True):
    # One gateway, and what its mesh and policies say to it. trusted: meshes whose workloads prove who they are.
    mesh: MeshView
    gateway: GatewayView
    proxy: ProxyView
    address: str
    logged: Logged
    resource: Dataplane
    found: Destinations
    sources: Sources
    trusted: tuple[MeshView, ...]

    def told(self, tags: Labels) -> Told:
        return told(self.mesh, self.resource, self.gateway, tags)

    def said(self, listeners: tuple[ListenerView, ...]) -> Effective:
        """What is said about the connections of some listeners: what holds for each of them."""
        return self.told(in_every(one.tags for one in listeners)).at_large

    def tuning(self, port: PortView, *listeners: ListenerView) -> Tuning:
        parties = Parties(self.mesh.name, self.gateway.service, self.address)
        said = self.said(listeners)
        if port.protocol in ("HTTP", "HTTPS"):
            return edge_tuning(said, parties)
        return chain_tuning(said, "tcp", parties)

    def connections(self, *listeners: ListenerView) -> Connections:
        return shared_connections(self.found, ((one, self.told(one.tags)) for one in listeners))

    @property
    def lost(self) -> Sources:
        return self.mesh.lost_by(spiffe.workload_id(self.mesh.name, self.gateway.service))


def compile_gateway(  # noqa: PLR0917 - the inputs of a compilation
    before: Compiled | None,
    view: ZoneView,
    proxy: ProxyView,
    resource: Dataplane,
    source: SecretSource,
    access_log: str,
    changed: Changed,  # noqa: ARG001 - what is made is compared anyway, and encoded once
) -> Compiled:
    """Everything a gateway holds, given what it held before; nothing while its mesh is unknown."""
    draft = Draft(before, view.position)
    mesh = view.meshes.get(resource.mesh)
    if mesh is None:
        without(draft, resource.mesh)
        draft.fail({})
        draft.meshes = Map()
        return draft.compiled()
    gateway = bound_gateway(mesh, resource)
    closed: _Closed = {}
    found = Destinations(mesh, gateway) if gateway is not None else None
    made = _resources(view, mesh, proxy, resource, found, source, access_log, closed)
    draft.put(REST, mesh.name, Part(shared=(*made,)))
    draft.closed = Map({(gateway.key, number): why for number, why in closed.items()} if gateway is not None else {})
    draft.meshes = draft.meshes.set(mesh.name, mesh)
    identity = (mesh.name, spiffe.workload_id(mesh.name, service_of(resource)))
    workloads = frozenset((identity,) if mesh.mtls else ())
    if found is None:
        draft.fail({})
        return draft.compiled(workloads=workloads)
    draft.fail(found.failures)
    draft.impaired = Map({found.gateway.key: tuple(sorted(found.impaired))} if found.impaired else {})
    return draft.compiled(workloads=workloads, reads=found.reads)


def _resources(  # noqa: PLR0917 - as above
    view: ZoneView,
    mesh: MeshView,
    proxy: ProxyView,
    resource: Dataplane,
    found: Destinations | None,
    source: SecretSource,
    access_log: str,
    closed: _Closed,
) -> Iterator[Encoded]:
    if mesh.mtls:
        yield from credentials(mesh, spiffe.workload_id(mesh.name, service_of(resource)), source)
    if found is None:
        yield _limits((), mesh.sources)
        return
    gateway = found.gateway
    sources = joined(proxy.sources, mesh.sources, mesh.legacy, gateway.sources)
    logged = Logged(gateway.service, access_log, view.zone)
    trusted = tuple(one for _, one in sorted(view.meshes.items()) if one.mtls and mesh.mtls)
    seat = _Seat(mesh, gateway, proxy, resource.networking.address, logged, resource, found, sources, trusted)
    yield _limits(tuple((listener_name(gateway, one), one.connection_limit) for one in gateway.ports), sources)
    for port in gateway.ports:
        yield from _port(seat, port, source, closed)
    if trusted and any(one.cross_mesh for one in gateway.ports):
        yield from all_roots(trusted, source, gateway.sources)
    yield from gateway_clusters(found, view, proxy, sources, source)


def _port(seat: _Seat, port: PortView, source: SecretSource, closed: _Closed) -> Iterator[Encoded]:
    name = listener_name(seat.gateway, port)
    further: list[EventRef] = [*seat.said(port.listeners).sources]
    if port.protocol == "HTTP":
        routes, tuning = routes_name(seat.gateway, port, ""), seat.tuning(port, *port.listeners)
        manager = gateway_manager(routes, seat.logged, tuning, cross_mesh=port.cross_mesh)
        only = chain((manager,)) if not port.cross_mesh else _cross_mesh_chain(seat, port, manager, closed)
        yield _listener(seat, name, port, (only,), further)
    elif port.protocol == "TCP":
        yield _listener(seat, name, port, (_tcp_chain(seat, port, port.listeners, further),), further)
    else:
        chains = []
        for one in port.listeners:
            certificates = _certificates(seat, one, source)
            chains.append(_tls_chain(seat, port, one, certificates, further))
            if isinstance(certificates, Failure):
                closed[one.index] = certificates
            else:
                yield from certificates.secrets
        yield _listener(seat, name, port, tuple(chains), further)
    yield from _routes(seat, port)


def _cross_mesh_chain(seat: _Seat, port: PortView, manager: bytes, closed: _Closed) -> bytes:
    """The one chain of a port for other meshes: whoever proves to be a workload of any mesh, all hostnames (A12)."""
    match, name = for_other_meshes(), "cross-mesh"
    if seat.mesh.mtls:
        return chain((manager,), name=name, match=match, socket=cross_mesh_socket(seat.mesh.name))
    for one in port.listeners:
        closed[one.index] = Failure("NoMutualTls", NO_MTLS, f"conf.listeners[{one.index}].crossMesh")
    return chain((proxy_to(defaults.NOBODY, seat.logged, seat.tuning(port, *port.listeners)),), name=name, match=match)


def _tcp_chain(
    seat: _Seat,
    port: PortView,
    listeners: tuple[ListenerView, ...],
    cited: list[EventRef],
    *,
    name: str = "",
    match: bytes = b"",
    socket: bytes = b"",
) -> bytes:
    """The chain of listeners of TCP or TLS; what they follow from is added to `cited`."""
    to = seat.connections(*listeners)
    cited += (*to.sources, *seat.lost)
    proxied = proxy_among(to.clusters, seat.logged, seat.tuning(port, *listeners))
    lost = " ".join(f"{ref.origin}:{ref.n}" for ref in seat.lost)
    return chain((proxied,), name=name, match=match, socket=socket, lost=lost)


def _certificates(seat: _Seat, one: ListenerView, source: SecretSource) -> Shown | Failure:
    if not one.terminates:
        return Shown((), ())
    path = f"conf.listeners[{one.index}].tls.certificates"
    return one.failure or shown(one.certificates, path, seat.sources, source)


def _tls_chain(
    seat: _Seat, port: PortView, one: ListenerView, certificates: Shown | Failure, cited: list[EventRef]
) -> bytes:
    """The chain of one server name; one that cannot be served closes at once."""
    match, tuning = for_server_name(one.hostname), seat.tuning(port, one)
    cited += seat.said((one,)).sources
    if isinstance(certificates, Failure):
        return chain((proxy_to(defaults.NOBODY, seat.logged, tuning),), name=one.hostname, match=match)
    if port.protocol == "TLS":
        socket = terminating_socket(certificates.names, ()) if one.terminates else b""
        return _tcp_chain(seat, port, (one,), cited, name=one.hostname, match=match, socket=socket)
    manager = gateway_manager(routes_name(seat.gateway, port, one.hostname), seat.logged, tuning)
    socket = terminating_socket(certificates.names, defaults.ALPN_HTTP)
    return chain((manager,), name=one.hostname, match=match, socket=socket)


def _listener(seat: _Seat, name: str, port: PortView, chains: tuple[bytes, ...], further: list[EventRef]) -> Encoded:
    inspected = port.protocol in ("HTTPS", "TLS") or port.cross_mesh
    body = _listening(name, seat.address, port.port, chains, inspected=inspected)
    materials = (each.sources for one in port.listeners for each in one.certificates)
    return encode(LISTENER, name, body, joined(seat.sources, *materials, further))


@lru_cache(maxsize=1024)
def _listening(name: str, host: str, port: int, chains: tuple[bytes, ...], *, inspected: bool) -> bytes:
    inspector = pack(tls_inspector.TlsInspector())
    body = listening(
        name,
        host,
        port,
        chains,
        direction=core.TrafficDirection.INBOUND,
        # Where the server speaks first, waiting for the client's TLS would wait for ever.
        inspector=listener_filter("envoy.filters.listener.tls_inspector", inspector) if inspected else b"",
    )
    buffer = bytes(google.UInt32Value(value=defaults.GATEWAY_BUFFER_BYTES))
    return body + part(listener.Listener, "per_connection_buffer_limit_bytes", buffer)


def _routes(seat: _Seat, port: PortView) -> Iterator[Encoded]:
    if port.protocol not in ("HTTP", "HTTPS"):
        return
    made = [(one, virtual_hosts(seat.found, port, one, seat.told(one.tags))) for one in port.listeners]
    if port.protocol == "HTTP":
        hosts = [host for _, each in made for host in each.hosts]
        name, meshes = routes_name(seat.gateway, port, ""), seat.trusted if port.cross_mesh else ()
        sources = joined(seat.sources, *(each.sources for _, each in made), *(one.sources for one in meshes))
        names = tuple(one.name for one in meshes)
        yield host_routes(name, hosts, sources, secured=port.cross_mesh, meshes=names)
        return
    for one, each in made:
        name, sources = routes_name(seat.gateway, port, one.hostname), joined(seat.sources, each.sources)
        yield host_routes(name, each.hosts, sources, secured=True)


def _limits(limits: tuple[tuple[str, int], ...], sources: Sources) -> Encoded:
    """The runtime layer with the limits of listeners. It is there without any as well: Envoy waits for it to start."""
    return encode(RUNTIME, defaults.GATEWAY_RUNTIME, _layer(limits), sources)


@lru_cache(maxsize=1024)
def _layer(limits: tuple[tuple[str, int], ...]) -> bytes:
    fields = {
        f"envoy.resource_limits.listener.{name}.connection_limit": google.Value(number_value=float(limit))
        for name, limit in limits
        if limit
    }
    return bytes(runtime.Runtime(name=defaults.GATEWAY_RUNTIME, layer=google.Struct(fields=fields)))


def gateway_notes(mesh: MeshView, resource: Dataplane, closed: Map[tuple[ResourceKey, int], Failure]) -> Iterator[str]:
    """What a reader of a gateway's configuration should know: what of it is not served, and why."""
    for said in mesh.policies.passing:
        if said.top.kind != "Mesh" and selects(said.top, resource):
            events = ", ".join(map(str, said.sources))
            yield f"a MeshPassthrough selects it (event {events}): policy doesn't support builtin gateway"
    gateway = bound_gateway(mesh, resource)
    if gateway is None:
        yield f"no MeshGateway of mesh {mesh.name} selects {resource.name}: it listens nowhere"
        return
    for port in gateway.ports:
        for one in port.listeners:
            if why := closed.get((gateway.key, one.index)):
                yield f"{listener_name(gateway, port)} is closed to {one.hostname}: {why.field}: {why.message}"
