"""The zone egress: one listener with constant chains per mesh, and a cluster per external service.

A chain is picked by the SNI (mesh) and the application protocol (class), see `server_names`, and lets in only
workloads that the mesh's trust bundle vouches for. The cluster's name is the chain's literal prefix plus the
SNI, so a client can name services of its own mesh and class, and nothing else (decision 25).

With many services the clusters are loaded when they are first used (`on_demand`), else they are all held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector

from shared.model.resource import ProtocolClass, ZoneEgress
from shared.naming import sni, spiffe
from zone_cp.view.zone_view import MeshView, ProxyView, ZoneView
from zone_cp.xds.access import access_configs
from zone_cp.xds.chains import accepting_socket, chain, class_filters, listener_filter, listening
from zone_cp.xds.credentials import credentials
from zone_cp.xds.filters import Logged, Where
from zone_cp.xds.material import serve
from zone_cp.xds.routes import routes
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.server_names import CLASSES, USES, Known, Names, Use, chain_name, matcher
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import LISTENER, Encoded
from zone_cp.xds.wire import encode

LISTENER_NAME = "egress"


def through_egress(mesh: MeshView) -> bool:
    """Whether a mesh's external traffic leaves by the zone egress (decision 2): declared, never by liveness."""
    return mesh.mtls and mesh.origination == "egress"


def on_demand(view: ZoneView) -> bool:
    """Whether zone egresses load a cluster when it is first used: there are more services than they are to hold."""
    through = (mesh for mesh in view.meshes.values() if through_egress(mesh))
    return sum(len(mesh.services) for mesh in through) > view.on_demand_above


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
        yield _listener(resource, view, meshes, access_log, proxy)


def _listener(
    resource: ZoneEgress, view: ZoneView, meshes: Iterable[MeshView], access_log: str, proxy: ProxyView
) -> Encoded:
    chains, sources = [], [*proxy.sources]
    for mesh in meshes:
        sources += mesh.sources
        chains += [_chain(mesh.name, one, use, view.zone, access_log) for one, uses in USES.items() for use in uses]
    where, lazy = resource.networking, on_demand(view)
    inspector = pack(tls_inspector.TlsInspector())
    body = listening(
        LISTENER_NAME,
        where.address,
        where.port,
        chains,
        direction=core.TrafficDirection.INBOUND,
        inspector=listener_filter("envoy.filters.listener.tls_inspector", inspector),
        matcher=matcher(_known(meshes, listed=lazy), on_demand=lazy),
    )
    return encode(LISTENER, LISTENER_NAME, body, tuple(dict.fromkeys(sources)))


def _known(meshes: Iterable[MeshView], *, listed: bool) -> Known:
    if not listed:
        return tuple((mesh.name, (), ()) for mesh in meshes)
    return tuple((mesh.name, _names(mesh, "http"), _names(mesh, "tcp")) for mesh in meshes)


def _names(mesh: MeshView, protocol_class: ProtocolClass) -> Names:
    found = (one for one in mesh.services.values() if one.protocol_class == protocol_class)
    return tuple(sorted(name for one in found for name in sni.accepted_snis(one.vip, one.port, mesh.name)))


@cache
def _chain(mesh: str, protocol_class: ProtocolClass, use: Use, zone: str, access_log: str) -> bytes:
    name, protocols = chain_name(mesh, protocol_class, use), CLASSES[protocol_class]
    where = Where("outside", sni.cluster_prefix(protocol_class, mesh) + "%REQUESTED_SERVER_NAME%")
    filters = class_filters(
        protocol_class,
        where,
        mesh,
        Logged(f"egress/{name}", access_log, zone),
        guarded=True,
        after_handshake=True,
        use=use,
    )
    return chain(filters, name=name, socket=accepting_socket(mesh, protocols))
