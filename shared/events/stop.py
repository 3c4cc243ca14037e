"""Stop: an event that its reader may not pass over, and the tombstone that lets it.

A change that a program does not understand may matter: a reader that went on behind it would serve a state that never
was. So whoever meets one stops before it and keeps serving what it has, until a program that can read it takes over, or
an operator says that it is to be passed over: an `EventSkipped`. One in the event's own log holds for every reader of
that log, one in another plane's log for that plane. An event that says of itself that it may be passed over, is. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.event import GLOBAL, Event, EventSkipped, Unreadable
from shared.events.log import LogUnavailable
from shared.events.state import LogState, ZoneState

Passed: TypeAlias = Mapping[tuple[str, int], str]
"""Events by origin and sequence that are passed over, and why (`LogState.skipped`)."""
NOTHING_PASSED: Passed = Map()
HELD_LIMIT = 10_000
"""Events behind a stop that are kept in memory: some 15 MB. The log holds the others."""


class Stop(msgspec.Struct, frozen=True):
    """Event n of a log cannot be read by this program, and why."""

    origin: str
    n: int
    reason: str

    @property
    def event(self) -> str:
        """As commands name it: `1234` of global, `east:57` of a zone."""
        return str(self.n) if self.origin == GLOBAL else f"{self.origin}:{self.n}"

    @property
    def mend(self) -> str:
        """What makes its reader go on."""
        return f'a version that can read it, or zonal skip {self.event} --reason "…"'

    def __str__(self) -> str:
        return f"event {self.event} cannot be read by this program ({self.reason}); mended by {self.mend}"


RESUME = "zonal resume, once it is repaired"
"""What makes a zone's copy or outbox go on."""


class HaltedPart(msgspec.Struct, frozen=True):
    """what stands still, why, and what makes it go on."""

    what: str
    reason: str
    mend: str


def halted_parts(stops: Iterable[Stop], faults: Mapping[str, str], mend: str) -> list[HaltedPart]:
    """All that stands still in a plane: before events, and for other faults, by what has them; mend: of these."""
    parts = [HaltedPart(f"before event {stop.event}", stop.reason, stop.mend) for stop in stops]
    return parts + [HaltedPart(what, reason, mend) for what, reason in sorted(faults.items())]


class Stopped(LogUnavailable):
    """Nothing is written on top of what was not read."""


class NotSkipped(Exception):
    """There is nothing to pass over; the message says why."""


def stop_at(event: Event) -> Stop | None:
    """The stop that an event is to whoever reads it, without regard to tombstones; None for one that can be read, that
    may be passed over, or that is withheld from the reader.
    """
    change = event.change
    if isinstance(change, Unreadable) and not change.skippable and event.subject:
        return Stop(event.origin, event.n, change.reason)
    return None


class Held:
    """What came of one log and stands behind a stop. `on_stop` is told of every new one.

    Of the events behind it no more than `limit` are kept: the log holds them all, and whoever goes on reads from there
    what is `lacking`. Of those that are not kept, tombstones are known nevertheless: they let the rest pass.
    """

    def __init__(self, on_stop: Callable[[Stop], None], *, limit: int = HELD_LIMIT) -> None:
        self._events: list[Event] = []
        self._on_stop = on_stop
        self._limit = limit
        self._told: Stop | None = None
        self._passed: Passed = NOTHING_PASSED
        self._last = 0
        self._far: dict[tuple[str, int], int] = {}

    def __len__(self) -> int:
        return len(self._events)

    @property
    def stop(self) -> Stop | None:
        """What the rest waits for: the first that no tombstone lets pass; None where there is none."""
        passed = self.tombstones
        found = (event for event in self._events if _id(event) not in passed and _id(event) not in self._passed)
        return next(filter(None, map(stop_at, found)), None)

    @property
    def tombstones(self) -> Passed:
        """What those that are held let pass, and those behind them that are not kept."""
        return {**dict.fromkeys((*_tombstones(self._events), *self._far), "")} if self._events else NOTHING_PASSED

    def replace(self, events: Iterable[Event]) -> None:
        """Hold these instead."""
        self._events, self._last, self._far = [], 0, {}
        self.hold(0, events)

    def hold(self, after: int, events: Iterable[Event]) -> None:
        """Hold these as well, without those that are known: up to `after`, or held."""
        for event in events:
            if event.n <= max(after, self._last, self._events[-1].n if self._events else 0):
                continue
            if self._last or len(self._events) >= self._limit:
                self._last = event.n
                if isinstance(event.change, EventSkipped):
                    self._far.setdefault(event.change.skips, event.n)
            else:
                self._events.append(event)

    def lacking(self, after: int, passed: Passed) -> tuple[int, int] | None:
        """Which events, n with first < n <= last, must be read from the log and given to `fill` before anything more
        can be taken; None where nothing more can, or all that is needed is there. after, passed: as for `take`.
        """
        if not self._last:
            return None
        near = _tombstones(self._events)
        waits = [_id(one) for one in self._events if stop_at(one) and _id(one) not in passed and _id(one) not in near]
        first = self._events[-1].n if self._events else after
        if not self._events:
            return first, min(first + self._limit, self._last)
        if waits and all(one in self._far for one in waits):
            return first, max(self._far[one] for one in waits)
        return None

    def fill(self, events: Iterable[Event]) -> None:
        """Hold what was lacking, all of it, since it is to be taken now."""
        self._events += events
        last = self._events[-1].n if self._events else self._last
        self._last = self._last if last < self._last else 0
        self._far = {skips: n for skips, n in self._far.items() if n > last}

    def put_back(self, events: Iterable[Event]) -> None:
        """Hold these, which were taken, before all others."""
        self._events = [*events, *self._events]

    def take(self, after: int, events: Iterable[Event], passed: Passed) -> list[Event]:
        """What is held and these, up to the first stop, which is held with all behind it. after, passed: as in `hold`
        and `readable`.
        """
        self.hold(after, events)
        self._passed = passed
        count = readable(self._events, passed)
        taken, self._events = self._events[:count], self._events[count:]
        told, self._told = self._told, self.stop
        if self._told is not None:
            self._trim(self._told)
            if self._told != told:
                self._on_stop(self._told)
        return taken

    def _trim(self, stop: Stop) -> None:
        """Keep no more than the limit of what was filled in, but what all wait for."""
        kept = max(self._limit, 1 + next(at for at, event in enumerate(self._events) if event.n == stop.n))
        dropped, self._events = self._events[kept:], self._events[:kept]
        if dropped:
            self._last = max(self._last, dropped[-1].n)
            self._far = {
                **{
                    event.change.skips: event.n for event in reversed(dropped) if isinstance(event.change, EventSkipped)
                },
                **self._far,
            }


def refuse_skip(who: str, origin: str, n: int, stops: Sequence[Stop]) -> None:
    """Raises NotSkipped unless one of the stops is at event n of this log."""
    if any((stop.origin, stop.n) == (origin, n) for stop in stops):
        return
    said = f"stops before event {', '.join(stop.event for stop in stops)}" if stops else "reads all events"
    raise NotSkipped(f"event {Stop(origin, n, '').event} cannot be passed over here: {who} {said}")


def check_skip(who: str, own: LogState, origin: str, n: int, stops: Sequence[Stop]) -> None:
    """Whether a tombstone for event n may stand in the own log: of another log it must be what stops there, of this one
    it has to be there, for whoever cannot read it. Raises NotSkipped.
    """
    if origin != own.origin or not 0 < n <= own.n or (origin, n) in own.skipped:
        refuse_skip(who, origin, n, stops)


def readable(events: Sequence[Event], passed: Passed) -> int:
    """How many of the events, a part of one log, can be taken before the first stop.

    passed: what tombstones of the reader's own log let pass. Those among the events do so too, for what is taken
    together with them: a state that holds an event without its tombstone, which stands behind another stop, never was.
    """
    at = _tombstones(events)
    waits = [
        (number, at.get(_id(event), len(events)))
        for number, event in enumerate(events)
        if stop_at(event) is not None and _id(event) not in passed
    ]
    count = len(events)
    for number, behind in reversed(waits):
        if behind >= count:
            count = number
    return count


def _tombstones(events: Iterable[Event]) -> dict[tuple[str, int], int]:
    """What is passed over by tombstones among the events, and where the first of each stands among them."""
    found: dict[tuple[str, int], int] = {}
    for number, event in enumerate(events):
        if isinstance(event.change, EventSkipped):
            found.setdefault(event.change.skips, number)
    return found


def first_unread(log: LogState, passed: Passed = NOTHING_PASSED) -> Stop | None:
    """The first event of a folded log that was not read although nothing lets it pass; None where all is well."""
    for n, reason in sorted(log.unread.items()):
        if (log.origin, n) not in passed:
            return Stop(log.origin, n, reason)
    return None


def zone_unread(state: ZoneState, later: Passed = NOTHING_PASSED) -> Stop | None:
    """The same for both logs of a zone, its own first.

    later: what tombstones behind this moment let pass. A zone that found them in the log has gone by this moment.
    """
    if not (state.own.unread or state.hub.unread):
        return None
    return first_unread(state.own, later) or first_unread(state.hub, {**later, **state.own.skipped})


def tombstone(origin: str, n: int, reason: str) -> EventSkipped:
    """The change that lets readers pass over event n of a log."""
    return EventSkipped(g=n, reason=reason, origin=msgspec.UNSET if origin == GLOBAL else origin)


def stops_of(stops: Iterable[Stop | None]) -> tuple[Stop, ...]:
    """Those that there are."""
    return tuple(stop for stop in stops if stop is not None)


def _id(event: Event) -> tuple[str, int]:
    return event.origin, event.n
