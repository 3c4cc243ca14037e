"""Whether a replayed moment is what a proxy held: the compiled snapshot beside the digests that its zone recorded.

The zone records, at most once a second, which proxies have come to hold something else, and the digests of what that is
(`took`). Moments between two pushes were never served; the replay says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from immutables import Map

from shared.events.history import History
from shared.events.state import Position
from zone_cp.replay import snapshot_at
from zone_cp.took import Took, records_of
from zone_cp.xds.digest import type_digest
from zone_cp.xds.inspect import plain, short_type
from zone_cp.xds.snapshot import Snapshot

Verdict: TypeAlias = Literal["served", "computed", "differs", "unrecorded"]


class Served(msgspec.Struct, frozen=True):
    """The verdict on a moment. position and time are of the record it rests on; types: those whose digests differ."""

    verdict: Verdict
    told: str
    position: str = ""
    time: str = ""
    types: tuple[str, ...] = ()


def replayed(
    history: History, zone: str, position: Position, proxy: str, kinds: Collection[str] = ()
) -> tuple[dict[str, dict[str, Any]], Served]:
    """What a moment compiles to for a proxy, decoded, and whether that was served.

    kinds: only these types, all when empty. Raises NoSuchMoment when the proxy was unknown then.
    """
    now = snapshot_at(history, zone, position, proxy)
    wanted = {kind.lower() for kind in kinds}
    shown = {url: names for url, names in now.resources.items() if not wanted or short_type(url).lower() in wanted}
    found = plain(msgspec.structs.replace(now, resources=Map(shown)))
    return found, judged(history, zone, position, proxy, now)


def judged(history: History, zone: str, position: Position, proxy: str, now: Snapshot) -> Served:
    """What the zone's records say of `now`, which the moment compiles to."""
    found = _last(history, zone, position, proxy)
    if found is None:
        return Served("unrecorded", "computed; no record of this proxy reaches back to it")
    time, took = found
    at = took.position
    if not (differing := _differing(now, took.digests)):
        return Served("served", f"served (digest matches), held by {time}", str(at), time)
    hold = history.state(zone, position).own.holds.get(proxy)
    if hold is not None and not hold.released:
        told = f"computed: its push is held, and it was told since {at} who lost access"
        return Served("computed", told, str(at), time)
    then = differing if at == position else _differing(snapshot_at(history, zone, at, proxy), took.digests)
    if then:
        return Served("differs", f"differs from what was served at {at}: {', '.join(then)}", str(at), time, then)
    return Served("computed", f"computed, not served: the proxy still held what was served at {at}", str(at), time)


def _last(history: History, zone: str, position: Position, proxy: str) -> tuple[str, Took] | None:
    """The newest record that is not of a later moment, in the logs as they were then."""
    state = history.state(zone, position)
    now = (state.hub.incarnation, state.own.incarnation)
    records = (records_of(message, proxy) for message in history.deliveries.get(zone, ()))
    known = [
        (time, one)
        for time, took in records
        for one in took
        if one.incarnations == now and one.digests and position.reaches(one.position)
    ]
    return max(known, key=lambda one: (one[1].position, one[0]), default=None)


def _differing(snapshot: Snapshot, recorded: Mapping[str, str]) -> tuple[str, ...]:
    found = {short_type(url): type_digest(url, resources) for url, resources in snapshot.resources.items()}
    nothing = type_digest("", {})
    return tuple(sorted(short for short, digest in recorded.items() if found.get(short, nothing) != digest))
