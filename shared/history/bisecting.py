"""A bisection that is driven: by a predicate, or by a judge that takes its time and may be a scratch control plane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from shared.events.halving import Bisection, Found, Line, Verdict, bisection, steps_left
from shared.events.history import History
from shared.events.state import Position
from shared.history import predicate

SCRATCH = "zone_cp.scratch.plane"
"""Imported by name: `shared` imports neither plane."""

Judge: TypeAlias = Callable[[Position], Awaitable[Verdict]]


def by_predicate(history: History, zone: str, holds: predicate.Judge) -> Judge:
    """The judge that looks a moment up."""

    async def judge(position: Position) -> Verdict:
        return holds(history, zone, position)

    return judge


async def driven(
    history: History, zone: str, ends: tuple[Position, Position], judge: Judge, say: Callable[[str], None]
) -> Found:
    """Try what the bisection between two moments asks for. say: takes each step, for people. Raises NotAsClaimed, and
    what the judge raises.
    """
    line = Line(history, zone)
    good, bad = map(line.number, ends)
    halves: Bisection = bisection(good, bad)
    known = {good: "the good end", bad: "the bad end"}
    number, step = next(halves), 0
    while True:
        position = line.position(number)
        if number in known:
            what = known.pop(number)
        else:
            step += 1
            what = f"step {step} of about {step - 1 + max(steps_left(good, bad), 1)}"
        say(f"{what}: {position} ({zone}) …")
        verdict = await judge(position)
        say(f"  {verdict.outcome}" + (f": {verdict.reason}" if verdict.reason else ""))
        if verdict.outcome == "good":
            good = max(good, number)
        elif verdict.outcome == "bad":
            bad = min(bad, number)
        try:
            number = halves.send(verdict)
        except StopIteration as ended:
            found: Found = ended.value
            return found
