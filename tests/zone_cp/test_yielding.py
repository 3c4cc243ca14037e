"""What a zone writes behind a change waits for a lull: conditions, a piece at a time, and its word on progress."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from immutables import Map

from shared.events.state import LogState, Position, ZoneState
from shared.events.stop import Stop
from tests.zone_cp.test_status import SERVICES, Zone
from zone_cp.ads.hub import Hub
from zone_cp.progress import ZoneProgress
from zone_cp.status import StatusBoard

pytestmark = pytest.mark.anyio


class Lulls:
    """Pauses that the test ends, one by one."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self._ends = asyncio.Semaphore(0)

    async def over(self) -> None:
        self.begun.release()
        await self._ends.acquire()

    def end(self) -> None:
        self._ends.release()


class Told:
    """A status stream that keeps what it is given."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def put(self, key: str, _data: bytes) -> None:
        self.keys.append(key)


class Nothing:
    """No proxy is kept from anything, and nothing is planned for one."""

    fleet = None
    stops: Sequence[Stop] = ()
    faults: Mapping[str, str] = Map()

    def reason(self, _proxy: str) -> str:
        return ""

    def delayed(self, _proxy: str) -> str:
        return ""

    def quarantined(self) -> tuple[()]:
        return ()


async def test_conditions_are_recorded_a_piece_between_two_lulls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five rows two are a piece: none before the first lull, one before the second, three before the third."""
    monkeypatch.setattr("zone_cp.status.PIECE", 2)
    monkeypatch.setattr("zone_cp.status.SETTLE_SECONDS", 0.0)
    zone, lulls = Zone(), Lulls()
    zone.board = StatusBoard("east", zone.stream, zone.present, Map, pause=lulls.over)  # type: ignore[arg-type]
    zone.board.delivered(zone.present()[1], (), "2026-01-01T00:00:00Z")
    running, found = asyncio.create_task(zone.board.run()), list[int]()
    for _ in range(3):
        async with asyncio.timeout(30):
            await lulls.begun.acquire()
        found.append(len(zone.stream.puts))
        lulls.end()
    assert found == [0, 1, 3]
    async with asyncio.timeout(30):
        while len(zone.stream.puts) < len(SERVICES):  # noqa: ASYNC110 - nothing tells of a row
            await asyncio.sleep(0)
    running.cancel()


async def test_progress_is_said_in_a_lull_that_every_step_of_a_change_disturbs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What reaches the zone, and what moves a proxy, disturbs it; global hears of both once it is over."""
    state, stream, lulls = ZoneState("east", LogState("global"), LogState("east")), Told(), Lulls()
    monkeypatch.setattr("zone_cp.progress.BEHIND_SECONDS", 0.0)
    hub = Hub()
    progress = ZoneProgress("east", hub, stream, state=lambda: state, plan=Nothing(), kept=Nothing())
    disturbed: list[None] = []
    monkeypatch.setattr(progress.lull, "disturb", lambda: disturbed.append(None))
    monkeypatch.setattr(progress.lull, "over", lulls.over)
    running = asyncio.create_task(progress.run())
    progress.saw(1, 1)
    hub.on_moved("default.web")
    hub.advance(Position(1, 0))
    async with asyncio.timeout(30):
        await lulls.begun.acquire()
    assert (len(disturbed), stream.keys) == (3, [])
    lulls.end()
    async with asyncio.timeout(30):
        while not stream.keys:  # noqa: ASYNC110 - nothing tells of a message
            await asyncio.sleep(0)
    assert stream.keys == ["progress"]
    running.cancel()
