"""The trace of a change from history alone: what zones recorded of it, when nobody remembers it any more."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

import msgspec

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.events.progress import Recorded, ZoneTrace

RECORDS = "zone_cp.traced"
"""Imported by name: `shared` imports neither plane."""


def recorded(history: History, zone: str, origin: str, n: int) -> Recorded:
    """What is recorded of event n of `origin` in a zone. Raises NoSuchMoment."""
    found: Recorded = importlib.import_module(RECORDS).recorded(history, zone, origin, n)
    return found


def past_traces(history: History, origin: str, n: int) -> tuple[ZoneTrace, ...]:
    """What became of an event in every zone that it concerns. Raises NoSuchMoment."""
    history.event(origin, n)
    zones = history.zones if origin == GLOBAL else [origin]
    return tuple(_traced(zone, recorded(history, zone, origin, n)) for zone in zones)


def with_records(history: History, traces: Iterable[ZoneTrace], origin: str, n: int) -> tuple[ZoneTrace, ...]:
    """Traces of which those have what is recorded that do not know any more when it was. Raises NoSuchMoment."""
    return tuple(
        msgspec.structs.replace(one, recorded=recorded(history, one.zone, origin, n))
        if one.push is None and one.zone in history.zones
        else one
        for one in traces
    )


def _traced(zone: str, record: Recorded) -> ZoneTrace:
    delivered = record.proxies and not record.unrecorded_count
    return ZoneTrace(zone, "delivered" if delivered else "seen" if record.seen_by else "not seen", recorded=record)
