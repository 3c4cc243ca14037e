"""How far a zone's proxies have come, as the zone says it, and what follows from that for one change. Pure.

A zone speaks of all its proxies together: they hold `position`, but for the laggards, of whom a bounded list says how
far each has come. So what it costs to say this grows neither with changes nor with proxies.

A change counts as delivered to a proxy that has answered all of a moment at which the change is there, be it that
nothing had to be sent. An answer is an ACK: the configuration is valid. That it is in use is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from shared.events.event import GLOBAL
from shared.events.state import Position
from shared.events.stop import HaltedPart

PROGRESS_KEY = "progress"
"""Where a zone's word stands in its status stream."""
LISTED = 32
"""Proxies, refusals and offline proxies that are named at most; the rest is counted."""

Waiting: TypeAlias = Literal["offered", "sent", "new", "returning", "order", "held", "fenced", "fault", "refused"]
"""What a proxy waits for: offered, but not sent yet; sent, without an answer yet; connected and not given anything
yet; not back since the control plane started anew; for zone egresses to have it first; for `zonal release` (held), for
the log to catch up (fenced); it cannot be compiled; its Envoy, or another one, refused what the change brings.
"""
STUCK: frozenset[Waiting] = frozenset(("held", "fault", "refused"))
"""None of these ends by waiting."""


class Laggard(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A proxy that does not have all there is. reached: how far it is known to have come."""

    proxy: str
    state: Waiting
    why: str = ""
    reached: Position | None = None


class Refused(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A version of an xDS resource that an Envoy refused and that `count` proxies should have.

    since: the moment it was sent of, None when that was in an earlier life of the control plane. events: those it
    follows from (`12`, `east:3`).
    """

    type: str
    name: str
    reason: str
    since: Position | None
    events: tuple[str, ...]
    proxies: tuple[str, ...]
    count: int
    quarantined: bool = False


class Answers(msgspec.Struct, frozen=True, rename="camel"):
    """ACKs of one type to a push: times of the first and the last, and how many."""

    type: str
    first: str
    last: str
    count: int


class Push(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a zone did with the changes after `after` up to `position`, together. Times are RFC 3339, "" for not yet.

    touched: proxies for which anything came out different. waiting: those that have not answered; overtaken: those that
    were sent something newer instead; gone: those that went offline before they had answered.
    """

    after: Position
    position: Position
    offered_at: str
    touched: int = 0
    waiting: int = 0
    overtaken: int = 0
    gone: int = 0
    sent_first: str = ""
    sent_last: str = ""
    acked_first: str = ""
    acked_last: str = ""
    types: tuple[Answers, ...] = ()
    names: tuple[str, ...] = ()


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """The zone's copy holds global's events from `first` to `last` since `at`."""

    first: int
    last: int
    at: str


class Progress(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A zone's word. laggards are those that are furthest behind, of `behind`; the others have all reached `rest`.
    halted: what stands still in its control plane.
    """

    zone: str
    said_at: str
    position: Position | None = None
    online: int = 0
    behind: int = 0
    laggards: tuple[Laggard, ...] = ()
    rest: Position | None = None
    refused: tuple[Refused, ...] = ()
    offline: int = 0
    offline_names: tuple[str, ...] = ()
    seen: tuple[Seen, ...] = ()
    pushes: tuple[Push, ...] = ()
    halted: tuple[HaltedPart, ...] = ()


class Change(msgspec.Struct, frozen=True):
    """One event, and the moment of a zone from which on it is there."""

    origin: str
    n: int
    position: Position

    @classmethod
    def of(cls, origin: str, n: int, seen: int) -> Change:
        """seen: the event's."""
        return cls(origin, n, Position(n, 0) if origin == GLOBAL else Position(seen, n))

    def __str__(self) -> str:
        return str(self.n) if self.origin == GLOBAL else f"{self.origin}:{self.n}"


class Arrival(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A proxy had a change `by` a time, and certainly not yet at `after`; "" where that is not known."""

    proxy: str
    after: str
    by: str


class Recorded(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a zone's logs and marks say of a change that is past: bounds, nothing finer.

    proxies: how many were online when the zone had it. delivered: the last of those of which it is recorded.
    """

    seen_after: str
    seen_by: str
    proxies: int
    unrecorded: tuple[str, ...]
    unrecorded_count: int
    delivered: tuple[Arrival, ...]


class ZoneTrace(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of a change in one zone.

    missing: proxies that do not have it, at most LISTED of `missing_count`. push: what the zone did with it, together
    with later changes when its position is beyond the change's; None when it is not known any more. said_at: when the
    zone said this, "" when it never said anything. recorded: what is known of it otherwise, where there is no push.
    """

    zone: str
    state: Literal["not seen", "seen", "delivering", "delivered"]
    said_at: str = ""
    position: Position | None = None
    seen_at: str = ""
    push: Push | None = None
    recorded: Recorded | None = None
    online: int = 0
    missing: tuple[Laggard, ...] = ()
    missing_count: int = 0
    offline: int = 0
    offline_names: tuple[str, ...] = ()


def has(position: Position | None, wanted: Position) -> bool:
    """Whether all of `wanted` is there at `position`."""
    return position is not None and position.reaches(wanted)


def traced(zone: str, change: Change, progress: Progress | None) -> ZoneTrace:
    """What a zone's word (None: it never said anything) says of a change."""
    if progress is None:
        return ZoneTrace(zone, "not seen")
    seen_at = next((one.at for one in progress.seen if one.first <= change.n <= one.last), "")
    if change.origin != GLOBAL:
        seen_at = ""
    there = has(progress.position, change.position)
    known = there or (change.origin == GLOBAL and any(one.last >= change.n for one in progress.seen))
    missing, more = _missing(change, progress) if there else ((), 0)
    return ZoneTrace(
        zone=zone,
        state="not seen" if not known else "seen" if not there else "delivering" if missing or more else "delivered",
        said_at=progress.said_at,
        position=progress.position,
        seen_at=seen_at,
        push=next((one for one in progress.pushes if there and _brought(one, change.position)), None),
        online=progress.online,
        missing=missing[:LISTED],
        missing_count=len(missing) + more,
        offline=progress.offline,
        offline_names=progress.offline_names[:LISTED],
    )


def _brought(push: Push, position: Position) -> bool:
    return has(push.position, position) and not has(push.after, position)


def _missing(change: Change, progress: Progress) -> tuple[tuple[Laggard, ...], int]:
    """The proxies that do not have it, as far as they are named, and how many more there may be."""
    late = {one.proxy: one for one in progress.laggards if not has(one.reached, change.position)}
    more = 0 if has(progress.rest, change.position) else progress.behind - len(progress.laggards)
    for refused in progress.refused:
        if _brings(refused, change):
            what = "in quarantine" if refused.quarantined else "refused"
            why = f"{refused.type} {refused.name} {what}: {refused.reason}"
            for proxy in refused.proxies:
                late[proxy] = Laggard(proxy, "refused", why, change.position)
            more += refused.count - len(refused.proxies)
    return tuple(late.values()), more


def _brings(refused: Refused, change: Change) -> bool:
    """Whether what was refused comes from a change: it follows from it, or came with it and from nothing later."""
    if str(change) in refused.events:
        return True
    own = [n for origin, n in map(_named, refused.events) if origin == change.origin]
    return has(refused.since, change.position) and max(own, default=0) <= change.n


def _named(event: str) -> tuple[str, int]:
    origin, _, n = event.rpartition(":")
    return origin or GLOBAL, int(n)


class Wanted(msgspec.Struct, frozen=True):
    """What is waited for: that every zone has seen a change, that the proxies of some (None: of all) zones have it.

    offline: those that are offline as well.
    """

    seen: bool = False
    delivered: tuple[str, ...] | None = ()
    offline: bool = False


def wanted(text: str, zones: Sequence[str]) -> Wanted:
    """From `all`, `zones`, names of zones and `offline`, with commas. Raises ValueError."""
    words = [word for word in (part.strip() for part in text.split(",")) if word]
    names = [word for word in words if word not in ("all", "zones", "offline")]
    if unknown := [name for name in names if name not in zones]:
        known = ", ".join(zones) or "none"
        raise ValueError(f"{', '.join(unknown)}: no zone that is known here ({known}); or say all, zones, offline")
    if "all" in words or not (names or "zones" in words):
        return Wanted(False, None, "offline" in words)
    return Wanted("zones" in words, tuple(dict.fromkeys(names)), "offline" in words)


def outstanding(zones: Sequence[ZoneTrace], asked: Wanted) -> tuple[str, ...]:
    """Who is missing, a line each; nothing when all that is waited for has come about."""
    return tuple(line for zone in zones for line in _outstanding(zone, asked))


def _outstanding(zone: ZoneTrace, asked: Wanted) -> Iterator[str]:
    proxies = asked.delivered is None or zone.zone in asked.delivered
    if zone.state == "not seen":
        if proxies or asked.seen:
            said = f"the zone last spoke at {zone.said_at}, of {zone.position}" if zone.said_at else "it never spoke"
            yield f"{zone.zone}: has not seen it ({said})"
        return
    if not proxies:
        return
    if zone.state == "seen":
        yield f"{zone.zone}: has seen it, and has offered nothing yet"
    yield from (f"{zone.zone}: {_told(one)}" for one in zone.missing if one.proxy)
    unnamed = zone.missing_count - sum(bool(one.proxy) for one in zone.missing)
    if unnamed:
        yield f"{zone.zone}: {unnamed} more"
    if asked.offline and zone.offline:
        yield f"{zone.zone}: offline: {', '.join(zone.offline_names)}{_more(zone.offline - len(zone.offline_names))}"


def _told(one: Laggard) -> str:
    return f"{one.proxy} {one.state}" + (f" ({one.why})" if one.why else "")


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def stuck(zones: Sequence[ZoneTrace], asked: Wanted) -> bool:
    """Whether something is missing, and none of it comes by waiting."""
    chosen = [zone for zone in zones if asked.delivered is None or zone.zone in asked.delivered]
    late = [one for zone in chosen for one in zone.missing]
    if not late or any(zone.state in ("not seen", "seen") for zone in zones if asked.seen or zone in chosen):
        return False
    whole = all(len(zone.missing) == zone.missing_count for zone in chosen)
    return whole and all(one.state in STUCK for one in late) and not (asked.offline and any(z.offline for z in chosen))
