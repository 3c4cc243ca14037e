"""What can wait is done in a moment without changes, or after a while."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.process import lull
from shared.process.lull import Lull

pytestmark = pytest.mark.anyio


async def test_nothing_is_waited_for_where_nothing_happens() -> None:
    """A fresh one is over without a turn of the loop."""
    other = asyncio.ensure_future(asyncio.sleep(0))
    await Lull().over()
    assert not other.done()
    await other


async def test_it_begins_anew_with_every_step() -> None:
    """Who waits is let go once nothing has happened for as long as it takes."""
    one, steps = Lull(), list[float]()
    one.disturb()
    waiting = asyncio.ensure_future(one.over())
    while len(steps) < 5:
        await asyncio.sleep(lull.QUIET_SECONDS / 4)
        one.disturb()
        steps.append(time.monotonic())
    await waiting
    assert time.monotonic() >= steps[-1] + lull.QUIET_SECONDS or time.monotonic() >= steps[0] + lull.MOST_SECONDS


async def test_endless_changes_hold_nothing_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a moment of rest it is over after MOST_SECONDS."""
    monkeypatch.setattr(lull, "QUIET_SECONDS", 1000.0)
    one, started = Lull(), time.monotonic()
    one.disturb()
    async with asyncio.timeout(30):
        await one.over()
    assert time.monotonic() - started >= lull.MOST_SECONDS
