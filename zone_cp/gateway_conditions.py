"""Conditions of MeshGateways in a zone: whether gateways are bound to them, and which listeners are closed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.conditions import Condition, ServiceRow
from shared.events.cross_mesh_conditions import cross_mesh_conditions
from shared.events.state import ZoneState
from shared.model.builtin import is_builtin
from shared.model.gateway import MeshGateway
from shared.model.resource import Dataplane, ResourceKey
from zone_cp.view.gateways import GATEWAY_FIELDS, bound_gateway
from zone_cp.view.zone_view import DeclaredGateway, Difference, Failure, MeshView, ZoneView
from zone_cp.xds.parts import Impaired

ROW_FIELDS = GATEWAY_FIELDS | {"abroad"}
"""Fields of meshes that rows follow from."""

Closed: TypeAlias = Mapping[tuple[ResourceKey, int], Failure]
"""By MeshGateway and number of the listener: why online gateways do not serve it."""
Degraded: TypeAlias = Mapping[ResourceKey, tuple[Impaired, ...]]
"""By MeshGateway: what leads nowhere of its routes at online gateways."""


def gateway_dataplanes(state: ZoneState) -> Iterator[Dataplane]:
    """The builtin gateways that a zone's own Dataplanes are."""
    for stored in state.own.kinds.get("Dataplane", Map()).values():
        if isinstance(stored.resource, Dataplane) and is_builtin(stored.resource):
            yield stored.resource


def gateway_rows(state: ZoneState, view: ZoneView, closed: Closed) -> dict[ResourceKey, ServiceRow]:
    """The status table of the MeshGateways that a zone knows."""
    bound: dict[ResourceKey, list[str]] = {}
    failing: dict[tuple[ResourceKey, int], Failure] = {}
    for resource in gateway_dataplanes(state):
        mesh = view.meshes.get(resource.mesh)
        gateway = bound_gateway(mesh, resource) if mesh is not None else None
        if gateway is None:
            continue
        bound.setdefault(gateway.key, []).append(resource.name)
        for one in (one for port in gateway.ports for one in port.listeners):
            why = one.failure or closed.get((gateway.key, one.index))
            if why is not None:
                failing[gateway.key, one.index] = why
    return {
        key: _row(state, mesh, declared, sorted(bound.get(key, ())), _of(failing, key))
        for mesh in view.meshes.values()
        for key, declared in mesh.gateways.items()
    }


def _of(failing: Mapping[tuple[ResourceKey, int], Failure], key: ResourceKey) -> list[Failure]:
    return [why for place, why in sorted(failing.items(), key=lambda pair: pair[0]) if place[0] == key]


def _row(
    state: ZoneState, mesh: MeshView, declared: DeclaredGateway, bound: list[str], failing: list[Failure]
) -> ServiceRow:
    key, resource, at = declared.stored.key, declared.stored.resource, declared.stored.last.time
    conf = resource.conf if isinstance(resource, MeshGateway) else None
    names = (one.hostname or "*" for one in (conf.listeners if conf is not None else ()))
    abroad = cross_mesh_conditions(state, declared.stored)
    return ServiceRow(
        zone=state.zone,
        mesh=mesh.name,
        name=key.name,
        origin="zone" if key.zone else "global",
        protocol="",
        port=0,
        hostnames=tuple(dict.fromkeys(names)),
        vip="",
        conditions=(
            _bound(state.zone, bound, at, cross_mesh=bool(abroad)),
            *abroad,
            _ready(state.zone, bound, failing, at),
        ),
        kind="MeshGateway",
    )


def _bound(zone: str, bound: list[str], at: str, *, cross_mesh: bool) -> Condition:
    if not bound:
        # As between workloads: that needs a ZoneIngress, which is out of scope.
        further = ", and cross-mesh traffic does not cross zones" if cross_mesh else ""
        message = f"no gateway Dataplane of zone {zone} is bound to it{further}"
        return Condition("Bound", "False", "NoDataplane", message, at)
    return Condition("Bound", "True", "Bound", f"{len(bound)} gateway Dataplane{'s' if len(bound) != 1 else ''}", at)


def _ready(zone: str, bound: list[str], failing: list[Failure], at: str) -> Condition:
    if not bound:
        return Condition("Ready", "False", "NotBound", f"it is served nowhere in zone {zone}", at)
    if not failing:
        return Condition("Ready", "True", "Served", "", at)
    first, further = failing[0], len(failing) - 1
    more = f"; and {further} more listener{'s' if further != 1 else ''}" if further else ""
    return Condition("Ready", "False", first.reason, f"{first.field}: {first.message}{more}", at)


def _degraded(row: ServiceRow, found: tuple[Impaired, ...]) -> ServiceRow:
    """With Degraded, where something leads nowhere: what was said last, and how much else there is."""
    if not found:
        return row
    last, further = found[-1], len(found) - 1
    more = f"; and {further} more" if further else ""
    message = f"{last.message} (event {last.event}){more}"
    said = Condition("Degraded", "True", last.reason, message, last.event.time)
    return msgspec.structs.replace(row, conditions=(*row.conditions, said))


class GatewayRows:
    """Which rows of MeshGateways are to be looked at again: all of them, once anything touches one or a gateway.

    There are few of them, and which one a gateway is bound to depends on all.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._everything = True
        self._dataplanes: set[ResourceKey] = set()
        self._builtin: frozenset[str] = frozenset()
        self._closed: Closed = Map()
        self._degraded: Degraded = Map()
        self._known: set[ResourceKey] = set()

    def changed(self, difference: Difference | None) -> None:
        """The state moved; None: nobody knows what differs."""
        if difference is None or any(ROW_FIELDS & fields for fields in difference.meshes.values()):
            self._everything = True
        else:
            self._dataplanes.update(key for key in difference.resources if key.kind == "Dataplane")

    def due(
        self, state: ZoneState, view: ZoneView, closed: Closed, degraded: Degraded
    ) -> tuple[set[ResourceKey], tuple[ServiceRow, ...]]:
        """The MeshGateways whose rows may differ, and the rows of those that are there."""
        dataplanes, self._dataplanes = self._dataplanes, set()
        touched = any(self._is_gateway(state, key) for key in dataplanes)
        if not (self._everything or touched or closed != self._closed or degraded != self._degraded):
            return set(), ()
        self._everything, self._closed, self._degraded = False, closed, degraded
        self._builtin = frozenset(f"{one.mesh}/{one.name}" for one in gateway_dataplanes(state))
        made = gateway_rows(state, view, closed)
        rows = {key: _degraded(row, degraded.get(key, ())) for key, row in made.items()}
        before, self._known = self._known, set(rows)
        return before | set(rows), tuple(rows.values())

    def _is_gateway(self, state: ZoneState, key: ResourceKey) -> bool:
        stored = state.resource(key)
        now = stored is not None and isinstance(stored.resource, Dataplane) and is_builtin(stored.resource)
        return now or f"{key.mesh}/{key.name}" in self._builtin
