"""What a storm leaves behind is given back once it is over, where the C library can."""

from __future__ import annotations

import asyncio
import platform

import pytest

from zone_cp.ads import memory
from zone_cp.ads.memory import AfterStorm, trimmer

pytestmark = pytest.mark.anyio


async def test_it_is_given_back_once_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clients of one storm cost one trim, a later one another; what it needed is let go of before."""
    monkeypatch.setattr(memory, "QUIET_SECONDS", 0.05)
    trimmed: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    forgotten: list[bool] = []
    after = AfterStorm(
        lambda: loop.call_soon_threadsafe(trimmed.put_nowait, None), lambda: forgotten.append(trimmed.empty())
    )
    for _ in range(2):
        for _ in range(3):
            after.again()
        async with asyncio.timeout(5):
            await trimmed.get()
        assert trimmed.empty()
    assert forgotten == [True, True]


async def test_without_glibc_nothing_is_done() -> None:
    """Another allocator has its own ways."""
    AfterStorm(None).again()
    trim = trimmer()
    assert (trim is not None) == (platform.libc_ver()[0] == "glibc")
    if trim is not None:
        trim()
