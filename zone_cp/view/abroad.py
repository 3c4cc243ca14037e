"""What meshes see of each other's MeshGateways: cross-mesh listeners and who stands behind them. Pure (A12).

A host of such listeners (`shared/events/cross_mesh.py`) is looked at again when its lease or name moves, when one of
the two meshes or a MeshGateway of the other one is written, and when a builtin gateway of the other one comes or goes:
nothing else touches it, and it touches nothing but the sidecars of its mesh.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec
from immutables import Map

from shared.events.cross_mesh import CrossMeshHost, cross_mesh_hosts
from shared.events.gateways import best_gateway
from shared.events.state import Stored, ZoneState
from shared.model.addresses import is_ip
from shared.model.builtin import is_builtin
from shared.model.gateway import MeshGateway
from shared.model.inbound import SERVICE_TAG
from shared.model.resource import ResourceKey
from zone_cp.view.sources import joined
from zone_cp.view.touched import Touched
from zone_cp.view.workloads import Instance, declared, workloads_next
from zone_cp.view.zone_view import AbroadView, Failure, MeshView

NO_MTLS = "mTLS must be enabled for crossMesh-enabled MeshGateways"


def with_dataplanes(state: ZoneState, mesh: MeshView, names: Collection[str]) -> MeshView:
    """The mesh with these Dataplanes as they are now; the same object where they serve what they served."""
    workloads = workloads_next(mesh.workloads, state, mesh.name, names)
    fronts = _fronts(mesh.fronts, state, mesh.name, names)
    if workloads is mesh.workloads and fronts is mesh.fronts:
        return mesh
    return msgspec.structs.replace(mesh, workloads=workloads, fronts=fronts)


def _fronts(before: Map[str, Instance], state: ZoneState, mesh: str, names: Iterable[str]) -> Map[str, Instance]:
    for name in names:
        one = _front(state, mesh, name)
        if one is None:
            before = before.delete(name) if name in before else before
        elif before.get(name) != one:
            before = before.set(name, one)
    return before


def _front(state: ZoneState, mesh: str, name: str) -> Instance | None:
    known = declared(state, mesh, name)
    if known is None or not is_builtin(known.resource):
        return None
    address, gateway = known.resource.networking.address, known.resource.networking.gateway
    return Instance(
        dataplane=name,
        address=address,
        port=0,
        zone=state.zone,
        tags=gateway.tags if gateway is not None else Map(),
        protocol="http",
        guarded=True,
        idle=known.idle if is_ip(address) else f"its address {address} is no IP",
        sources=known.sources,
    )


def with_abroad(
    state: ZoneState, meshes: Map[str, MeshView], touched: Touched, moved: Iterable[str]
) -> dict[str, MeshView]:
    """The meshes that see something else of others' MeshGateways now. moved: meshes whose builtin gateways moved."""
    behind = {*touched.meshes, *moved, *(key.mesh for key in touched.gateways if key.kind == "MeshGateway")}
    if not behind and not touched.abroad:
        return {}
    hosts = cross_mesh_hosts(state)
    found: dict[str, MeshView] = {}
    for key in sorted(_concerned(hosts, meshes, touched, behind)):
        mesh = found.get(key.mesh) or meshes.get(key.mesh)
        if mesh is None:
            continue
        before, after = mesh.abroad.get(key), _abroad(state, meshes, hosts[key]) if key in hosts else None
        if before != after:
            abroad = mesh.abroad.delete(key) if after is None else mesh.abroad.set(key, after)
            found[key.mesh] = msgspec.structs.replace(mesh, abroad=abroad)
    return found


def _concerned(
    hosts: Mapping[ResourceKey, CrossMeshHost], meshes: Map[str, MeshView], touched: Touched, behind: set[str]
) -> set[ResourceKey]:
    seen = {key: host.gateway for key, host in hosts.items()}
    for mesh in meshes.values() if behind else ():
        seen |= {key: one.gateway for key, one in mesh.abroad.items()}
    return touched.abroad | {
        key for key, gateway in seen.items() if key.mesh in touched.meshes or gateway.mesh in behind
    }


def _abroad(state: ZoneState, meshes: Map[str, MeshView], host: CrossMeshHost) -> AbroadView | None:
    """None while it has no VIP, or one of the meshes is not there."""
    lease, mesh, other = state.own.leases.get(host.key), meshes.get(host.key.mesh), meshes.get(host.gateway.mesh)
    gateway = other.gateways.get(host.gateway) if other is not None else None
    if lease is None or mesh is None or other is None or gateway is None:
        return None
    names = state.own.names.get(host.key, Map())
    fronts = bound_fronts(other, host.gateway)
    own = (gateway.stored.last, lease.event, *(names[name].event for name in sorted(names)))
    return AbroadView(
        key=host.key,
        gateway=host.gateway,
        vip=lease.ip,
        hostnames=tuple(sorted(names)),
        listeners=host.listeners,
        services=_services(gateway.stored, fronts),
        fronts=fronts,
        failure=_failure(mesh, other),
        sources=joined((), own, mesh.sources, other.sources),
    )


def bound_fronts(mesh: MeshView, gateway: ResourceKey) -> tuple[Instance, ...]:
    """The builtin gateways of a mesh in this zone that are bound to a MeshGateway, by name."""
    gateways = [one.stored for one in mesh.gateways.values()]
    found = ((one, best_gateway(gateways, one.tags)) for _, one in sorted(mesh.fronts.items()))
    return tuple(one for one, best in found if best is not None and best.key == gateway)


def _services(gateway: Stored, fronts: Iterable[Instance]) -> tuple[str, ...]:
    # What selectors say outright does not depend on who is there.
    selectors = gateway.resource.selectors if isinstance(gateway.resource, MeshGateway) else ()
    said = {one.match.get(SERVICE_TAG, "*") for one in selectors}
    return tuple(sorted(said if "*" not in said else {one.tags.get(SERVICE_TAG, "") for one in fronts}))


def _failure(mesh: MeshView, other: MeshView) -> Failure | None:
    if not other.mtls:
        return Failure("NoMutualTls", f"mesh {other.name} has none: {NO_MTLS}")
    if not mesh.mtls:
        said = f"mesh {mesh.name} has no mTLS: its workloads cannot prove to a MeshGateway of {other.name} who they are"
        return Failure("NoMutualTls", said)
    return None
