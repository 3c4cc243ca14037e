"""Bisection: the one event between a good and a bad moment of a zone that made the difference. Pure.

Moments of a zone stand in one line, because every event of it says after which event of global it was decided (`seen`):
moment m is the one after m events of both logs, and differs from the one before by one event. `bisection` says which
moment to try next and takes the verdict; who judges (a command, a predicate) is the caller's affair.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator
from typing import Literal, TypeAlias

import msgspec

from shared.events.event import Event
from shared.events.history import History
from shared.events.state import Position

Outcome: TypeAlias = Literal["good", "bad", "skip"]
SKIPS_LIMIT = 1_000
"""Moments that may be skipped in one bisection."""


class Verdict(msgspec.Struct, frozen=True):
    """What was found at one moment, and why."""

    outcome: Outcome
    reason: str = ""


class Found(msgspec.Struct, frozen=True):
    """Good at moment `good`, bad at moment `bad`. Where more than one event lies between them, all moments there were
    skipped, and any of the events may be the one. reason is why the bad one is bad.
    """

    good: int
    bad: int
    reason: str
    steps: int


class NotAsClaimed(Exception):
    """An end is not what it was said to be: there is nothing to find between the two."""


Bisection: TypeAlias = Generator[int, Verdict, Found]


class Line:
    """The moments of one zone in order, 0 to `len(line)`."""

    def __init__(self, history: History, zone: str) -> None:
        self._hub, self._own = history.hub, history.log(zone)
        self._zone = zone

    def __len__(self) -> int:
        return len(self._hub) + len(self._own)

    def number(self, position: Position) -> int:
        """The place of a moment. A pair that the zone never was at counts as the nearest of its moments."""
        first = self._own.envelope(position.z).seen if position.z else 0
        last = self._own.envelope(position.z + 1).seen if position.z < len(self._own) else len(self._hub)
        return max(first, min(position.g, last)) + position.z

    def position(self, number: int) -> Position:
        """The moment at a place."""
        g = bisect_right(range(1, len(self._hub) + 1), number, key=lambda g: g + self._decided_before(g))
        return Position(g, number - g)

    def event(self, number: int) -> Event:
        """The event that led to the moment at a place, which is 1 or more."""
        before, after = self.position(number - 1), self.position(number)
        return self._hub.event(after.g) if after.g > before.g else self._own.event(after.z)

    def _decided_before(self, g: int) -> int:
        """How many events the zone had when it saw event g of global."""
        return bisect_left(self._own.numbers, g, key=lambda z: self._own.envelope(z).seen)


def steps_left(good: int, bad: int) -> int:
    """How many moments must be tried between the two, at most, when none is skipped."""
    return math.ceil(math.log2(bad - good)) if bad - good > 1 else 0


def bisection(good: int, bad: int) -> Bisection:
    """Yields the moments to judge: the two ends, then what lies between. Raises NotAsClaimed.

    In a history that goes from good to bad more than once, one of these changes is found.
    """
    if good >= bad:
        raise NotAsClaimed("the good moment must be earlier than the bad one")
    verdict = yield good
    if verdict.outcome != "good":
        raise NotAsClaimed(f"the good moment is not good: {_told(verdict)}")
    verdict = yield bad
    if verdict.outcome != "bad":
        raise NotAsClaimed(f"the bad moment is not bad: {_told(verdict)}")
    reason, steps, skipped = verdict.reason, 0, set[int]()
    while len(skipped) < SKIPS_LIMIT and (wanted := next(_candidates(good, bad, skipped), None)) is not None:
        steps += 1
        verdict = yield wanted
        match verdict.outcome:
            case "good":
                good = wanted
            case "bad":
                bad, reason = wanted, verdict.reason
            case "skip":
                skipped.add(wanted)
    return Found(good, bad, reason, steps)


def _candidates(good: int, bad: int, skipped: set[int]) -> Iterator[int]:
    """Moments strictly between the two that were not skipped, from the middle outwards."""
    middle = (good + bad) // 2
    for distance in range(bad - good):
        for wanted in dict.fromkeys((middle + distance, middle - distance)):
            if good < wanted < bad and wanted not in skipped:
                yield wanted


def _told(verdict: Verdict) -> str:
    said = {"good": "it is good", "bad": "it is bad", "skip": "it cannot be judged"}[verdict.outcome]
    return f"{said} ({verdict.reason})" if verdict.reason else said
