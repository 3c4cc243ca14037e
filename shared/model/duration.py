"""Go's duration text, as Kuma's policies write it: `15s`, `1h30m`, `500ms`, `1.5s`, `0`."""

from __future__ import annotations

import re
from datetime import timedelta

_MICROSECONDS = {
    "ns": 0.001,
    "us": 1.0,
    "µs": 1.0,
    "ms": 1_000.0,
    "s": 1_000_000.0,
    "m": 60_000_000.0,
    "h": 3_600_000_000.0,
}
_part = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_whole = re.compile(rf"[+-]?(?:0|(?:{_part.pattern})+)")
LONGEST = timedelta(days=365 * 290)
"""Go's durations end at about 292 years."""


def parse_duration(text: str) -> timedelta | None:
    """The duration that `text` says, to the microsecond, possibly negative; None when it is none."""
    if not _whole.fullmatch(text) or len(text) > 64:
        return None
    total = sum(float(number) * _MICROSECONDS[unit] for number, unit in _part.findall(text))
    if total > LONGEST / timedelta(microseconds=1):
        return None
    return timedelta(microseconds=-total if text.startswith("-") else total)
