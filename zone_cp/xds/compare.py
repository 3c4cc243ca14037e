"""Compare a fleet that was made step by step with one made of the same state from nothing. For tests and debugging.

What differs is told by name and version: bodies may hold keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from immutables import Map

from zone_cp.view.names import NO_NAMES, whole
from zone_cp.view.project import dns_table
from zone_cp.view.zone_view import MeshView, ZoneView
from zone_cp.xds.fleet import Fleet, Group, first_turn
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Encoded

K = TypeVar("K")

NOTHING: Map[str, Encoded] = Map()
SHOWN_MAX = 20
"""Differences that a message names."""


class Diverged(Exception):
    """What was made step by step is not what is made from nothing."""

    def __init__(self, found: list[str]) -> None:
        """found: the differences."""
        more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
        super().__init__("; ".join(found[:SHOWN_MAX]) + more)


def divergences(fleet: Fleet, secrets: SecretSource) -> list[str]:
    """Everything in which the fleet is not what its state makes of nothing; empty when all is well."""
    expected = first_turn(fleet.state, secrets).fleet
    return [
        *_views(fleet.view, expected.view),
        *_names(fleet),
        *_groups(fleet, expected),
    ]


def _views(view: ZoneView, expected: ZoneView) -> Iterator[str]:
    for field in ("zone", "position", "egresses", "vip_ranges", "legacy_ranges", "on_demand_above", "expiries"):
        if getattr(view, field) != getattr(expected, field):
            yield f"view: {field} differs"
    for name in sorted({*view.meshes, *expected.meshes}):
        one, other = view.meshes.get(name), expected.meshes.get(name)
        if one is None or other is None:
            yield f"view: mesh {name} is {'missing' if one is None else 'too much'}"
            continue
        for field in MeshView.__struct_fields__:
            if field != "services" and getattr(one, field) != getattr(other, field):
                yield f"view: {field} of mesh {name} differs"
        for key in _differing(one.services, other.services):
            yield f"view: {key} differs"


def _names(fleet: Fleet) -> Iterator[str]:
    for mesh in fleet.view.meshes:
        names, expected = fleet.names.get(mesh, NO_NAMES), whole(dns_table(fleet.view, mesh))
        for name in _differing(names.table, expected.table):
            yield f"names of {mesh}: {name} is {names.table.get(name)}, not {expected.table.get(name)}"
        if names.version != expected.version:
            yield f"names of {mesh}: version {names.version}, not {expected.version}"
    for mesh in fleet.names:
        if mesh not in fleet.view.meshes:
            yield f"names of {mesh}, which is no mesh"


def _groups(fleet: Fleet, expected: Fleet) -> Iterator[str]:
    for proxy in _differing(fleet.situations, expected.situations):
        yield f"{proxy} is in another situation"
    for situation in {*fleet.groups, *expected.groups}:
        one, other = fleet.groups.get(situation), expected.groups.get(situation)
        if one is not None and other is not None and one.members == other.members:
            yield from _compiled(min(one.members), one, other)
        elif (only := one or other) is not None:
            yield f"the group of {', '.join(sorted(only.members))} differs"


def _compiled(who: str, group: Group, expected: Group) -> Iterator[str]:
    one, other = group.compiled, expected.compiled
    if one is None or other is None:
        if one is not other:
            yield f"{who}: cannot be compiled {'step by step' if one is None else 'from nothing'}"
        return
    for field in ("failures", "extras", "workloads", "reads", "closed", "impaired"):
        if getattr(one, field) != getattr(other, field):
            yield f"{who}: {field} differ"
    if one.assembly.snapshot.on_demand != other.assembly.snapshot.on_demand:
        yield f"{who}: what is loaded on demand differs"
    made, wanted = one.assembly.snapshot.resources, other.assembly.snapshot.resources
    for type_url in sorted({*made, *wanted}):
        held, due = made.get(type_url, NOTHING), wanted.get(type_url, NOTHING)
        for name in _differing(held, due):
            yield f"{who}: {type_url} {name} is {_told(held.get(name))}, not {_told(due.get(name))}"


def _told(one: Encoded | None) -> str:
    return "missing" if one is None else f"{one.version} of {', '.join(map(str, one.sources))}"


def _differing(one: Mapping[K, object], other: Mapping[K, object]) -> Iterator[K]:
    for key in {*one, *other}:
        if one.get(key) != other.get(key):
            yield key
