"""Times as people give them, as events carry them. Pure: the present is an argument."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from shared.events.history import NoSuchMoment
from shared.model.duration import parse_duration

_DAYS = re.compile(r"(?:(\d{1,6})d)?(.*)")
WAYS = "give an RFC 3339 time, or how long ago: 10m, 2h, 3d"


def event_time(when: datetime) -> str:
    """RFC 3339 in UTC with microseconds: fixed width, so that times sort as text."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def time_meant(text: str, now: datetime) -> str:
    """The time that `text` means, as events carry it. Raises NoSuchMoment."""
    ago = _DAYS.fullmatch(text.strip().removesuffix("ago").strip())
    if ago is not None and ago[0]:
        days, rest = ago.groups()
        before = parse_duration(rest or "0")
        if before is not None and before >= timedelta(0) and (days or rest):
            try:
                return event_time(now - before - timedelta(days=int(days or 0)))
            except OverflowError:
                raise NoSuchMoment(f"{text!r} ago is before all time") from None
    try:
        when = datetime.fromisoformat(text.strip())
        return event_time(when if when.tzinfo else when.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise NoSuchMoment(f"{text!r} is no time: {WAYS}") from None
