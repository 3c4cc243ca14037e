"""What marks tell of a change that is long past: bounds, and nothing where nothing is recorded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from shared.events.event import ProxyConnected
from shared.events.history import History
from shared.events.past import PastLog
from shared.events.progress import Arrival
from shared.events.state import Position
from shared.history.trace import past_traces
from shared.model.resource import key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, egress, generator, mes, mesh
from zone_cp.marks import Bucket, Head, Row

PROXY = ".egress-1"
CHANGE = 3


def history(marks: Sequence[tuple[str, int, bool]], *, heads: Sequence[tuple[str, int]] = ()) -> History:
    """The egress was at g at a time and (or not) had all there was then; `heads` come after all of these."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    resource = egress()
    zone.write(applied(resource, "east"))
    zone.write(ProxyConnected(proxy=PROXY, key=key_of(resource, "east"), connection="c"))
    for one in (applied(mesh()), applied(generator()), applied(mes()), applied(mes("orders"))):
        hub.append(one)
        zone.follow(hub)
    now = (hub.state.incarnation, zone.own.state.incarnation)
    buckets = [Bucket((now,), {PROXY: Row(0, Position(g, 99), current, at, {})}) for at, g, current in marks]
    written: list[Bucket | Head] = [*buckets, *(Head(now, Position(g, 99), at) for at, g in heads)]
    logs = History.of(hub.events, {"east": zone.own.events})
    recorded = {"east": [msgspec.json.encode(one) for one in written]}
    return History(PastLog.of("global", hub.events), logs.zones, recorded)


@pytest.mark.parametrize(
    ("marks", "heads", "arrived"),
    [
        ([("t1", 2, True), ("t2", 3, True)], [], Arrival(PROXY, "t1", "t2")),
        ([("t1", 4, True)], [], Arrival(PROXY, "", "t1")),
        ([("t1", 2, True)], [("t2", 2), ("t3", 4)], Arrival(PROXY, "t2", "t3")),
        ([("t1", 2, False)], [("t3", 4)], None),
        ([("t1", 2, True)], [], None),
        ([], [("t3", 4)], None),
    ],
)
def test_bounds_are_told(
    marks: Sequence[tuple[str, int, bool]], heads: Sequence[tuple[str, int]], arrived: Arrival | None
) -> None:
    """Not yet at the last mark before it, and at the latest at the first that has it; a proxy with all moves on."""
    (found,) = past_traces(history(marks, heads=heads), "global", CHANGE)
    record = found.recorded
    assert record is not None
    assert record.proxies == 1
    assert record.delivered == (() if arrived is None else (arrived,))
    assert record.unrecorded == ((PROXY,) if arrived is None else ())
    assert found.state == ("seen" if arrived is None else "delivered")
    assert record.seen_by


def test_a_zones_event_concerns_that_zone() -> None:
    """It was seen when it was written."""
    logs = history([])
    (found,) = past_traces(logs, "east", 2)
    assert found.recorded is not None
    assert found.recorded.seen_by == logs.zones["east"].event(2).time
