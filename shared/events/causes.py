"""Why an event was written, and what was written because of it: the ids that events name as their cause. Pure.

A system's event names the event that made the system write it; an event that takes another back names that one.
"""

from __future__ import annotations

from collections.abc import Iterator

from shared.events.event import GLOBAL, Envelope, EventRef
from shared.events.history import History
from shared.events.past import PastLog

EFFECTS_LIMIT = 1000
"""At most so many effects of one event are told."""
CHAIN_LIMIT = 100
SYSTEM_ACTORS = "system:"
"""What the actors of control planes begin with."""


def causes(history: History, envelope: Envelope) -> list[Envelope]:
    """The event that this one was written because of, the cause of that one, and so on up to a person's."""
    found: list[Envelope] = []
    while envelope.cause and len(found) < CHAIN_LIMIT:
        cause = _by_id(history, envelope)
        if cause is None or not cause.subject:
            break  # it is of another history, or not for this reader
        found.append(cause)
        envelope = cause
    return found


def written_because_of(history: History, envelope: Envelope) -> EventRef | None:
    """The nearest cause that is a write of somebody's, which can be undone; None where there is none."""
    above = causes(history, envelope)
    found = next((one for one in above if not one.actor.startswith(SYSTEM_ACTORS)), above[0] if above else None)
    return None if found is None else EventRef(found.origin, found.n, found.id, found.time, found.actor)


def _by_id(history: History, caused: Envelope) -> Envelope | None:
    # Its own log first: a zone's log never grew before what it saw of global's.
    own = history.log(caused.origin)
    for log in (own, *(one for one in (history.hub, *history.zones.values()) if one is not own)):
        if (n := log.of_id(caused.cause)) is not None:
            return log.envelope(n)
    return None


def effects(history: History, envelope: Envelope) -> Iterator[tuple[int, Envelope]]:
    """What was written because of an event, in every log: how many steps away, and the event. Nearest first."""
    logs = (history.hub, *history.zones.values())
    level, steps, told = {envelope.id}, 0, 0
    while level:
        steps += 1
        following = [one for log in logs for one in _caused(log, level, envelope)]
        for one in following:
            yield steps, one
            told += 1
            if told >= EFFECTS_LIMIT:
                return
        level = {one.id for one in following}


def _caused(log: PastLog, ids: set[str], first: Envelope) -> Iterator[Envelope]:
    after = first.n if log.origin == first.origin else log.before_seen(first.n) if first.origin == GLOBAL else 0
    for n in log.caused_by(ids, after):
        yield log.envelope(n)
