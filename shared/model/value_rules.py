"""Rules for single values of policies: Kuma's sentences for durations and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TypeAlias

from shared.model.duration import parse_duration
from shared.model.target import IntOrString

Found: TypeAlias = Iterator[tuple[str, str]]
"""(path, reason) of every broken rule."""

POSITIVE = "must be greater than 0"
NOT_NEGATIVE = "must not be negative when defined"
POSITIVE_WHEN_DEFINED = "must be greater than zero when defined"

_decimal = re.compile(r"\d{1,9}(?:\.\d{1,9})?")


def duration(text: str | None, path: str, *, above_zero: bool = False) -> Found:
    """A duration, which may not be negative."""
    if text is None:
        return
    value = parse_duration(text)
    if value is None:
        yield path, f'time: invalid duration "{text}"'
    elif value < timedelta(0):
        yield path, NOT_NEGATIVE
    elif above_zero and not value:
        yield path, POSITIVE_WHEN_DEFINED


def positive(value: int | None, path: str, most: int = 2**32 - 1) -> Found:
    """A whole number from 1 to `most`."""
    if value is not None and value <= 0:
        yield path, POSITIVE
    elif value is not None and value > most:
        yield path, f"must be in inclusive range [1, {most}]"


def percent(value: IntOrString | None, path: str, most: int = 100) -> Found:
    """A decimal number from 0 to `most`, as a number or as text."""
    if value is None:
        return
    if not _decimal.fullmatch(str(value)):
        yield path, "string must be a valid number"
    elif float(value) > most:
        yield path, f"must be in inclusive range [0.0, {most}.0]"
