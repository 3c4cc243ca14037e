"""What a zone recorded of a change that is long past: between which moments its proxies got it, and nothing finer.

Proxies' marks (`marks`) are written at most once a second, and a delivery stream keeps the last few of each; records of
what proxies took (`took`) reach further back, and to global. They tell by when at the latest a proxy had something, and
until when it certainly had not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.events.progress import LISTED, Arrival, Change, Recorded, has
from shared.events.state import Position
from zone_cp.marks import Bucket, Head
from zone_cp.took import Incarnations, Record


def recorded(history: History, zone: str, origin: str, n: int) -> Recorded:
    """What is recorded of event n of `origin` in a zone. Raises NoSuchMoment."""
    change = Change.of(origin, n, history.event(origin, n).seen)
    first = _before(history, zone, change)
    state = history.state(zone, Position(change.position.g, max(first, change.position.z)))
    proxies = sorted(status.proxy for status in state.own.proxies.values() if status.online)
    now = (state.hub.incarnation, state.own.incarnation)
    messages = tuple(_decoded(history.deliveries.get(zone, ())))
    arrivals = [_arrival(messages, proxy, now, change.position) for proxy in proxies]
    known = [one for one in arrivals if one.by]
    seen_after, seen_by = _seen(history, zone, change, first)
    heads = (one.at for one in messages if isinstance(one, Head) and has(one.position, change.position))
    witnesses = [*(one.by for one in known), *heads, *([seen_by] if seen_by else [])]
    return Recorded(
        seen_after=seen_after,
        seen_by=min(witnesses, default=""),
        proxies=len(proxies),
        unrecorded=tuple(one.proxy for one in arrivals if not one.by)[:LISTED],
        unrecorded_count=len(arrivals) - len(known),
        delivered=tuple(sorted(known, key=lambda one: one.by)[-LISTED:]),
    )


def _before(history: History, zone: str, change: Change) -> int:
    """The zone's last event that had not seen it."""
    if change.origin != GLOBAL:
        return change.n - 1
    return history.position(zone, str(change.n - 1)).z if change.n > 1 else 0


def _seen(history: History, zone: str, change: Change, first: int) -> tuple[str, str]:
    """Times of the zone's event `first`, the last that had not seen it, and of the next one."""
    log = history.log(zone)
    if change.origin != GLOBAL:
        return "", log.envelope(change.n).time
    before = log.envelope(first).time if first else ""
    return before, log.envelope(first + 1).time if first < len(log) else ""


def _decoded(messages: Sequence[bytes]) -> Iterator[Bucket | Head | Record]:
    for message in messages:
        kind: type[Bucket | Head | Record] = (
            Bucket if b'"rows"' in message else Record if b'"took"' in message else Head
        )
        try:
            yield msgspec.json.decode(message, type=kind)
        except msgspec.DecodeError:
            continue  # of another version


def _arrival(messages: Sequence[Bucket | Head | Record], proxy: str, now: Incarnations, position: Position) -> Arrival:
    """When a proxy is first known to have had a moment, and when it is last known not to have had it before."""
    steps = sorted(_steps(messages, proxy, now))
    by = min((at for at, reached in steps if has(reached, position)), default="")
    after = max((at for at, reached in steps if not has(reached, position) and (not by or at < by)), default="")
    return Arrival(proxy, after, by)


def _steps(messages: Sequence[Bucket | Head | Record], proxy: str, now: Incarnations) -> Iterator[tuple[str, Position]]:
    current = False
    for message in messages:
        match message:
            case Head():
                if current and message.incarnations == now:
                    yield message.at, message.position
            case Bucket():
                row = message.rows.get(proxy)
                current = False
                if row is not None and message.incarnations[row.incarnation] == now:
                    current = row.current
                    yield row.at, row.delivered
            case Record():
                yield from (
                    (message.at, one.position)
                    for one in message.took
                    if one.incarnations == now and proxy in one.proxies
                )
