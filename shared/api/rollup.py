"""One resource over all its zones: how many say what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from shared.api.store import ServiceStatus, StatusCondition

EXPECTED = ("VipLeased", "HostnamesGenerated", "Ready")
"""What every zone has to say of every service; a zone that does not is counted as unknown."""
OF_GATEWAYS = ("Bound", "Ready")
"""The same of a MeshGateway."""
WARNINGS = frozenset({"Degraded"})
"""Conditions that are bad news when true: one zone is enough."""


class ZoneCondition(msgspec.Struct, frozen=True, rename="camel"):
    """What one zone says. `position` is the moment it was computed at, as in StatusCondition."""

    zone: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    time: str = ""
    position: str = ""


class RolledCondition(msgspec.Struct, frozen=True, rename="camel"):
    """One condition over all zones: true in `holds` of `of`. `summary` is made for people: `2/2 zones`."""

    type: str
    status: Literal["True", "False", "Unknown"]
    holds: int
    of: int
    summary: str
    zones: tuple[ZoneCondition, ...]


class ServiceRollup(msgspec.Struct, frozen=True, rename="camel"):
    """A MeshExternalService or its like over all the zones that are to serve it; `ready` is `2/2`."""

    mesh: str
    name: str
    origin: str
    ready: str
    conditions: tuple[RolledCondition, ...]


def rolled_up(
    mesh: str, name: str, origin: str, rows: Iterable[ServiceStatus], zones: Sequence[str], *, kind: str = ""
) -> ServiceRollup:
    """Roll up the rows of one resource. `zones` are those that should have one; rows of others count too."""
    by_zone = {row.zone: row for row in rows}
    expected = sorted({*zones, *by_zone})
    said = {zone: {one.type: one for one in by_zone[zone].conditions} if zone in by_zone else {} for zone in expected}
    wanted = OF_GATEWAYS if kind == "MeshGateway" else EXPECTED
    types = dict.fromkeys((*wanted, *(one for found in said.values() for one in found)))
    conditions = tuple(_rolled(one, said, wanted) for one in types)
    ready = next(one for one in conditions if one.type == "Ready")
    return ServiceRollup(mesh, name, origin, f"{ready.holds}/{ready.of}", conditions)


def _rolled(kind: str, said: Mapping[str, Mapping[str, StatusCondition]], wanted: Sequence[str]) -> RolledCondition:
    told = tuple(_of_zone(zone, found.get(kind)) for zone, found in said.items() if kind in wanted or kind in found)
    states = {one.status for one in told}
    holds, of = sum(one.status == "True" for one in told), len(told)
    if kind in WARNINGS:
        status: Literal["True", "False", "Unknown"] = "True" if holds else "False"
    else:
        status = "False" if "False" in states else "Unknown" if "Unknown" in states or not told else "True"
    return RolledCondition(kind, status, holds, of, f"{holds}/{of} zone{'s' if of != 1 else ''}", told)


def _of_zone(zone: str, one: StatusCondition | None) -> ZoneCondition:
    if one is None:
        return ZoneCondition(zone, "Unknown", "NotReported", f"zone {zone} has not said anything about it yet")
    return ZoneCondition(zone, one.status, one.reason, one.message, one.time, one.position)
