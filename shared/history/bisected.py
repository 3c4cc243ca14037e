"""A bisection over a history: the search in sync, where a predicate judges, and what is told of its end."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.events.event import Event
from shared.events.halving import Found, Line, bisection
from shared.events.history import History
from shared.history.changed import changed_by
from shared.history.difference import ResourceChange
from shared.history.predicate import Judge

SUSPECTS_SHOWN = 20
"""Events that are told where no single one could be found."""


class Suspect(msgspec.Struct, frozen=True):
    """One event between good and bad, and what it changed."""

    event: Event
    changes: list[ResourceChange]

    def plain(self) -> dict[str, Any]:
        """As it is sent."""
        event = self.event
        fields = [{"kind": one.kind, "name": one.name, **field.plain()} for one in self.changes for field in one.fields]
        said = {name: getattr(event, name) for name in ("origin", "n", "id", "time", "actor", "cause")}
        return {**said, "change": type(event.change).__name__, "changes": fields}


class Told(msgspec.Struct, frozen=True):
    """The end of a bisection: the last good moment, the first bad one and why it is, the events between them.

    count is of all these events, of which the first SUSPECTS_SHOWN are there; 1 when the one was found.
    """

    zone: str
    good: str
    bad: str
    reason: str
    steps: int
    count: int
    events: list[Suspect]

    def plain(self) -> dict[str, Any]:
        """As it is sent."""
        fields = {name: getattr(self, name) for name in ("zone", "good", "bad", "reason", "steps", "count")}
        return {**fields, "events": [one.plain() for one in self.events]}


def told(history: History, zone: str, found: Found) -> Told:
    """What is told of the end of a bisection of a zone."""
    line, numbers = Line(history, zone), range(found.good + 1, found.bad + 1)
    events = [line.event(number) for number in numbers[:SUSPECTS_SHOWN]]
    suspects = [Suspect(event, changed_by(history, event)) for event in events]
    good, bad = line.position(found.good), line.position(found.bad)
    return Told(zone, str(good), str(bad), found.reason, found.steps, len(numbers), suspects)


def bisected(history: History, zone: str, good: str, bad: str | None, holds: Judge) -> Told:
    """The event between two moments that made a predicate fail. Raises NoSuchMoment, NotAsClaimed."""
    line = Line(history, zone)
    ends = (line.number(history.position(zone, at)) for at in (good, bad))
    halves = bisection(*ends)
    number = next(halves)
    while True:
        try:
            number = halves.send(holds(history, zone, line.position(number)))
        except StopIteration as ended:
            return told(history, zone, ended.value)
