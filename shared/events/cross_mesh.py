"""Cross-mesh listeners of MeshGateways, as the other meshes see them: hosts, each with a VIP and a name per mesh.

A *host* is a hostname of a MeshGateway's cross-mesh listeners in one of the meshes that are not its own; the ports of
the listeners of that name are behind one VIP (`4-gateway-and-policies.md` A12). A listener without a hostname is called
`internal.<gateway>.<mesh>.mesh`. Pure; what is there of global origin follows from global's log alone.

Keys are those of MeshGateways in the client's mesh with a name that none can have: `payments/edge:api.example.com` in
mesh `web` is what `web` sees of the MeshGateway `edge` of mesh `payments`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.external_hosts import DOMAIN
from shared.events.gateways import effective_tags, listeners_of
from shared.events.state import Stored, ZoneState
from shared.model.gateway import MeshGateway
from shared.model.part import NO_LABELS, Labels
from shared.model.remembering import keep
from shared.model.resource import MESH_LABEL, Outbound, ProtocolClass, Resource, ResourceKey

KIND = "MeshGateway"
CLASS: ProtocolClass = "http"
"""What all cross-mesh listeners speak."""
REMEMBERED = 16
"""States whose hosts are kept."""


class CrossMeshListener(msgspec.Struct, frozen=True):
    """One listener. tags are those of the MeshGateway's selector, overlaid by the gateway's and by the listener's."""

    port: int
    tags: Labels


class CrossMeshHost(msgspec.Struct, frozen=True):
    """What one mesh sees of a MeshGateway of another one under one name. listeners are by port."""

    key: ResourceKey
    gateway: ResourceKey
    hostname: str
    listeners: tuple[CrossMeshListener, ...]
    created: EventRef


_NONE: Mapping[ResourceKey, CrossMeshHost] = Map()
_remembered: OrderedDict[tuple[int, ...], tuple[object, Mapping[ResourceKey, CrossMeshHost]]] = OrderedDict()
# By identity: states share the maps while no MeshGateway and no Mesh changes; the entry keeps them alive.


def cross_mesh_hosts(state: ZoneState) -> Mapping[ResourceKey, CrossMeshHost]:
    """The hosts that a zone knows, global's before its own, each in the order in which MeshGateways were created."""
    read = (state.hub.kinds.get(KIND), state.own.kinds.get(KIND), state.hub.kinds.get("Mesh"))
    if not (read[0] or read[1]) or not read[2]:
        return _NONE
    place = tuple(map(id, read))
    known = _remembered.get(place)
    if known is None:
        known = keep(_remembered, REMEMBERED, place, (read, _hosts(state)))
    return known[1]


def is_cross_mesh(gateway: Resource) -> bool:
    """Whether it is a MeshGateway with a listener for other meshes."""
    return isinstance(gateway, MeshGateway) and any(one.cross_mesh for one in listeners_of(gateway))


def is_abroad(outbound: Outbound, mesh: str) -> bool:
    """Whether an outbound by tags of a Dataplane of `mesh` leads to another mesh: its tag `kuma.io/mesh` says so."""
    return outbound.tags.get(MESH_LABEL, mesh) != mesh


def port_meant(gateway: ResourceKey, listeners: Iterable[CrossMeshListener], outbound: Outbound) -> int | None:
    """The port of a MeshGateway that an outbound by tags leads to: of the listeners that carry all of them the one of
    the outbound's own port, or else the lowest. None where none does.
    """
    wanted = [(tag, value) for tag, value in outbound.tags.items() if tag != MESH_LABEL]
    ports = [one.port for one in listeners if all(one.tags.get(tag) in (value, "*") for tag, value in wanted)]
    if gateway.mesh != outbound.tags.get(MESH_LABEL) or not ports:
        return None
    return outbound.port if outbound.port in ports else min(ports)


def internal_hostname(gateway: str, mesh: str) -> str:
    """What a cross-mesh listener without a hostname is called in other meshes."""
    return f"internal.{gateway}.{mesh}.{DOMAIN}"


def _hosts(state: ZoneState) -> Mapping[ResourceKey, CrossMeshHost]:
    meshes = sorted(key.name for key in state.hub.kinds.get("Mesh", Map()))
    found = (_gateways(log.kinds.get(KIND)) for log in (state.hub, state.own))
    return {host.key: host for gateways in found for host in _of_log(gateways, meshes)}


def _gateways(members: Mapping[ResourceKey, Stored] | None) -> list[tuple[Stored, MeshGateway]]:
    found = [(one, one.resource) for one in (members or {}).values() if isinstance(one.resource, MeshGateway)]
    return sorted(found, key=lambda pair: (pair[0].created.n, pair[0].key))


def _of_log(gateways: list[tuple[Stored, MeshGateway]], meshes: list[str]) -> Iterator[CrossMeshHost]:
    for stored, gateway in gateways:
        if stored.key.mesh not in meshes:
            continue
        found: dict[str, list[CrossMeshListener]] = {}
        # There is one selector, where a listener is for other meshes.
        selected = next((one.match for one in gateway.selectors), NO_LABELS)
        for one in listeners_of(gateway):
            hostname = one.hostname.lower().rstrip(".")
            if one.cross_mesh and not hostname.startswith("*."):
                name = internal_hostname(gateway.name, gateway.mesh) if hostname in ("", "*") else hostname
                listener = CrossMeshListener(one.port, effective_tags(selected, gateway, one))
                found.setdefault(name.lower(), []).append(listener)
        for mesh in meshes:
            for name, listeners in found.items() if mesh != stored.key.mesh else ():
                key = ResourceKey(KIND, mesh, f"{stored.key.mesh}/{stored.key.name}:{name}", stored.key.zone)
                by_port = tuple(sorted(listeners, key=lambda one: one.port))
                yield CrossMeshHost(key, stored.key, name, by_port, stored.created)
