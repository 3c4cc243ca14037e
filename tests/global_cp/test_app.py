"""What one zone writes is no danger to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from global_cp.app import follow_zone, recover_zone
from shared.events.event import Event
from shared.events.log import MemoryLog
from shared.nats.log import LogFault
from tests.builders import LogBuilder, applied, mes, mesh
from tests.global_cp.test_follow import World

pytestmark = pytest.mark.anyio


class Garbage(MemoryLog):
    """Its first events can be read, what comes then cannot."""

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Event]:
        async for event in super().read(after, until):
            yield event
        raise LogFault("Z_east", len(self.events) + 1, "not an event")

    async def follow(self, after: int = 0) -> AsyncIterator[Sequence[Event]]:
        if self.events[after:]:
            yield self.events[after:]
        raise LogFault("Z_east", len(self.events) + 1, "not an event")


async def _still_takes_commands(world: World) -> None:
    await world.put(mesh("default", mtls=False), mes("a"))
    assert world.kinds() == ["ResourceApplied", "ResourceApplied"]


async def test_garbage_of_a_zone_halts_its_own_view_only() -> None:
    """What came before it is shown; global starts, follows on and takes commands."""
    world, log = World(), Garbage()
    await log.append(LogBuilder("east").append(applied(mes("island"), "east")))
    await recover_zone(world.owner, "east", log)
    following = asyncio.create_task(follow_zone(world.owner, "east", log))
    await asyncio.sleep(0)
    await _still_takes_commands(world)
    assert not following.done()
    assert world.owner.state.zones["east"].n == 1
    following.cancel()


async def test_a_zone_that_writes_in_anothers_name_is_not_believed() -> None:
    """Events of another origin in a zone's stream are not folded."""
    world, log = World(), MemoryLog()
    await log.append(LogBuilder("west").append(applied(mes("island"), "west")))
    await recover_zone(world.owner, "east", log)
    following = asyncio.create_task(follow_zone(world.owner, "east", log))
    await asyncio.sleep(0)
    await _still_takes_commands(world)
    assert not following.done()
    assert (world.owner.state.zones["east"].n, world.owner.state.zones["west"].n) == (0, 0)
    following.cancel()
