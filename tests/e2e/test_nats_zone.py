"""A hub and its zones as leaf nodes, over TLS, in accounts of their own: copies, outboxes and cuts of the link."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from shared.events.event import Event
from shared.events.fold import check
from shared.nats import topology
from shared.nats.chain import ChainFault
from shared.nats.copy import Copier, Fault
from shared.nats.outbox import Outbox, OutboxFault, StatusOutbox
from shared.nats.pull import RawEvent
from shared.nats.stream import API
from tests.builders import LogBuilder, applied, mes
from tests.nats.world import World, running_world, until

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


class Zone:
    """A zone's copier and outboxes, running, without the rest of its control plane."""

    def __init__(self, world: World, name: str) -> None:
        local = world.zones[name]
        self.name = name
        self.copied: list[int] = []
        self.faults: list[Fault | OutboxFault] = []
        self.copy = topology.copied_log(local)
        self.own = topology.own_log(local, name)
        self.status = topology.own_status(local, name)
        self.announced: list[int] = []
        self.copier = Copier(
            topology.hub_log_from_zone(local, name), self.copy, on_fault=self.faults.append, ahead=self.announce
        )
        self.outbox = Outbox(self.own, topology.outbox_target(local, name), on_fault=self.faults.append)
        self.status_outbox = StatusOutbox(self.status, topology.status_target(local, name))

    def announce(self, batch: Sequence[RawEvent]) -> None:
        """Events that the copy is being given."""
        assert not {raw.sequence for raw in batch} & {*self.copied}, "announced once they were handed on"
        self.announced += [raw.sequence for raw in batch]

    async def copying(self) -> None:
        async for batch in self.copier.batches():
            self.copied += [raw.sequence for raw in batch]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job()) for job in (self.copying, self.outbox.run, self.status_outbox.run)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()


def write(builder: LogBuilder, count: int) -> list[Event]:
    zone = "" if builder.state.origin == "global" else builder.state.origin
    return list(builder.append(*(applied(mes(f"s-{builder.state.n + i}"), zone) for i in range(count))))


class Sessions:
    """The readers' sessions as the servers know them. What arrives in the same ones came when it was there: it waited
    for no session to be given up and for no other to be opened, which is what brings late news.
    """

    def __init__(self, world: World, zone: str) -> None:
        self._hub, self._local, self._zone = world.hub, world.zones[zone], zone

    async def _now(self) -> tuple[int, set[str]]:
        info = await self._hub.api(f"{API}.CONSUMER.INFO.{topology.EVENTS}.{topology.zone_reader(self._zone)}")
        names = await self._local.api(f"{API}.CONSUMER.NAMES.{topology.zone_stream(self._zone)}")
        return int(info["delivered"]["consumer_seq"]), set(names["consumers"])

    @contextlib.asynccontextmanager
    async def stay(self, events: int) -> AsyncIterator[None]:
        """So many events of global's arrive within, and no session is reset or replaced."""
        delivered, readers = await self._now()
        yield
        assert await self._now() == (delivered + events, readers)


async def status_arrives(world: World, zone: str, data: bytes) -> None:
    """Wait until the hub's status stream of the zone says `data`."""
    async with asyncio.timeout(10), contextlib.aclosing(topology.status_on_hub(world.hub, zone).follow()) as following:
        async for statuses in following:
            if statuses[-1].data == data:
                return


async def test_events_reach_the_other_side_and_nobody_else(tmp_path: Path) -> None:
    """Global's events are in each zone's copy, each zone's and its statuses in its own streams on the hub."""
    async with running_world(tmp_path, "east", "west") as world:
        east, west = Zone(world, "east"), Zone(world, "west")
        hub, east_log = LogBuilder(), LogBuilder("east")
        log = topology.global_log(world.hub)
        async with east.running(), west.running():
            await log.append(write(hub, 1))
            await until(lambda: east.copied == [1] and west.copied == [1], "the first event")
            async with Sessions(world, "east").stay(40):
                await log.append(write(hub, 40))
                await until(lambda: east.copied == west.copied == list(range(1, 42)), "a batch")
                assert east.announced
                assert set(east.announced) <= set(east.copied)
                await east.own.append(write(east_log, 5))
                await until(lambda: east.outbox.delivered == 5, "the outbox")
            await east.status.put("default.payments", b'{"reason":"x"}')
            await east.status.put("default.payments", b'{"reason":"y"}')
            await status_arrives(world, "east", b'{"reason":"y"}')
        assert [event async for event in east.copy.read()] == hub.events
        assert [event async for event in topology.zone_log_on_hub(world.hub, "east").read()] == east_log.events
        assert await topology.zone_log_on_hub(world.hub, "west").last() == 0
        assert await log.last() == 41
        assert await east.own.last() == 5
        assert not east.faults + west.faults


async def test_what_an_outbox_is_given_during_its_pause_goes_together(tmp_path: Path) -> None:
    """Nothing is forwarded before the pause is over, and then everything at once."""
    async with running_world(tmp_path, "east") as world:
        log, own = LogBuilder("east"), topology.own_log(world.zones["east"], "east")
        begun, over = asyncio.Event(), asyncio.Event()

        async def pause() -> None:
            begun.set()
            await over.wait()

        remote = topology.outbox_target(world.zones["east"], "east")
        outbox = Outbox(own, remote, on_fault=lambda fault: pytest.fail(str(fault)), pause=pause)
        running = asyncio.create_task(outbox.run())
        try:
            await own.append(write(log, 1))
            async with asyncio.timeout(10):
                await begun.wait()
            await own.append(write(log, 1))
            await own.append(write(log, 1))
            api, stream = world.zones["east"].api, topology.zone_stream("east")
            (reader,) = (await api(f"{API}.CONSUMER.NAMES.{stream}"))["consumers"]
            while (await api(f"{API}.CONSUMER.INFO.{stream}.{reader}"))["delivered"]["consumer_seq"] < 3:
                pass  # each look is a round trip
            await world.zones["east"].flush()  # what was delivered has been read
            assert (outbox.delivered, await remote.last()) == (0, 0)
            over.set()
            await until(lambda: outbox.delivered > 0, "the outbox")
            assert outbox.delivered == 3
        finally:
            running.cancel()


@pytest.mark.parametrize("how", ["refuse", "swallow"])
async def test_a_cut_link_only_delays(tmp_path: Path, how: Literal["refuse", "swallow"]) -> None:
    """While cut, both sides write; after the heal both converge, nothing lost or applied twice."""
    async with running_world(tmp_path, "west") as world:
        zone = Zone(world, "west")
        hub, own = LogBuilder(), LogBuilder("west")
        log = topology.global_log(world.hub)
        async with zone.running():
            await log.append(write(hub, 3))
            await zone.own.append(write(own, 2))
            await until(lambda: zone.copied == [1, 2, 3] and zone.outbox.delivered == 2, "the start")
            await world.links["west"].cut(how)
            for _ in range(20):
                await log.append(write(hub, 1))
                await zone.own.append(write(own, 1))
                await zone.status.put("default.payments", str(own.state.n).encode())
            await log.append(write(hub, 1000))
            assert zone.copied == [1, 2, 3]
            await world.links["west"].heal()
            await until(lambda: len(zone.copied) == 1023 and zone.outbox.delivered == 22, "convergence")
            # And it is live again, not only caught up.
            async with Sessions(world, "west").stay(1):
                await log.append(write(hub, 1))
                await zone.own.append(write(own, 1))
                await until(lambda: len(zone.copied) == 1024 and zone.outbox.delivered == 23, "news")
            await status_arrives(world, "west", b"22")
        assert zone.copied == list(range(1, 1025))
        assert [event async for event in zone.copy.read()] == hub.events
        assert [event async for event in topology.zone_log_on_hub(world.hub, "west").read()] == own.events
        assert not zone.faults


async def test_servers_that_die_come_back_where_they_were(tmp_path: Path) -> None:
    """kill -9 of the hub's, then the zone's server: nothing is lost; a restarted zone goes on at its copy's end."""
    async with running_world(tmp_path, "west") as world:
        zone = Zone(world, "west")
        hub, own = LogBuilder(), LogBuilder("west")
        log = topology.global_log(world.hub)
        async with zone.running():
            await log.append(write(hub, 10))
            await zone.own.append(write(own, 1))
            await until(lambda: len(zone.copied) == 10, "the start")
            await world.servers["hub"].kill()
            await zone.own.append(write(own, 1))
            await world.restart("hub")
            await log.append(write(hub, 2))
            await until(lambda: len(zone.copied) == 12 and zone.outbox.delivered == 2, "the hub's return")
            await world.servers["west"].kill()
            await log.append(write(hub, 2))
            await world.restart("west")
            await zone.own.append(write(own, 1))
            await until(lambda: len(zone.copied) == 14 and zone.outbox.delivered == 3, "the zone's return")
        again = Zone(world, "west")
        async with again.running():
            await log.append(write(hub, 1))
            await until(lambda: again.copied == [15], "the restarted zone")
            assert again.outbox.delivered == 3
        assert zone.copied == list(range(1, 15))
        assert not zone.faults + again.faults


async def test_a_chain_fault_halts_the_copy_and_nothing_else(tmp_path: Path) -> None:
    """An event that does not continue the chain is refused with its number, the copy keeps what it had, and goes on
    copying once an operator has put things right.
    """
    async with running_world(tmp_path, "west") as world:
        zone = Zone(world, "west")
        hub = LogBuilder()
        log = topology.global_log(world.hub)
        async with zone.running():
            await log.append(write(hub, 2))
            await until(lambda: zone.copied == [1, 2], "the start")
            (good,) = write(hub, 1)
            await log.append([msgspec.structs.replace(good, actor="mallory", prev="0" * 64)])
            await until(lambda: len(zone.faults) == 1, "the fault")
            assert isinstance(zone.faults[0], ChainFault)
            assert zone.faults[0].sequence == 3
            assert await zone.copy.last() == 2
            own = write(LogBuilder("west"), 1)
            await zone.own.append(own)
            await until(lambda: zone.outbox.delivered == 1, "the outbox, which is not concerned")


async def test_a_hub_that_holds_other_events_is_noticed(tmp_path: Path) -> None:
    """A zone that was rolled back does not overwrite what the hub has of it: the outbox halts, loudly."""
    async with running_world(tmp_path, "west") as world:
        zone = Zone(world, "west")
        await topology.zone_log_on_hub(world.hub, "west").append(write(LogBuilder("west"), 2))
        mine = LogBuilder("west")
        first = mine.append(applied(mes("other"), "west"), applied(mes("another"), "west"))
        assert check(LogBuilder("west").state, first[0]) is None
        await zone.own.append(list(first))
        async with zone.running():
            await until(lambda: bool(zone.faults), "the fault")
        assert isinstance(zone.faults[0], ChainFault)
        assert zone.faults[0].sequence == 2
