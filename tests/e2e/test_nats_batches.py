"""Whoever follows a log sees every write whole: a batch of events is never cut, unless a server died within it."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from shared.nats.connection import connect
from shared.nats.log import JetStreamLog
from shared.nats.pull import HOLD_SECONDS, PullSession, RawEvent
from shared.nats.stream import event_stream
from tests.builders import LogBuilder, applied, mes
from tests.nats.world import WAIT_SECONDS, running_single, until

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

WRITES = 300


async def test_a_follower_sees_writes_whole(tmp_path: Path) -> None:
    """Each thing that a follower is handed ends where a write ended, however fast they come."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log, builder = JetStreamLog(connection, "EV"), LogBuilder()
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        dice = random.Random(1)
        ends, seen = {0}, [0]

        async def follow() -> None:
            async for batch in log.follow():
                assert batch
                seen.append(batch[-1].n)

        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            for _ in range(WRITES):
                count = dice.randint(1, 6)
                events = builder.append(*(applied(mes(f"service-{builder.state.n + i}")) for i in range(count)))
                await log.append(list(events))
                ends.add(events[-1].n)
            last = max(ends)
            await until(lambda: seen[-1] == last, "the last write")
            following.cancel()
        assert set(seen) <= ends
        assert len(seen) > WRITES / 10, "they were handed on as they came"


class NoServer:
    """A connection on which nothing happens."""

    def when_connected(self, _: Any) -> Any:
        return lambda: None

    async def publish(self, *_: Any, **__: Any) -> None:
        return

    def new_inbox(self) -> str:
        return "_INBOX.x"


async def test_what_is_left_of_a_broken_batch_is_handed_on() -> None:
    """A server that died within a batch kept its beginning: that is all there is, and waiting for more has an end."""
    connection: Any = NoServer()
    session = PullSession(connection, "$JS.API", "EV")
    left = [RawEvent(1, "mesh.v1.x", b"{}")]
    session._buffer = list(left)

    async def heartbeats() -> None:
        while True:
            session._wake.set()
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(heartbeats())
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(HOLD_SECONDS + WAIT_SECONDS):
        assert await session.batch() == left
    assert asyncio.get_running_loop().time() - began >= HOLD_SECONDS
    beating.cancel()
