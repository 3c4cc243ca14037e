"""The in-memory log keeps the promises of EventLog."""

from __future__ import annotations

import pytest

from shared.events.event import Event
from shared.events.log import Conflict, MemoryLog
from tests.builders import LogBuilder, applied, mes


def _events(count: int) -> tuple[Event, ...]:
    return LogBuilder().append(*(applied(mes(f"s{number}")) for number in range(count)))


@pytest.mark.anyio
async def test_what_was_appended_is_read_in_order() -> None:
    """Event n stands at sequence n; reading is after < n <= until."""
    log, events = MemoryLog(), _events(4)
    await log.append(events[:1])
    await log.append(events[1:])
    assert await log.last() == 4
    assert [event.n async for event in log.read(after=1, until=3)] == [2, 3]


@pytest.mark.anyio
async def test_a_retry_is_a_success_and_another_writer_a_conflict() -> None:
    """The same ids again change nothing; other events at a taken place are refused whole."""
    log, events = MemoryLog(), _events(2)
    await log.append(events)
    await log.append(events)
    assert await log.last() == 2
    others = LogBuilder("east").append(applied(mes("x"), "east"), applied(mes("y"), "east"), applied(mes("z"), "east"))
    with pytest.raises(Conflict) as raised:
        await log.append(others)
    assert (raised.value.expected, raised.value.actual) == (0, 2)
    assert await log.last() == 2


@pytest.mark.anyio
async def test_a_gap_is_a_conflict() -> None:
    """Nothing is written after a place that is empty."""
    log, events = MemoryLog(), _events(2)
    with pytest.raises(Conflict):
        await log.append(events[1:])
    assert await log.last() == 0


@pytest.mark.anyio
async def test_followers_see_what_comes() -> None:
    """Batches are not empty and begin where the follower stands."""
    log, events = MemoryLog(), _events(3)
    await log.append(events[:2])
    follower = log.follow(after=1)
    assert [event.n for event in await anext(follower)] == [2]
    await log.append(events[2:])
    assert [event.n for event in await anext(follower)] == [3]
