"""A sidecar's inbound listeners: mutual TLS in front of the application's own ports."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector

from shared.model.inbound import SERVICE_TAG, Inbound, application, listener_host
from shared.model.resource import Dataplane, Protocol
from zone_cp.view.sources import joined
from zone_cp.view.workloads import inbound_protocol
from zone_cp.view.zone_view import MeshView, ProxyView
from zone_cp.xds import defaults
from zone_cp.xds.chains import accepting_socket, chain, listener_filter, listening
from zone_cp.xds.clusters import protocol_options
from zone_cp.xds.filters import Logged, proxy_to
from zone_cp.xds.in_mesh_routes import inbound_manager, inbound_routes
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded
from zone_cp.xds.wire import encode


def inbound_resources(
    mesh: MeshView, proxy: ProxyView, resource: Dataplane, inbound: Inbound, logged: Logged
) -> Iterator[Encoded]:
    """The listener of one inbound and the cluster of the application behind it.

    Nothing where the application itself holds the address, or where the address is no IP to bind.
    """
    host = listener_host(resource.networking.address, inbound)
    if not host:
        return
    to_host, to_port = application(inbound)
    # Ports of one application may speak differently, and two inbounds may share one: each has a cluster of its own.
    service = inbound.tags.get(SERVICE_TAG, "")
    door = _Door(
        f"inbound/{host}:{inbound.port}",
        inbound_protocol(inbound),
        "" if service == service_of(resource) else service,
    )
    chains, inspector = _chains(mesh, door, logged)
    direction = core.TrafficDirection.INBOUND
    body = listening(door.name, host, inbound.port, chains, direction=direction, inspector=inspector)
    sources = joined(proxy.sources, mesh.sources)
    yield encode(LISTENER, door.name, body, sources)
    yield encode(CLUSTER, door.name, _application(door, to_host, to_port), sources)
    if door.protocol != "tcp":
        yield inbound_routes(door.name, sources)


def service_of(resource: Dataplane) -> str:
    """Service name in the workload's SPIFFE id: the first inbound's, the gateway's, or the Dataplane's own name."""
    tagged = [one.tags for one in resource.networking.inbound]
    if resource.networking.gateway is not None:
        tagged.append(resource.networking.gateway.tags)
    return next((tags[SERVICE_TAG] for tags in tagged if SERVICE_TAG in tags), resource.name)


def further_services(resource: Dataplane) -> tuple[str, ...]:
    """The other services that a workload serves."""
    first = service_of(resource)
    served = (inbound.tags.get(SERVICE_TAG, first) for inbound in resource.networking.inbound)
    return tuple(sorted({one for one in served if one != first}))


class _Door(msgspec.Struct, frozen=True):
    # One inbound: its listener, its routes and the cluster of its application; what that speaks; the service whose
    # certificate is shown, "" for the proxy's first.
    name: str
    protocol: Protocol
    service: str

    def filters(self, logged: Logged, *, after_handshake: bool) -> tuple[bytes, ...]:
        """Those of one chain. The application is dialled only once the client's certificate is verified."""
        if self.protocol == "tcp":
            return (proxy_to(self.name, logged, after_handshake=after_handshake),)
        return (inbound_manager(self.name, logged),)


def _chains(mesh: MeshView, door: _Door, logged: Logged) -> tuple[tuple[bytes, ...], bytes]:
    plaintext = door.filters(logged, after_handshake=False)
    if not mesh.mtls:
        return (chain(plaintext),), b""
    verified, socket = door.filters(logged, after_handshake=True), accepting_socket(mesh.name, (), door.service)
    if not mesh.permissive:
        return (chain(verified, socket=socket),), b""
    # Sidecars name themselves by their protocol; other TLS is the application's own business, as in Kuma.
    ours = bytes(listener.FilterChainMatch(transport_protocol="tls", application_protocols=list(defaults.ALPN_IN_MESH)))
    other = bytes(listener.FilterChainMatch(transport_protocol="tls"))
    clear = bytes(listener.FilterChainMatch(transport_protocol="raw_buffer"))
    all_three = (
        chain(verified, match=ours, socket=socket),
        chain((proxy_to(door.name, logged),), match=other),
        chain(plaintext, match=clear),
    )
    return all_three, listener_filter("envoy.filters.listener.tls_inspector", pack(tls_inspector.TlsInspector()))


@lru_cache(maxsize=1024)
def _application(door: _Door, host: str, port: int) -> bytes:
    where = core.Address(socket_address=core.SocketAddress(address=host, port_value=port))
    only = endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=where))
    return bytes(
        cluster.Cluster(
            name=door.name,
            type=cluster.ClusterDiscoveryType.STATIC,
            connect_timeout=defaults.INBOUND_CONNECT_TIMEOUT,
            typed_extension_protocol_options=protocol_options(door.protocol),
            load_assignment=endpoint.ClusterLoadAssignment(
                cluster_name=door.name, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[only])]
            ),
        )
    )
