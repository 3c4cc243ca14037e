"""The zone egress: one listener with constant chains per mesh, and a cluster per external service.

A chain is picked by the SNI (mesh) and the application protocol (class), see `server_names`, and lets in only
workloads that the mesh's trust bundle vouches for. The cluster's name is the chain's literal prefix plus the
SNI, so a client can name services of its own mesh and class, and nothing else (decision 25).

With many services the clusters are loaded when they are first used (`on_demand`), else they are all held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector
from immutables import Map

from shared.model.resource import ProtocolClass, ResourceKey, ZoneEgress
from shared.naming import sni, spiffe
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView, ProxyView, ZoneView
from zone_cp.xds.access import access_configs, permitted
from zone_cp.xds.assembly import NO_PART, Part
from zone_cp.xds.chains import accepting_socket, chain, class_filters, listener_filter, listening
from zone_cp.xds.credentials import credentials
from zone_cp.xds.filters import Logged, Where
from zone_cp.xds.guarded_tcp import guarded_tcp
from zone_cp.xds.material import brings_a_cluster, outlined, serve
from zone_cp.xds.parts import ACCESS, CREDENTIALS, READS_SERVICES, REST, ROUTES, Changed, Compiled, Draft, without
from zone_cp.xds.routes import routes
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.server_names import CLASSES, USES, Known, Names, Use, chain_name, matcher
from zone_cp.xds.shape import pack
from zone_cp.xds.snapshot import LISTENER, Encoded
from zone_cp.xds.ways import at_egress, dialled_through_egress, through_egress
from zone_cp.xds.wire import encode

LISTENER_NAME = "egress"


def on_demand(view: ZoneView) -> bool:
    """Whether zone egresses load a cluster when it is first used: there are more services than they are to hold.

    A limit of 0 means always, also while there is no service: the last one that goes leaves a tombstone like any other.
    """
    through = (mesh for mesh in view.meshes.values() if at_egress(mesh))
    return not view.on_demand_above or sum(_count(mesh) for mesh in through) > view.on_demand_above


def _count(mesh: MeshView) -> int:
    """The services of a mesh that leave through the egress: of these follows how it is told of them."""
    if through_egress(mesh) and (not mesh.legacy or mesh.legacy_egress):
        return len(mesh.services)
    return sum(dialled_through_egress(mesh, key) for key in mesh.services)


READ_OF_MESH = frozenset({"mtls", "origination", "forbid_external", "legacy_egress", "sources"})
"""Fields of a mesh, beside its services, that anything at an egress follows from."""


def compile_egress(  # noqa: PLR0917 - the inputs of a compilation
    before: Compiled | None,
    view: ZoneView,
    proxy: ProxyView,
    resource: ZoneEgress,
    source: SecretSource,
    access_log: str,
    changed: Changed,
) -> Compiled:
    """Everything a zone egress holds, given what it held before `changed`."""
    draft = Draft(before, view.position)
    touched = {*changed.view.meshes, *changed.view.services, *changed.credentials}
    prefix = f"{sni.CLUSTER_PREFIX}/" if on_demand(view) else ""
    listener = before is None or prefix != draft.on_demand or (bool(prefix) and _renamed(draft.meshes, view, changed))
    draft.on_demand = prefix
    for name in sorted(touched):
        old, new = draft.meshes.get(name), view.meshes.get(name)
        if new is None or not at_egress(new):
            if old is not None:
                without(draft, name)
                draft.meshes, listener = draft.meshes.delete(name), True
            continue
        anew = old is None or bool(changed.view.meshes.get(name, frozenset()) & READ_OF_MESH)
        _mesh_parts(draft, old, new, changed, proxy.system_ca_path, source, anew=anew)
        draft.meshes, listener = draft.meshes.set(name, new), listener or anew
    if listener:
        meshes = [mesh for _, mesh in sorted(draft.meshes.items())]
        made: tuple[Encoded, ...] = ()
        if meshes:
            outer = _listener(resource, view, meshes, access_log, proxy)
            made = (outer, *guarded_tcp(view.zone, access_log, outer.sources))
        draft.put(REST, "", Part(own=made))
    workloads = frozenset((name, spiffe.egress_id(name)) for name in draft.meshes)
    return draft.compiled(workloads=workloads, reads=READS_SERVICES)


def _renamed(meshes: Map[str, MeshView], view: ZoneView, changed: Changed) -> bool:
    """Whether the server names of services differ, which the listener lists where clusters are loaded on demand."""

    def named(mesh: MeshView | None, keys: Collection[ResourceKey]) -> set[tuple[str, str]]:
        found = [mesh.services.get(key) for key in keys] if mesh is not None else []
        return {(one.protocol_class, one.sni) for one in found if one is not None}

    touched = changed.view.services.items()
    return any(named(meshes.get(name), keys) != named(view.meshes.get(name), keys) for name, keys in touched)


def _mesh_parts(  # noqa: PLR0917 - as above
    draft: Draft,
    old: MeshView | None,
    new: MeshView,
    changed: Changed,
    system_ca_path: str,
    source: SecretSource,
    *,
    anew: bool,
) -> None:
    known: Map[ResourceKey, ExternalServiceView] = old.services if old is not None else Map()
    keys = {*known, *new.services} if anew else changed.view.services.get(new.name, ())
    guarded, only = anew, None if changed.only is None else changed.only.get(new.name, ())
    for key in keys:
        service, was = new.services.get(key), known.get(key)
        guarded = guarded or any(one is not None and permitted(new, one) is not None for one in (service, was))
        if service is None or not dialled_through_egress(new, key):
            draft.serve(key, None, NO_PART)
        elif only is not None and key not in only and brings_a_cluster(service):
            draft.serve(key, None, Part((outlined(service),)))
        else:
            served = serve(service, new.sources, system_ca_path, source)
            draft.serve(key, served, Part((served.cluster,), served.secrets))
    if anew or new.name in changed.credentials:
        draft.put(CREDENTIALS, new.name, Part(own=(*credentials(new, spiffe.egress_id(new.name), source),)))
    if draft.rerouted() or anew:
        draft.put(ROUTES, new.name, Part(own=(routes("outside", new, draft.extras(new.name), at_sidecar=False),)))
    if guarded:
        draft.put(ACCESS, new.name, Part(own=(*access_configs(new),)))


def _listener(
    resource: ZoneEgress, view: ZoneView, meshes: Iterable[MeshView], access_log: str, proxy: ProxyView
) -> Encoded:
    chains: list[bytes] = []
    for mesh in meshes:
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
    return encode(LISTENER, LISTENER_NAME, body, joined(proxy.sources, *(mesh.sources for mesh in meshes)))


def _known(meshes: Iterable[MeshView], *, listed: bool) -> Known:
    if not listed:
        return tuple((mesh.name, (), ()) for mesh in meshes)
    return tuple((mesh.name, _names(mesh, "http"), _names(mesh, "tcp")) for mesh in meshes)


def _names(mesh: MeshView, protocol_class: ProtocolClass) -> Names:
    found = (
        one
        for one in mesh.services.values()
        if one.protocol_class == protocol_class and dialled_through_egress(mesh, one.key)
    )
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
