"""Assembly: a snapshot put together from parts, so that the next one costs what changed of the parts.

A part is what one thing (a service, the credentials of a mesh, …) brings along. Most names are brought by one part
only. Names that several parts may bring (`shared`: a Secret that two services read, an address that two outbounds
bind) remember who brings them; the first part wins, and of Secrets, which are equal, the causes are united.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.fold import drop, put
from shared.events.state import Position
from zone_cp.view.sources import Sources
from zone_cp.xds.snapshot import PUSH_ORDER, SECRET, Encoded, Snapshot, following

PartKey: TypeAlias = tuple[int, str, str, str]
"""Rank, mesh, name, origin zone: parts are in this order where it matters who comes first."""


class Part(msgspec.Struct, frozen=True):
    """What one thing brings: names of its own, and names that others may bring as well."""

    own: tuple[Encoded, ...] = ()
    shared: tuple[Encoded, ...] = ()


NO_PART = Part()


class Assembly(msgspec.Struct, frozen=True):
    """A snapshot with its parts, and by (type URL, name) the parts that bring a shared one."""

    snapshot: Snapshot
    parts: Map[PartKey, Part] = Map()
    holders: Map[tuple[str, str], Map[PartKey, Encoded]] = Map()


def empty(position: Position) -> Assembly:
    """Nothing, of every type that is served."""
    return Assembly(Snapshot(position, Map({type_url: Map() for type_url in PUSH_ORDER})))


def assembled(before: Assembly, position: Position, changed: Mapping[PartKey, Part], on_demand: str = "") -> Assembly:
    """`before` with some parts replaced (NO_PART: taken out). The same snapshot where nothing comes out different."""
    parts, holders = before.parts.mutate(), before.holders
    changes: dict[str, dict[str, Encoded | None]] = {}
    contested: dict[tuple[str, str], None] = {}
    # All that goes, goes first: a name may pass from one part to another.
    for key in changed:
        old = before.parts.get(key, NO_PART)
        for one in old.own:
            changes.setdefault(one.type_url, {})[one.name] = None
        for one in old.shared:
            holders = drop(holders, (one.type_url, one.name), key)
            contested[one.type_url, one.name] = None
    for key, new in changed.items():
        for one in new.own:
            changes.setdefault(one.type_url, {})[one.name] = one
        for one in _first_of_each(new.shared):
            holders = put(holders, (one.type_url, one.name), key, one)
            contested[one.type_url, one.name] = None
        if new == NO_PART:
            parts.pop(key, None)
        else:
            parts[key] = new
    for type_url, name in contested:
        changes.setdefault(type_url, {})[name] = _winner(holders.get((type_url, name)))
    snapshot = following(before.snapshot, position, changes)
    if snapshot.on_demand != on_demand:
        snapshot = msgspec.structs.replace(snapshot, position=position, on_demand=on_demand)
    return Assembly(snapshot, parts.finish(), holders)


def _first_of_each(shared: Iterable[Encoded]) -> Iterable[Encoded]:
    found: dict[tuple[str, str], Encoded] = {}
    for one in shared:
        known = found.setdefault((one.type_url, one.name), one)
        if known is not one and one.type_url == SECRET:
            found[one.type_url, one.name] = _cited(known, [*known.sources, *one.sources])
    return found.values()


def _winner(held: Map[PartKey, Encoded] | None) -> Encoded | None:
    if held is None:
        return None
    first = held[min(held)]
    if first.type_url != SECRET or len(held) == 1:
        return first
    return _cited(first, [source for one in held.values() for source in one.sources])


def _cited(one: Encoded, sources: Sources | list[EventRef]) -> Encoded:
    ordered = tuple(sorted(set(sources), key=lambda source: (source.origin, source.n)))
    return Encoded(one.name, one.type_url, one.version, one.body, one.field, ordered)
