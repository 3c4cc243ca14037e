"""What differs between two moments of a zone: its view, and what every proxy holds. Pure.

Proxies in equal situation are compared once, and only those that something between the moments concerns are compiled
(`fleet.turn_between`). Bodies are decoded where they differ, up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from immutables import Map

from shared.events.fault import moment
from shared.events.history import History
from shared.events.state import Position, ZoneState
from shared.history.between import Group, ZoneDifference, alike, flipped
from shared.history.difference import ResourceChange, fields_between
from zone_cp.ads.delivery import NOTHING
from zone_cp.replay import RedactedSecrets, snapshot_at
from zone_cp.view.project import first_step, next_step
from zone_cp.view.tree import tree_of
from zone_cp.xds.fleet import Fleet, turn_between
from zone_cp.xds.fleet import Group as FleetGroup
from zone_cp.xds.inspect import plain_resource, short_type
from zone_cp.xds.snapshot import Encoded, Snapshot

_NO_TYPES: Map[str, Map[str, Encoded]] = Map()

DECODED_MAX = 400
"""Resources of one answer whose fields are compared; of others it is told that they changed."""
DECODED_OF_ONE_MAX = 4000
"""The same, of an answer about one proxy: each takes some 4 ms."""

Pair: TypeAlias = tuple[Snapshot | None, Snapshot | None]
Moved: TypeAlias = tuple[str, str, str, str]
"""Type URL and name of a resource, its version before and after ("": not there)."""
Tree: TypeAlias = dict[str, dict[str, Any]]


def views_between(before: ZoneState, after: ZoneState) -> tuple[Tree, Tree]:
    """What may differ of two views, as `view.tree` shows them."""
    if _is_later(before, after):
        new, old = views_between(after, before)
        return old, new
    old_view, _ = first_step(before)
    new_view, difference = next_step(old_view, before, after)
    return tree_of(old_view, difference), tree_of(new_view, difference)


def proxies_between(history: History, zone: str, before: Position, after: Position) -> ZoneDifference:
    """What every proxy held at two moments, where it differs. Proxies that were online at one of them came or left."""
    states = history.states(zone, before, after)
    if _is_later(*states):
        return flipped(proxies_between(history, zone, after, before))
    old, new = fleets_between(*states)
    pairs = pairs_of(old, new)
    for proxy in _set_apart(*states, old, new):
        pairs[proxy] = (_held(history, zone, before, proxy), _held(history, zone, after, proxy))
    return difference_of(*states, old, new, pairs)


def proxy_between(history: History, zone: str, before: Position, after: Position, proxy: str) -> tuple[Group, ...]:
    """What differs of what one proxy held at two moments. Raises NoSuchMoment when it was unknown at one of them."""
    pair = _held(history, zone, before, proxy), _held(history, zone, after, proxy)
    return groups_of({proxy: pair}, decoded_max=DECODED_OF_ONE_MAX)


def fleets_between(before: ZoneState, after: ZoneState) -> tuple[Fleet, Fleet]:
    """The fleets of two states as far as they differ."""
    fleet, turn = turn_between(before, after, RedactedSecrets())
    return fleet, turn.fleet


def states_between(before: ZoneState, after: ZoneState) -> ZoneDifference:
    """What every proxy should hold in two states, where it differs."""
    old, new = fleets_between(before, after)
    return difference_of(before, after, old, new, pairs_of(old, new))


def difference_of(
    before: ZoneState, after: ZoneState, old: Fleet, new: Fleet, pairs: Mapping[str, Pair]
) -> ZoneDifference:
    """The difference that `pairs` of snapshots make, by proxy."""
    both = set(old.situations) & set(new.situations)
    return ZoneDifference(
        zone=before.zone,
        before=str(before.position),
        after=str(after.position),
        groups=groups_of({proxy: pair for proxy, pair in pairs.items() if proxy in both}),
        proxies=len(both),
        came=tuple(sorted(set(new.situations) - both)),
        left=tuple(sorted(set(old.situations) - both)),
        faults={proxy: group.fault for group in new.groups.values() if group.fault for proxy in sorted(group.members)},
    )


def _is_later(one: ZoneState, other: ZoneState) -> bool:
    # What time does to a view is known forwards only.
    return moment(one) > moment(other)


def pairs_of(old: Fleet, new: Fleet) -> dict[str, Pair]:
    """Proxies that were online at both moments and do not hold the very same."""
    pairs: dict[str, Pair] = {}
    for proxy, situation in new.situations.items():
        known = old.situations.get(proxy)
        if known is None:
            continue
        was, now = _snapshot(old.groups[known]), _snapshot(new.groups[situation])
        if was is not now:
            pairs[proxy] = (was, now)
    return pairs


def _snapshot(group: FleetGroup) -> Snapshot | None:
    return None if group.compiled is None else group.compiled.assembly.snapshot


def _set_apart(before: ZoneState, after: ZoneState, old: Fleet, new: Fleet) -> Iterable[str]:
    """Proxies of which not their situation alone says what they held: held pushes, refused versions, yielded VIPs."""
    both = set(old.situations) & set(new.situations)
    if before.own.quarantined or after.own.quarantined:
        return sorted(both)
    logs = (before.own, after.own)
    return sorted(both & {proxy for log in logs for proxy in (*log.holds, *log.yields)})


def _held(history: History, zone: str, position: Position, proxy: str) -> Snapshot:
    return snapshot_at(history, zone, position, proxy)


# --- grouping ---------------------------------------------------------------------------------------------------------


def groups_of(pairs: Mapping[str, Pair], decoded_max: int = DECODED_MAX) -> tuple[Group, ...]:
    """Proxies with the same changes together; the largest groups first."""
    like: dict[tuple[int, int], list[str]] = {}
    known: dict[tuple[int, int], Pair] = {}
    for proxy, pair in pairs.items():
        ids = (id(pair[0]), id(pair[1]))
        like.setdefault(ids, []).append(proxy)
        known[ids] = pair
    who: dict[Moved, list[tuple[int, int]]] = {}
    bodies: dict[Moved, tuple[Encoded | None, Encoded | None]] = {}
    for ids, pair in known.items():
        for what, sides in _moved(*pair):
            who.setdefault(what, []).append(ids)
            bodies[what] = sides
    together: dict[tuple[tuple[int, int], ...], list[Moved]] = {}
    for what, ids_of in who.items():
        together.setdefault(tuple(ids_of), []).append(what)
    left = decoded_max
    groups = []
    for all_ids, changes in sorted(together.items(), key=lambda item: -sum(len(like[ids]) for ids in item[0])):
        told = [_told(what, bodies[what], decode=number < left) for number, what in enumerate(sorted(changes))]
        left = max(0, left - len(changes))
        groups.append(Group(tuple(sorted(proxy for ids in all_ids for proxy in like[ids])), alike(told)))
    return tuple(groups)


def _moved(
    before: Snapshot | None, after: Snapshot | None
) -> Iterator[tuple[Moved, tuple[Encoded | None, Encoded | None]]]:
    old, new = (_NO_TYPES if one is None else one.resources for one in (before, after))
    for type_url in {*old, *new}:
        was, now = old.get(type_url, NOTHING), new.get(type_url, NOTHING)
        if was is now:
            continue
        for name in {*was, *now}:
            sides = was.get(name), now.get(name)
            versions = ["" if one is None else one.version for one in sides]
            if versions[0] != versions[1]:
                yield (type_url, name, versions[0], versions[1]), sides


def _told(what: Moved, sides: tuple[Encoded | None, Encoded | None], *, decode: bool) -> ResourceChange:
    kind, name = short_type(what[0]), what[1]
    before, after = sides
    if before is None or after is None:
        return ResourceChange(kind, name, "added" if before is None else "removed")
    fields = fields_between(plain_resource(before), plain_resource(after)) if decode else ()
    return ResourceChange(kind, name, "changed", fields)
