"""Whether a replayed moment is what a proxy held: the compiled snapshot beside the digests that its zone recorded.

The zone records per proxy, at most once a second, up to which moment it has taken everything, and the digests of what
that was (`marks`). Moments between two pushes were never served; the replay says so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from immutables import Map

from shared.events.history import History
from shared.events.state import Position
from zone_cp.marks import Bucket, Row
from zone_cp.replay import snapshot_at
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
    row = _last(history, zone, position, proxy)
    if row is None:
        return Served("unrecorded", "computed; no record of this proxy reaches back to it")
    at = row.delivered
    if not (differing := _differing(now, row.digests)):
        return Served("served", f"served (digest matches), held by {row.at}", str(at), row.at)
    hold = history.state(zone, position).own.holds.get(proxy)
    if hold is not None and not hold.released:
        told = f"computed: its push is held, and it was told since {at} who lost access"
        return Served("computed", told, str(at), row.at)
    then = differing if at == position else _differing(snapshot_at(history, zone, at, proxy), row.digests)
    if then:
        return Served("differs", f"differs from what was served at {at}: {', '.join(then)}", str(at), row.at, then)
    return Served("computed", f"computed, not served: the proxy still held what was served at {at}", str(at), row.at)


def _last(history: History, zone: str, position: Position, proxy: str) -> Row | None:
    """The newest record that is not of a later moment, in the logs as they were then."""
    state = history.state(zone, position)
    now = (state.hub.incarnation, state.own.incarnation)
    rows = [
        row
        for incarnations, row in _rows(history.deliveries.get(zone, ()), proxy)
        if incarnations == now and row.digests and row.delivered.g <= position.g and row.delivered.z <= position.z
    ]
    return max(rows, key=lambda row: (row.delivered, row.at), default=None)


def _rows(messages: Sequence[bytes], proxy: str) -> Iterator[tuple[tuple[str, str], Row]]:
    for message in messages:
        try:
            bucket = msgspec.json.decode(message, type=Bucket)
        except msgspec.DecodeError:
            continue  # the head, or of another version
        if (row := bucket.rows.get(proxy)) is not None and 0 <= row.incarnation < len(bucket.incarnations):
            yield bucket.incarnations[row.incarnation], row


def _differing(snapshot: Snapshot, recorded: Mapping[str, str]) -> tuple[str, ...]:
    found = {short_type(url): type_digest(url, resources) for url, resources in snapshot.resources.items()}
    nothing = type_digest("", {})
    return tuple(sorted(short for short, digest in recorded.items() if found.get(short, nothing) != digest))
