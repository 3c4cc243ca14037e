"""Conditions of proxies: what there is to say of a Dataplane or a ZoneEgress in its zone. Pure; follows from the logs.

A zone knows its own Dataplanes only. Global, which knows all, can tell a service that no zone serves from one that is
served elsewhere: in-mesh traffic does not cross zones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import msgspec
from immutables import Map

from shared.events.conditions import Condition
from shared.events.cross_mesh import is_abroad
from shared.events.cross_mesh_conditions import unmet_outbounds
from shared.events.gateways import bound_to
from shared.events.in_mesh import nobody_serves
from shared.events.state import LogState, ProxyStatus, Stored, ZoneState
from shared.model.builtin import is_builtin
from shared.model.external_service import ExternalService
from shared.model.inbound import SERVICE_TAG
from shared.model.resource import Dataplane, ResourceKey

KINDS = ("Dataplane", "ZoneEgress")
NOBODY: Mapping[str, Collection[tuple[str, str]]] = Map()


class ProxyConditionsRow(msgspec.Struct, frozen=True):
    """One proxy's resource in its zone, connected or not."""

    zone: str
    kind: str
    mesh: str
    name: str
    conditions: tuple[Condition, ...]


def served_in(own: LogState) -> frozenset[tuple[str, str]]:
    """The services (mesh, `kuma.io/service`) that a zone's Dataplanes declare."""
    return frozenset(
        (key.mesh, inbound.tags[SERVICE_TAG])
        for key, one in own.kinds.get("Dataplane", Map()).items()
        if isinstance(one.resource, Dataplane)
        for inbound in one.resource.networking.inbound
        if SERVICE_TAG in inbound.tags
    )


def proxy_condition_rows(
    hub: LogState, own: LogState, zone: str, *, elsewhere: Mapping[str, Collection[tuple[str, str]]] = NOBODY
) -> Iterator[ProxyConditionsRow]:
    """The rows of a zone, by kind, mesh and name. elsewhere: by zone, what is served there, where that is known."""
    statuses = {status.key: status for _, status in sorted(own.proxies.items())}
    outside = frozenset(
        (key.mesh, one.resource.service)
        for key, one in hub.kinds.get("ExternalService", Map()).items()
        if isinstance(one.resource, ExternalService)
    )
    served, state = served_in(own) | outside, ZoneState(zone, hub, own)
    for kind in KINDS:
        for key, stored in sorted(own.kinds.get(kind, Map()).items()):
            said = (
                *_connected(statuses.get(key)),
                *_bound(state, stored),
                *_outbounds(state, stored, served, elsewhere),
                *_held(own, key),
            )
            yield ProxyConditionsRow(zone, kind, key.mesh, key.name, said)


def _connected(status: ProxyStatus | None) -> Iterator[Condition]:
    if status is None:
        yield Condition("Connected", "False", "NeverConnected", "its proxy has not connected yet", "")
    elif status.online:
        yield Condition("Connected", "True", "Connected", "", "")
    else:
        yield Condition("Connected", "False", "Disconnected", "its proxy is not connected", "")


def _bound(state: ZoneState, stored: Stored) -> Iterator[Condition]:
    """Bound, of a builtin gateway: to which MeshGateway."""
    if not isinstance(stored.resource, Dataplane) or not is_builtin(stored.resource):
        return
    gateway = bound_to(state, stored.resource)
    if gateway is None:
        told = f"no MeshGateway of mesh {stored.key.mesh} selects its tags: it listens nowhere"
        yield Condition("Bound", "False", "NoGatewayMatched", told, "")
    else:
        origin = f"zone {gateway.key.zone}" if gateway.key.zone else "global"
        yield Condition("Bound", "True", "Bound", f"MeshGateway {gateway.key.name} of {origin}", "")


def _outbounds(
    state: ZoneState,
    stored: Stored,
    served: Collection[tuple[str, str]],
    elsewhere: Mapping[str, Collection[tuple[str, str]]],
) -> Iterator[Condition]:
    """OutboundsServed, where outbounds name services by tags."""
    resource, zone = stored.resource, state.zone
    if not isinstance(resource, Dataplane):
        return
    all_tagged = [one for one in resource.networking.outbound if SERVICE_TAG in one.tags]
    tagged = [(one, one.tags[SERVICE_TAG]) for one in all_tagged if not is_abroad(one, resource.mesh)]
    missing = [(one, name) for one, name in tagged if (resource.mesh, name) not in served]
    abroad = list(unmet_outbounds(state, resource))
    if not missing and not abroad:
        if all_tagged:
            yield Condition("OutboundsServed", "True", "Served", "", "")
        return
    reason, said = "NoInstances" if missing else "NoCrossMeshListener", abroad
    for one, name in missing:
        asked = (resource.mesh, name)
        zones = [other for other, found in sorted(elsewhere.items()) if other != zone and asked in found]
        if zones:
            reason = "CrossZoneUnsupported"
        there = f" (zone {', '.join(zones)} serves it)" if zones else ""
        said.append(f"outbound {one.address}:{one.port}: {nobody_serves(name, zone)}{there}")
    yield Condition("OutboundsServed", "False", reason, "; ".join(said), "")


def _held(own: LogState, key: ResourceKey) -> Iterator[Condition]:
    """Held, while a push waits for an operator."""
    for proxy, hold in sorted(own.holds.items()):
        status = own.proxies.get(proxy)
        if not hold.released and status is not None and status.key == key:
            told = f"it keeps what it has: the next push {hold.reason}; `zonal release {proxy}` lets it go"
            yield Condition("Held", "True", "ShrinkGuard", told, "")
