"""A bounded number of streams bring their clients up to date at a time; one that is silent holds nobody up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.ads.stream_pair import SHORT, snapshot
from tests.ads.test_server import ADS, SECONDS, answer, ask, world
from zone_cp.ads import starting

pytestmark = pytest.mark.anyio


async def started(it: Any, proxy: str) -> Any:
    """A stream of that proxy that has asked for its clusters."""
    call = it.call(ADS, proxy)
    await ask(call, proxy=proxy)
    return call


async def test_one_waits_until_the_other_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place: the second client is sent nothing before the first has ACKed."""
    monkeypatch.setattr(starting, "FIRST_SYNCS_MAX", 1)
    monkeypatch.setattr(starting, "FIRST_SYNC_SECONDS", 3_600.0)
    async with world() as it:
        for proxy in ("p", "q"):
            it.server.offer(proxy, snapshot(1, CDS=["a"]))
        first = await started(it, "p")
        held = await answer(first)
        second = await started(it, "q")
        waiting = asyncio.ensure_future(answer(second))
        await asyncio.wait((waiting,), timeout=0.1)
        assert not waiting.done()
        await ask(first, response_nonce=held.nonce)
        assert [one.name for one in (await waiting).resources] == ["a"]


async def test_a_silent_client_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is over after a while, and others are served although it never answers."""
    monkeypatch.setattr(starting, "FIRST_SYNCS_MAX", 1)
    monkeypatch.setattr(starting, "FIRST_SYNC_SECONDS", 0.01)
    async with world() as it:
        for proxy in ("p", "q"):
            it.server.offer(proxy, snapshot(1, CDS=["a"]))
        await answer(await started(it, "p"))
        assert (await answer(await started(it, "q"))).type_url == SHORT["CDS"]


async def test_a_client_that_does_not_read_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is being sent stands in the way of nobody else, and is sent on once it reads."""
    monkeypatch.setattr(starting, "FIRST_SYNCS_MAX", 1)
    monkeypatch.setattr(starting, "FIRST_SYNC_SECONDS", 0.01)
    async with world() as it:
        it.server.offer("p", snapshot(1, CDS=dict.fromkeys("abcdefgh", "x" * 4_000_000)))
        it.server.offer("q", snapshot(1, CDS=["a"]))
        deaf = await started(it, "p")
        assert (await answer(await started(it, "q"))).type_url == SHORT["CDS"]
        (stream,) = it.server.hub.streams_of("p")
        assert stream.xds.unanswered, "it is still being sent to"
        assert len((await answer(deaf)).resources) == 1


async def test_who_comes_first_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is admitted as first needs no place."""
    monkeypatch.setattr(starting, "FIRST_SYNCS_MAX", 1)
    monkeypatch.setattr(starting, "FIRST_SYNC_SECONDS", 3_600.0)
    async with world() as it:
        it.first = "egress"
        for proxy in ("p", "egress"):
            it.server.offer(proxy, snapshot(1, CDS=["a"]))
        await answer(await started(it, "p"))
        async with asyncio.timeout(SECONDS):
            await answer(await started(it, "egress"))
