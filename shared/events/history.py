"""History: the logs of a system as plain sequences of events, and the moments one can name in them.

Pure. Where the events come from (the API of a running system, a copy of a store, a bundle) is the caller's
affair; production, replay, diff and bisect all fold them with the same code.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence

import msgspec

from shared.events.event import GLOBAL, Event
from shared.events.fold import fold_all
from shared.events.state import LogState, Position, ZoneState

_AT_ZONE = re.compile(r"(?P<zone>[a-z][a-z0-9-]*):(?P<z>\d+)")


class NoSuchMoment(Exception):
    """The moment asked for is not in this history; the message says which ones are."""


class History(msgspec.Struct, frozen=True):
    """Every origin's events in order of n, starting at 1."""

    hub: Sequence[Event]
    zones: Mapping[str, Sequence[Event]]

    def log(self, origin: str) -> Sequence[Event]:
        """The events of one origin. Raises NoSuchMoment for an unknown zone."""
        if origin == GLOBAL:
            return self.hub
        if origin not in self.zones:
            known = ", ".join(sorted(self.zones)) or "none"
            raise NoSuchMoment(f"there is no zone {origin!r} in this history; zones: {known}")
        return self.zones[origin]

    def event(self, origin: str, n: int) -> Event:
        """One event by its origin and sequence."""
        events = self.log(origin)
        if not 1 <= n <= len(events):
            raise NoSuchMoment(f"{origin} has no event {n}; it has 1 to {len(events)}")
        return events[n - 1]

    def position(self, zone: str, at: str | None = None) -> Position:
        """The moment `at` of `zone`: `1234` (global's sequence), `east:57`, an RFC 3339 time, None = the last.

        At a global sequence g the zone is where it was once it had decided on g and before it saw g+1.
        """
        own = self.log(zone)
        if at is None:
            return Position(len(self.hub), len(own))
        if at.isdecimal():
            g = int(at)
            if g > len(self.hub):
                raise NoSuchMoment(f"global has no event {g}; it has 1 to {len(self.hub)}")
            return Position(g, bisect_right(own, g, key=lambda event: event.seen))
        if found := _AT_ZONE.fullmatch(at):
            event = self.event(found["zone"], int(found["z"]))
            if found["zone"] == zone:
                return Position(event.seen, event.n)
            return self.position(zone, str(event.seen))
        return Position(_until(self.hub, at), _until(own, at))

    def state(self, zone: str, position: Position) -> ZoneState:
        """The zone's state at a moment, folded from the beginning."""
        return ZoneState(
            zone,
            folded(LogState(origin=GLOBAL), self.hub[: position.g]),
            folded(LogState(origin=zone), self.log(zone)[: position.z]),
        )


def folded(state: LogState, events: Sequence[Event]) -> LogState:
    """Fold events in order on top of `state`."""
    return fold_all(state, events)


def _until(events: Sequence[Event], time: str) -> int:
    if not re.match(r"\d{4}-\d\d-\d\d", time):
        raise NoSuchMoment(f"{time!r} is no moment: give 1234, east:57 or an RFC 3339 time")
    # RFC 3339 in UTC with fixed width sorts as text; a shorter time names the beginning of what it leaves out.
    return bisect_right(events, time, key=lambda event: event.time)
