"""A sidecar's inbound listeners: mutual TLS in front of the application's own ports."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector

from shared.model.resource import Dataplane, Inbound
from zone_cp.view.zone_view import MeshView, ProxyView
from zone_cp.xds import defaults
from zone_cp.xds.chains import accepting_socket, chain, listener_filter, listening
from zone_cp.xds.filters import Logged, proxy_to
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded
from zone_cp.xds.upstream_tls import is_ip
from zone_cp.xds.wire import encode


def inbound_resources(
    mesh: MeshView, proxy: ProxyView, resource: Dataplane, inbound: Inbound, logged: Logged
) -> Iterator[Encoded]:
    """The listener of one inbound and the cluster of the application behind it.

    Nothing where the application itself holds the address, or where the address is no IP to bind.
    """
    host = inbound.address or resource.networking.address
    to_host, to_port = inbound.service_address or "127.0.0.1", inbound.service_port or inbound.port
    if (host, inbound.port) == (to_host, to_port) or not is_ip(host):
        return
    name, target = f"inbound/{host}:{inbound.port}", f"localhost:{to_port}"
    chains, inspector = _chains(mesh, target, logged)
    body = listening(name, host, inbound.port, chains, direction=core.TrafficDirection.INBOUND, inspector=inspector)
    sources = tuple(dict.fromkeys((*proxy.sources, *mesh.sources)))
    yield encode(LISTENER, name, body, sources)
    yield encode(CLUSTER, target, _application(target, to_host, to_port), sources)


def _chains(mesh: MeshView, target: str, logged: Logged) -> tuple[tuple[bytes, ...], bytes]:
    plaintext = (proxy_to(target, logged),)
    if not mesh.mtls:
        return (chain(plaintext),), b""
    # The application is dialled only once the client's certificate is verified.
    verified, socket = (proxy_to(target, logged, after_handshake=True),), accepting_socket(mesh.name, ())
    if not mesh.permissive:
        return (chain(verified, socket=socket),), b""
    encrypted = bytes(listener.FilterChainMatch(transport_protocol="tls"))
    clear = bytes(listener.FilterChainMatch(transport_protocol="raw_buffer"))
    both = (chain(verified, match=encrypted, socket=socket), chain(plaintext, match=clear))
    return both, listener_filter("envoy.filters.listener.tls_inspector", pack(tls_inspector.TlsInspector()))


@lru_cache(maxsize=1024)
def _application(name: str, host: str, port: int) -> bytes:
    where = core.Address(socket_address=core.SocketAddress(address=host, port_value=port))
    only = endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=where))
    return bytes(
        cluster.Cluster(
            name=name,
            type=cluster.ClusterDiscoveryType.STATIC,
            connect_timeout=defaults.CONNECT_TIMEOUT,
            load_assignment=endpoint.ClusterLoadAssignment(
                cluster_name=name, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[only])]
            ),
        )
    )
