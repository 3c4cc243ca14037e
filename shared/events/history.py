"""History: the logs of a system, and the moments one can name in them.

Pure. Where the events come from (a running system, a copy of a store, a bundle) is the caller's affair
(`shared.history`); production, replay, diff and bisect all fold them with the same code.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from shared.events.event import GLOBAL, Event, Unreadable
from shared.events.past import PastLog
from shared.events.state import Position, ZoneState
from shared.events.stop import zone_unread

_AT_GLOBAL = re.compile(r"[0-9]{1,15}")
_AT_ZONE = re.compile(r"(?P<zone>[a-z][a-z0-9-]*):(?P<z>[0-9]{1,15})")


class NoSuchMoment(Exception):
    """The moment asked for is not in this history; the message says which ones are."""


class NoSuchKind(NoSuchMoment):
    """Nothing is of the kind that was asked for; the message says which ones there are."""


class History:
    """Every origin's past. `hub` is global's log, `zones` every zone's by its name.

    What the debugger's commands stand on: `log(origin)` gives a `PastLog` (single events, searches, its state at any
    n), `position(zone, at)` turns what a person calls a moment into one, `state(zone, position)` is the zone then.
    `deliveries` is what zones recorded of what their proxies held, as it stands in their delivery streams.
    """

    def __init__(
        self, hub: PastLog, zones: Mapping[str, PastLog], deliveries: Mapping[str, Sequence[bytes]] | None = None
    ) -> None:
        self.hub = hub
        self.zones = zones
        self.deliveries = deliveries or {}

    @classmethod
    def of(cls, hub: Sequence[Event], zones: Mapping[str, Sequence[Event]]) -> History:
        """A history held in memory: every origin's events in order of n, from 1."""
        return cls(
            PastLog.of(GLOBAL, hub),
            {zone: PastLog.of(zone, events) for zone, events in zones.items()},
        )

    def log(self, origin: str) -> PastLog:
        """The past of one origin. Raises NoSuchMoment for an unknown zone."""
        if origin == GLOBAL:
            return self.hub
        if origin not in self.zones:
            known = ", ".join(sorted(self.zones)) or "none"
            raise NoSuchMoment(f"there is no zone {origin!r} in this history; zones: {known}")
        return self.zones[origin]

    def of_zones(self, zones: Collection[str]) -> History:
        """Global's log, and these zones' with what they recorded. Raises NoSuchMoment for an unknown zone."""
        kept = {zone: messages for zone, messages in self.deliveries.items() if zone in zones}
        return History(self.hub, {zone: self.log(zone) for zone in zones if zone != GLOBAL}, kept)

    def meant(self, zone: str | None, *moments: str | None) -> str:
        """The zone that is meant: named, implied by a moment (`east:57`), or the only one. Raises NoSuchMoment."""
        implied = {moment.partition(":")[0] for moment in moments if moment} & self.zones.keys()
        meant = {zone} if zone else implied or set(self.zones)
        if len(meant) != 1:
            raise NoSuchMoment(f"which zone? one of: {', '.join(sorted(self.zones)) or 'none'}")
        (found,) = meant
        self.log(found)
        return found

    def event(self, origin: str, n: int) -> Event:
        """One event by its origin and sequence. Raises NoSuchMoment."""
        event = self._having(origin, n).event(n)
        if isinstance(event.change, Unreadable) and not event.subject:
            raise NoSuchMoment(f"{origin} {n} is of a mesh or zone that is not for this reader")
        return event

    def _having(self, origin: str, n: int) -> PastLog:
        log = self.log(origin)
        if not 1 <= n <= len(log):
            raise NoSuchMoment(f"{origin} has no event {n}; it has 1 to {len(log)}")
        return log

    def position(self, zone: str, at: str | None = None) -> Position:
        """The moment `at` of `zone`: `1234` (global's sequence), `east:57`, an RFC 3339 time, None = the last.

        At a global sequence g the zone is where it was once it had decided on g and before it saw g+1.
        """
        own, g = self.log(zone), self.global_position(at)
        if at is None:
            return Position(g, len(own))
        found = _AT_ZONE.fullmatch(at)
        if found is not None and found["zone"] == zone:
            return Position(g, int(found["z"]))
        if found is not None or _AT_GLOBAL.fullmatch(at):
            return Position(g, bisect_right(own.numbers, g, key=lambda n: own.envelope(n).seen))
        return Position(g, _until(own, at))

    def global_position(self, at: str | None = None) -> int:
        """Global's sequence at a moment. Raises NoSuchMoment."""
        if at is None:
            return len(self.hub)
        if _AT_GLOBAL.fullmatch(at):
            g = int(at)
            if g > len(self.hub):
                raise NoSuchMoment(f"global has no event {g}; it has 1 to {len(self.hub)}")
            return g
        if found := _AT_ZONE.fullmatch(at):
            z = int(found["z"])
            return self._having(found["zone"], z).envelope(z).seen
        return _until(self.hub, at)

    def tidy(self) -> None:
        """Free what answers have left over: call it once an answer is given, where more will be asked."""
        for log in (self.hub, *self.zones.values()):
            log.tidy()

    def state(self, zone: str, position: Position) -> ZoneState:
        """The zone's state at a moment. Raises NoSuchMoment where an event before it cannot be read."""
        state = ZoneState(zone, self.hub.state(position.g), self.log(zone).state(position.z))
        unread = state.hub.unread or state.own.unread
        own = self.log(zone).tombstones() if state.own.unread else {}
        later = self.hub.tombstones() | {place: why for place, why in own.items() if place[0] == zone} if unread else {}
        if stop := zone_unread(state, later):
            raise NoSuchMoment(f"zone {zone} never was at {position}: {stop}")
        return state

    def states(self, zone: str, first: Position, second: Position) -> tuple[ZoneState, ZoneState]:
        """Its states at two moments that are to be compared: what stayed is the very same where they are near."""
        before, own = self.state(zone, first), self.log(zone)
        hub = self.hub.state_after(before.hub, second.g) if second.g != first.g else before.hub
        return before, ZoneState(
            zone, hub, own.state_after(before.own, second.z) if second.z != first.z else before.own
        )


def _until(log: PastLog, time: str) -> int:
    """The last event up to a time. A time in whole seconds with Z or an offset is what a clock shows that cuts the rest
    off: all of that second is meant. Without them it is UTC, and the beginning of what it leaves out.
    """
    try:
        when = datetime.fromisoformat(time)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC) - timedelta(microseconds=1)
        elif "." not in time:
            when += timedelta(microseconds=999_999)
        said = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError):
        raise NoSuchMoment(f"{time!r} is no moment: give 1234, east:57 or an RFC 3339 time") from None
    return bisect_right(log.numbers, said, key=lambda n: _exact(log.envelope(n).time))


def _exact(time: str) -> str:
    """An event's time with its microseconds, so that times sort as text."""
    return time if "." in time else f"{time.removesuffix('Z')}.000000Z"
