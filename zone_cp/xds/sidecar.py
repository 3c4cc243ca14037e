"""The sidecar: listeners that take an application's plaintext to the zone egress, or straight outside.

With transparent redirect one original-destination listener serves every external service there is and ever
will be: a service adds no resource (decision 26). Without it there is one small listener per VIP. Explicit
`backendRef` outbounds get a listener in both cases. In direct mode the same listeners choose a cluster of
the sidecar's own instead of an SNI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.listener.original_dst import v3 as original_dst
from immutables import Map
from msgspec.structs import replace

from shared.events.cross_mesh import is_abroad
from shared.model.inbound import SERVICE_TAG
from shared.model.kinds import is_legacy
from shared.model.resource import Dataplane, Outbound, ProtocolClass, ResourceKey, TransparentProxying
from shared.naming import sni, spiffe
from zone_cp.view.policies import for_proxy, particular
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ExternalServiceView, Failure, MeshView, ProxyView, ZoneView
from zone_cp.xds import denial
from zone_cp.xds.abroad import Abroad, chained, put_abroad
from zone_cp.xds.assembly import NO_PART, Part
from zone_cp.xds.backends import labelled
from zone_cp.xds.chains import by_ranges, chain, listener_filter, listening
from zone_cp.xds.clusters import service_cluster
from zone_cp.xds.connection_policies import (
    NO_VERDICTS,
    Verdicts,
    chain_tuning,
    own_tuning,
    tuned_apart,
    verdicts,
)
from zone_cp.xds.credentials import credentials
from zone_cp.xds.extended import ExtraRoutes
from zone_cp.xds.filters import Logged, Tuning, proxy_to
from zone_cp.xds.governed import Governed, dialled_by, governed
from zone_cp.xds.inbound import further_services, inbound_resources, service_of
from zone_cp.xds.log_policies import Parties, logs
from zone_cp.xds.material import Served, serve
from zone_cp.xds.outbound import outbound_resources, outside, within
from zone_cp.xds.outlet import Outlet
from zone_cp.xds.parts import OF_SOME, REST, Changed, Compiled, Draft, Reads, without
from zone_cp.xds.passthrough import (
    Undeclared,
    entry_chains,
    entry_matcher,
    inspection,
    undeclared,
    undeclared_resources,
)
from zone_cp.xds.routes import routes
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import LISTENER, Encoded
from zone_cp.xds.toward_egress import egress_clusters, share_clusters
from zone_cp.xds.ways import dialled_through_egress, through_egress
from zone_cp.xds.wire import encode

REDIRECT = "redirect"
REDIRECT_LISTENER = "outbound/redirect"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - redirected connections arrive at every local address

_CLASSES: tuple[ProtocolClass, ...] = ("http", "tcp")
_ORIGINAL = "v%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%.p%DOWNSTREAM_LOCAL_PORT%"


class _Door(msgspec.Struct, frozen=True):
    # What is particular to one explicit listener.
    protocol_class: ProtocolClass
    sni: str
    host: str
    port: int
    tuning: Tuning
    exclusive: bool


class _Seat(msgspec.Struct, frozen=True):
    # One sidecar, and what its mesh and policies say to it.
    view: ZoneView
    mesh: MeshView
    proxy: ProxyView
    resource: Dataplane
    outlet: Outlet
    legacy: Outlet
    said: Governed
    judged: Verdicts
    parties: Parties

    @property
    def redirected(self) -> bool:
        return REDIRECT in self.proxy.features

    def dials(self, key: ResourceKey) -> bool:
        """Whether the sidecar dials a service itself."""
        return not dialled_through_egress(self.mesh, key)

    def outlet_of(self, key: ResourceKey) -> Outlet:
        """What listeners that lead to a service have in common."""
        return self.legacy if is_legacy(key) else self.outlet

    def wanted(self, key: ResourceKey) -> ExternalServiceView | None:
        """A service that brings anything of its own: a cluster, or without redirect a listener."""
        return self.mesh.services.get(key) if not self.redirected or self.dials(key) else None

    @property
    def abroad(self) -> Abroad:
        """What leads to MeshGateways of other meshes."""
        logged = Logged("outbound/abroad", self.outlet.access_log, self.view.zone)
        outbounds = tuple(one for one in self.resource.networking.outbound if is_abroad(one, self.mesh.name))
        return Abroad(self.mesh, self.said.at_large, self.parties, logged, outbounds)

    @property
    def identity(self) -> str:
        return spiffe.workload_id(self.mesh.name, service_of(self.resource))


def compile_sidecar(  # noqa: PLR0917 - the inputs of a compilation
    before: Compiled | None,
    view: ZoneView,
    proxy: ProxyView,
    resource: Dataplane,
    source: SecretSource,
    access_log: str,
    changed: Changed,
) -> Compiled:
    """Everything a sidecar holds, given what it held before `changed`; nothing while its mesh is unknown."""
    draft = Draft(before, view.position)
    old, mesh = draft.meshes.get(resource.mesh), view.meshes.get(resource.mesh)
    if mesh is None:
        without(draft, resource.mesh)
        draft.meshes = Map()
        return draft.compiled()
    seat = _seat(view, mesh, proxy, resource, access_log)
    fields = changed.view.meshes.get(mesh.name, frozenset())
    anew = old is None or bool(fields - OF_SOME)
    reads = sidecar_reads(mesh, proxy, resource)
    touched = changed.view.services.get(mesh.name, ()) if reads.services is None else ()
    if not _singles_out(mesh, resource) and seat.redirected:
        touched = [key for key in touched if seat.dials(key)]
    # Where a policy sends the connections of one service to another, what it holds follows from both.
    apart = (service.key for service, _ in seat.said.particular) if touched else ()
    for key in {*draft.served(), *mesh.services} if anew else {*touched, *apart} if is_per_service(mesh, proxy) else ():
        service = seat.wanted(key)
        served = _served(seat, service, source) if service is not None and seat.dials(key) else None
        draft.serve(key, served, NO_PART if service is None else _service_part(seat, service, served))
    if anew or "abroad" in fields or changed.credentials:
        put_abroad(draft, seat.abroad, old, source, changed.credentials, anew=anew, explicit=not seat.redirected)
    called = reads.workloads is None and "workloads" in fields
    called = called or ("abroad" in fields and chained(old) != chained(mesh))
    if (
        anew
        or touched
        or called
        or changed.view.egresses
        or changed.view.vip_ranges
        or mesh.name in changed.credentials
    ):
        draft.put(REST, mesh.name, Part(shared=(*_rest(seat, source, draft.extras(mesh.name)),)))
    draft.meshes = draft.meshes.set(mesh.name, mesh)
    services = (service_of(resource), *further_services(resource)) if mesh.mtls else ()
    workloads = frozenset((mesh.name, spiffe.workload_id(mesh.name, service)) for service in services)
    return draft.compiled(workloads=workloads, reads=reads)


def is_per_service(mesh: MeshView, proxy: ProxyView) -> bool:
    """Whether each external service may bring a sidecar something of its own."""
    dials = not through_egress(mesh) or (bool(mesh.legacy) and not mesh.legacy_egress)
    return dials or REDIRECT not in proxy.features


def sidecar_reads(mesh: MeshView, proxy: ProxyView, resource: Dataplane) -> Reads:
    """What a sidecar follows from: any of either, or none."""
    services = is_per_service(mesh, proxy) or _singles_out(mesh, resource)
    return Reads(None if services else frozenset(), None if _calls_workloads(resource) else frozenset())


def _singles_out(mesh: MeshView, resource: Dataplane) -> bool:
    """Whether anything of a sidecar with one listener for all depends on single services."""
    return (
        particular(for_proxy(mesh.policies, resource))
        or any(one.backend_ref is not None for one in resource.networking.outbound)
        or (bool(mesh.legacy) and _calls_workloads(resource))
    )


def _calls_workloads(resource: Dataplane) -> bool:
    """Whether a sidecar has outbounds to what other Dataplanes serve."""
    return any(SERVICE_TAG in one.tags for one in resource.networking.outbound)


def _seat(view: ZoneView, mesh: MeshView, proxy: ProxyView, resource: Dataplane, access_log: str) -> _Seat:
    direct, service = not through_egress(mesh), service_of(resource)
    identity = spiffe.workload_id(mesh.name, service)
    outlet = Outlet(mesh.name, view.zone, access_log, direct, direct and mesh.forbid_external, mesh.lost_by(identity))
    legacy = replace(outlet, direct=not mesh.legacy_egress, forbidden=False)
    return _Seat(
        view,
        mesh,
        proxy,
        resource,
        outlet,
        legacy,
        governed(mesh, resource),
        verdicts(mesh, identity) if direct or (mesh.legacy and legacy.direct) else NO_VERDICTS,
        Parties(mesh.name, service, resource.networking.address),
    )


def _served(seat: _Seat, service: ExternalServiceView, source: SecretSource) -> Served:
    own = dialled_by(service, seat.said.about(service))
    if is_legacy(service.key) and service.protocol_class == "tcp" and seat.judged.get(service.sni) is False:
        # Doors share the chain of their class; routes deny those of HTTP.
        closed = Failure("AccessDenied", denial.verdict(service.permission, has_identity=seat.mesh.mtls))
        return Served(service_cluster(own, (), closed, seat.mesh.sources))
    return serve(own, seat.mesh.sources, seat.proxy.system_ca_path, source)


def _service_part(seat: _Seat, service: ExternalServiceView, served: Served | None) -> Part:
    """What one service adds: its cluster in direct mode, a listener without redirect."""
    own = () if served is None else (served.cluster,)
    shared = () if served is None else served.secrets
    if not seat.redirected:
        tuning = own_tuning(seat.said, seat.mesh, service, seat.judged, seat.parties)
        sources = joined(seat.mesh.sources, seat.said.sources_about(service))
        shared += (_listener(seat, service, (service.vip, service.port), tuning, sources),)
    return Part(own, shared)


def _rest(seat: _Seat, source: SecretSource, extra: Sequence[ExtraRoutes]) -> Iterator[Encoded]:
    """Everything that is not of one service alone."""
    view, mesh, outlet, said, judged = seat.view, seat.mesh, seat.outlet, seat.said, seat.judged
    proxy, networking = seat.proxy, seat.resource.networking
    if mesh.mtls:
        yield from credentials(mesh, seat.identity, source, further_services(seat.resource))
    hops = dict.fromkeys(one.hop for one in (outlet, *((seat.legacy,) if mesh.legacy else ())))
    if "mesh" in hops:
        yield from egress_clusters(mesh, view.egresses)
    if not outlet.direct:
        yield from share_clusters(mesh, said)
    for hop in hops:
        yield routes(hop, mesh, extra, at_sidecar=True, governed=said, judged=judged)
    if seat.redirected:
        redirect = networking.transparent_proxying or TransparentProxying()
        out = undeclared(mesh, seat.resource)
        yield from _redirected(seat, redirect, out)
    for outbound in networking.outbound:
        chosen = referenced(mesh, outbound, view.zone) or outside(mesh, outbound)
        if chosen is not None:
            tuning = own_tuning(said, mesh, chosen, judged, seat.parties)
            sources = joined(proxy.sources, mesh.sources, said.sources_about(chosen))
            yield _listener(seat, chosen, (outbound.address, outbound.port), tuning, sources)
    yield from outbound_resources(
        mesh,
        proxy,
        [one for one in networking.outbound if within(mesh, one)],
        said.at_large,
        parties=seat.parties,
        logged=Logged("outbound", outlet.access_log, view.zone),
    )
    for inbound in networking.inbound:
        logged = Logged(f"inbound/{inbound.port}", outlet.access_log, view.zone)
        yield from inbound_resources(mesh, proxy, seat.resource, inbound, logged)


def referenced(mesh: MeshView, outbound: Outbound, zone: str) -> ExternalServiceView | None:
    """The service that an outbound's `backendRef` means: the zone's own first, then global ones, then by name."""
    wanted = outbound.backend_ref
    if wanted is None or wanted.kind != "MeshExternalService":
        return None
    found = [
        service
        for service in mesh.services.values()
        if (service.key.name == wanted.name if wanted.name else labelled(service, wanted.labels))
        and (wanted.port is None or wanted.port == service.port)
    ]
    found.sort(key=lambda service: (service.key.zone != zone, service.key))
    return found[0] if found else None


def _redirected(seat: _Seat, redirect: TransparentProxying, out: Undeclared) -> Iterator[Encoded]:
    view, mesh, proxy, said, judged, parties = seat.view, seat.mesh, seat.proxy, seat.said, seat.judged, seat.parties
    ways = [
        _Way(one, view.vip_ranges[one], chain_tuning(said.at_large, one, parties))
        for one in _CLASSES
        if view.vip_ranges.get(one)
    ]
    ways += [
        _Way(one, view.legacy_ranges[one], chain_tuning(said.at_large, one, parties), legacy=True)
        for one in _CLASSES
        if mesh.legacy and view.legacy_ranges.get(one)
    ]
    # The longest prefix wins: a service that needs a chain of its own has one for its VIP alone.
    ways += [_Way(one, (vip,), tuning) for vip, one, tuning in tuned_apart(said, mesh, judged, parties)]
    sources = joined(proxy.sources, mesh.sources, mesh.legacy, seat.outlet.lost)
    external = Tuning(logs=logs(said.at_large.log, replace(parties, destination="external")))
    port, abroad = redirect.redirect_port_outbound, seat.abroad
    body = _redirect_listener(seat.outlet, seat.legacy, tuple(ways), port, out, external, abroad.chains())
    found = {one.sni: one for one in mesh.services.values() if one.sni in judged} if judged else {}
    found |= {one.sni: one for one, _ in said.particular}
    judged_ones = (one.judged_sources for _, one in sorted(found.items()))
    yield encode(
        LISTENER, REDIRECT_LISTENER, body, joined(sources, said.sources, out.sources, *judged_ones, abroad.sources)
    )
    yield from undeclared_resources(out, sources)


class _Way(msgspec.Struct, frozen=True):
    # One chain of the redirect listener.
    protocol_class: ProtocolClass
    networks: tuple[str, ...]
    tuning: Tuning
    legacy: bool = False


@lru_cache(maxsize=256)
def _redirect_listener(  # noqa: PLR0917 - what it is made of, as the key of a cache
    outlet: Outlet,
    legacy: Outlet,
    ways: tuple[_Way, ...],
    port: int,
    out: Undeclared,
    external: Tuning,
    abroad: tuple[tuple[str, bytes], ...],
) -> bytes:
    name = f"{_ORIGINAL}.{outlet.mesh}.{sni.CURRENT}"
    first = {way.protocol_class: way for way in reversed(ways)}
    called = {
        way: f"outbound/{way.protocol_class}" + ("" if way is first[way.protocol_class] else f"/{way.networks[0]}")
        for way in ways
    }
    chains = [
        (legacy if way.legacy else outlet).chain(
            way.protocol_class,
            name,
            way.tuning,
            called=called[way],
            # With entries of a MeshPassthrough a matcher chooses, and no chain does.
            match=b"" if out.matches else by_ranges(way.networks),
        )
        for way in ways
    ]
    chains += [
        chain((only,), name=f"abroad/{vip}", match=b"" if out.matches else by_ranges((vip,))) for vip, only in abroad
    ]
    logged = Logged(f"outbound/{out.rest}", outlet.access_log, outlet.zone)
    chains += entry_chains(out.matches, replace(logged, stat_prefix="outbound/passthrough"), external)
    vips = [*((called[way], way.networks) for way in ways), *((f"abroad/{vip}", (vip,)) for vip, _ in abroad)]
    return listening(
        REDIRECT_LISTENER,
        ANY_ADDRESS,
        port,
        chains,
        direction=core.TrafficDirection.OUTBOUND,
        inspector=listener_filter("envoy.filters.listener.original_dst", pack(original_dst.OriginalDst())),
        rest=chain((proxy_to(out.rest, logged, external),), name=out.rest),
        matcher=entry_matcher(vips, out.matches) if out.matches else b"",
    ) + inspection(out.matches)


def _listener(
    seat: _Seat, service: ExternalServiceView, bind: tuple[str, int], tuning: Tuning, sources: Sources
) -> Encoded:
    outlet = seat.outlet_of(service.key)
    judged = service.protocol_class == "http" or tuning.open is not None
    permission = service.permission.sources if service.permission is not None and judged else ()
    door = _Door(service.protocol_class, service.sni, *bind, tuning, seat.proxy.exclusive)
    lost = outlet.lost if service.protocol_class == "tcp" else ()
    return _explicit(outlet, door, joined(service.sources, sources, permission, lost))


@lru_cache(maxsize=65536)
def _explicit(outlet: Outlet, door: _Door, sources: Sources) -> Encoded:
    name = f"outbound/{door.host}:{door.port}"
    only = outlet.chain(door.protocol_class, door.sni, door.tuning)
    direction = core.TrafficDirection.OUTBOUND
    body = listening(name, door.host, door.port, (only,), direction=direction, exclusive=door.exclusive)
    return encode(LISTENER, name, body, sources)
