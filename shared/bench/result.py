"""Results of measurements and the document they are kept in (`bench.json`). Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

SCHEMA = 1

Unit: TypeAlias = Literal["us", "ms", "s", "1/s", "kB", "MB", "messages"]


class Goal(msgspec.Struct, frozen=True):
    """What a measurement should reach: its value, or its ratio to the limit, at most or at least `bound`."""

    on: Literal["value", "ratio"]
    op: Literal["<=", ">="]
    bound: float | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement. limit: what the machine allows, measured in the same run; ratio: value/limit.

    met is None without a goal, or where the goal is on a ratio and there is no limit.
    """

    value: float
    unit: Unit
    limit: float | None
    ratio: float | None
    goal: float | None
    goal_on: Literal["value", "ratio"]
    goal_op: Literal["<=", ">="]
    met: bool | None


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: results by name. commit is the one of the last run, "" outside a checkout."""

    schema: int
    commit: str
    cpus: int
    results: dict[str, Result]


def result(value: float, unit: Unit, *, limit: float | None = None, goal: Goal) -> Result:
    """A result in whole numbers, judged by its goal. Raises ValueError for a value or limit that measures nothing."""
    for number in (value, limit):
        if number is not None and not (math.isfinite(number) and number >= 1):
            raise ValueError(f"{number} {unit} is no measurement")
    whole, bound = round(value), None if limit is None else round(limit)
    ratio = None if bound is None else round(whole / bound, 3)
    judged = whole if goal.on == "value" else ratio
    met = None
    if goal.bound is not None and judged is not None:
        met = judged <= goal.bound if goal.op == "<=" else judged >= goal.bound
    return Result(
        value=whole, unit=unit, limit=bound, ratio=ratio, goal=goal.bound, goal_on=goal.on, goal_op=goal.op, met=met
    )


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank). Raises ValueError for none."""
    if not samples:
        raise ValueError("no samples")
    if not 0 < percent <= 100:
        raise ValueError(f"{percent} is not within (0, 100]")
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


def merged(before: bytes | None, results: Mapping[str, Result], *, commit: str, cpus: int) -> Document:
    """The document after a run: its results over those that stood there. What cannot be read is left behind."""
    known: dict[str, Result] = {}
    if before is not None:
        try:
            document = msgspec.json.decode(before, type=Document)
        except msgspec.DecodeError:
            document = None
        if document is not None and document.schema == SCHEMA:
            known = document.results
    together = known | dict(results)
    return Document(schema=SCHEMA, commit=commit, cpus=cpus, results=dict(sorted(together.items())))


def encoded(document: Document) -> bytes:
    """The document as the bytes of its file."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
