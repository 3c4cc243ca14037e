"""The zone egress: one constant listener, a pair of chains per mesh, and a cluster per external service.

A chain is picked by the suffix of the SNI (mesh) and the application protocol (class), and lets in only
workloads that the mesh's trust bundle vouches for. The cluster's name is the chain's literal prefix plus the
SNI, so a client can name services of its own mesh and class, and nothing else (decision 25).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector

from shared.model.resource import ProtocolClass, ZoneEgress
from shared.naming import sni, spiffe
from zone_cp.view.zone_view import MeshView, ProxyView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.access import access_configs
from zone_cp.xds.chains import accepting_socket, by_server_name, chain, class_filters, listener_filter, listening
from zone_cp.xds.credentials import credentials
from zone_cp.xds.filters import Logged, Where
from zone_cp.xds.material import serve
from zone_cp.xds.routes import routes
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import LISTENER, Encoded
from zone_cp.xds.wire import encode

LISTENER_NAME = "egress"

_CLASSES: tuple[tuple[ProtocolClass, tuple[str, ...]], ...] = (
    ("http", defaults.ALPN_HTTP),
    ("tcp", defaults.ALPN_TCP),
)


def through_egress(mesh: MeshView) -> bool:
    """Whether a mesh's external traffic leaves by the zone egress (decision 2): declared, never by liveness."""
    return mesh.mtls and mesh.origination == "egress"


def egress_resources(
    view: ZoneView, proxy: ProxyView, resource: ZoneEgress, source: SecretSource, access_log: str
) -> Iterator[Encoded]:
    """Everything a zone egress holds."""
    meshes = [mesh for _, mesh in sorted(view.meshes.items()) if through_egress(mesh)]
    for mesh in meshes:
        yield from credentials(mesh, spiffe.egress_id(mesh.name), source)
        extra = []
        for service in mesh.services.values():
            served = serve(service, mesh.sources, proxy.system_ca_path, source)
            yield served.cluster
            yield from served.secrets
            extra.append(served.extra)
        yield routes("outside", mesh, extra, at_sidecar=False)
        yield from access_configs(mesh)
    if meshes:
        yield _listener(resource, view.zone, meshes, access_log, proxy)


def _listener(
    resource: ZoneEgress, zone: str, meshes: Iterable[MeshView], access_log: str, proxy: ProxyView
) -> Encoded:
    chains, sources = [], [*proxy.sources]
    for mesh in meshes:
        sources += mesh.sources
        chains += [_chain(mesh.name, one, zone, access_log) for one, _ in _CLASSES]
    where = resource.networking
    inspector = pack(tls_inspector.TlsInspector())
    body = listening(
        LISTENER_NAME,
        where.address,
        where.port,
        chains,
        direction=core.TrafficDirection.INBOUND,
        inspector=listener_filter("envoy.filters.listener.tls_inspector", inspector),
    )
    return encode(LISTENER, LISTENER_NAME, body, tuple(dict.fromkeys(sources)))


@cache
def _chain(mesh: str, protocol_class: ProtocolClass, zone: str, access_log: str) -> bytes:
    name = f"{mesh}/{protocol_class}"
    protocols = dict(_CLASSES)[protocol_class]
    versions = [sni.CURRENT] if sni.PREVIOUS is None else [sni.CURRENT, sni.PREVIOUS]
    where = Where("outside", sni.cluster_prefix(protocol_class, mesh) + "%REQUESTED_SERVER_NAME%")
    filters = class_filters(
        protocol_class,
        where,
        mesh,
        Logged(f"egress/{name}", access_log, zone),
        guarded=True,
        after_handshake=True,
    )
    match = by_server_name([f"*.{mesh}.{version}" for version in versions], protocols)
    return chain(filters, name=name, match=match, socket=accepting_socket(mesh, protocols))
