"""What callbacks learn is recorded in the order they learned it, however the log fares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from shared.events.event import Change
from shared.events.log import LogUnavailable
from shared.events.state import ZoneState
from zone_cp import record
from zone_cp.follow import Decided
from zone_cp.record import Recorder, RecorderFull

pytestmark = pytest.mark.anyio


class Log:
    """Takes what is written, or is away."""

    def __init__(self) -> None:
        self.away = False
        self.takes = record.BATCH
        self.actors: list[str] = []
        self.batches: list[int] = []

    async def write(self, entries: Sequence[tuple[Decided, str]]) -> int:
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("not connected")
        taken = entries[: self.takes]
        self.batches.append(len(taken))
        self.actors += [actor for _, actor in taken]
        return len(taken)


def nothing(_: ZoneState) -> Sequence[Change]:
    return ()


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(recorder.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_nothing_overtakes_while_the_log_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that came meanwhile is recorded afterwards, first come, first served."""
    monkeypatch.setattr(record, "RETRY_SECONDS", 0.001)
    log = Log()
    recorder = Recorder(log.write)
    log.away = True
    async with running(recorder):
        for number in range(10):
            recorder.record(nothing, str(number))
            await asyncio.sleep(0.002)
        assert log.actors == []
        log.away = False
        recorder.record(nothing, "10")
        await recorder.settle()
    assert log.actors == [str(number) for number in range(11)]


async def test_what_waits_is_recorded_together() -> None:
    """Two thousand at once cost a few appends; what an append had no room for comes first in the next one."""
    log = Log()
    recorder = Recorder(log.write)
    for number in range(2_000):
        recorder.record(nothing, str(number))
    log.takes = record.BATCH - 50
    async with running(recorder):
        await recorder.settle()
    assert log.actors == [str(number) for number in range(2_000)]
    assert len(log.batches) == 2_000 // log.takes


async def test_a_stop_waits_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the log gone it gives up; with nothing to record it does not wait at all."""
    monkeypatch.setattr(record, "STOP_SECONDS", 0.01)
    log = Log()
    recorder = Recorder(log.write)
    await recorder.settle()
    log.away = True
    async with running(recorder):
        recorder.record(nothing, "a")
        await asyncio.wait_for(recorder.settle(), 1)
    assert log.actors == []


async def test_more_than_a_zone_can_have_to_say_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue has a limit, and going beyond it is loud."""
    monkeypatch.setattr(record, "LIMIT", 3)
    recorder = Recorder(Log().write)
    for number in range(4):
        recorder.record(nothing, str(number))
    async with running(recorder) as task:
        await asyncio.wait((task,), timeout=5)
        assert isinstance(task.exception(), RecorderFull)


async def test_a_broken_decision_is_a_failure() -> None:
    """It ends the task, whose end fails the process."""

    async def broken(_entries: Sequence[tuple[Decided, str]]) -> int:
        raise ValueError("broken")

    recorder = Recorder(broken)
    recorder.record(nothing, "a")
    async with running(recorder) as task:
        await asyncio.wait((task,), timeout=5)
        assert isinstance(task.exception(), ValueError)
