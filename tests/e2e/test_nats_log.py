"""The event log on one real nats-server: order, conflicts, retries, crashes, scratch copies."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from shared.events.event import Event
from shared.events.log import Conflict, LogUnavailable
from shared.nats.connection import NatsSettings, connect
from shared.nats.direct import get_batch
from shared.nats.log import JetStreamLog, LogFault, Undecodable
from shared.nats.pull import RawEvent
from shared.nats.server import scratch_server
from shared.nats.stream import API, event_stream
from tests.builders import LogBuilder, applied, mes
from tests.nats.world import running_single, until

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


def events(count: int, log: LogBuilder | None = None) -> list[Event]:
    builder = log or LogBuilder()
    return list(builder.append(*(applied(mes(f"service-{builder.state.n + i}")) for i in range(count))))


async def test_append_read_and_follow_agree(tmp_path: Path) -> None:
    """Singles and batches stand at their own numbers; read gives any range; follow gives the past, then what comes."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        assert await log.last() == 0
        builder = LogBuilder()
        first, rest = events(1, builder), events(1500, builder)
        await log.append(first)
        await log.append(rest[:1000])
        await log.append(rest[1000:])
        assert await log.last() == 1501
        assert [event async for event in log.read()] == first + rest
        assert [event.n async for event in log.read(after=10, until=13)] == [11, 12, 13]
        assert [event.n async for event in log.read(after=1500)] == [1501]
        seen: list[Event] = []

        async def follow() -> None:
            async for batch in log.follow(after=1490):
                assert batch
                seen.extend(batch)

        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            await until(lambda: len(seen) == 11, "the past")
            more = events(3, builder)
            reader = await connection.api(f"{API}.CONSUMER.NAMES.EV")
            await log.append(more)
            await until(lambda: len(seen) == 14, "the new events")
            assert seen[11:] == more
            assert (await connection.api(f"{API}.CONSUMER.NAMES.EV"))["consumers"] == reader["consumers"], "came late"
            following.cancel()


async def test_a_stale_writer_is_refused_and_a_retry_is_not(tmp_path: Path) -> None:
    """Of two writers at one position one gets Conflict with the log's end; the same ids again are a success."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        mine, other = events(3), [msgspec.structs.replace(event, id="x" + event.id) for event in events(3)]
        await log.append(mine[:1])
        await log.append(mine[:1])
        await log.append(mine[1:])
        await log.append(mine[1:])
        await log.append(mine)
        for batch in (other[:1], other, other[1:]):
            with pytest.raises(Conflict) as conflict:
                await log.append(batch)
            assert conflict.value.actual == 3
        with pytest.raises(Conflict):
            await log.append([msgspec.structs.replace(mine[0], n=9, id="far")])
        # A crash in the middle of a batch may leave its beginning: the retry adds the rest.
        more = LogBuilder()
        long = events(6, more)
        await log.append(long)
        assert [event.id async for event in log.read()] == [event.id for event in long]


async def test_poison_does_not_stop_a_reader(tmp_path: Path) -> None:
    """What cannot be decoded is shown with its place, and reading goes on behind it."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        skipped: list[int] = []
        log = JetStreamLog(connection, "EV")
        lenient = JetStreamLog(connection, "EV", on_poison=lambda raw, _: skipped.append(raw.sequence))
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        good = events(3)
        await log.append(good[:1])
        await log.append_raw([RawEvent(2, "mesh.v1.x", b'{"id":"poison"}')])
        await log.append(good[2:])
        with pytest.raises(Undecodable) as fault:
            _ = [event async for event in log.read()]
        assert fault.value.sequence == 2
        assert [event.n async for event in log.read(after=2)] == [3]
        assert [event.n async for event in lenient.read()] == [1, 3]
        assert [raw.sequence async for raw in log.read_raw()] == [1, 2, 3]
        numbers: list[int] = []
        async for batch in lenient.follow():
            numbers += [event.n for event in batch]
            if numbers[-1] == 3:
                break
        assert numbers == [1, 3]
        assert skipped == [2, 2]


async def test_kill_loses_no_acknowledged_event_and_doubles_none(tmp_path: Path) -> None:
    """kill -9 of the server, thrice, during appends of one and of many: the log is exactly what was appended."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        builder = LogBuilder()
        acknowledged: list[Event] = []
        followed: list[int] = []
        unavailable = 0

        async def write(stop: asyncio.Event) -> None:
            nonlocal unavailable
            size = 1
            while not stop.is_set():
                batch = events(size, builder)
                size = 1 if size > 1 else 7
                while True:
                    try:
                        await log.append(batch)
                    except LogUnavailable:
                        unavailable += 1
                    else:
                        break
                acknowledged.extend(batch)

        async def follow() -> None:
            async for batch in log.follow():
                followed.extend(event.n for event in batch)

        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow())
            writing = group.create_task(write(stop))
            for _ in range(3):
                mark = len(acknowledged)
                await until(lambda mark=mark: len(acknowledged) > mark + 60, "progress")  # type: ignore[misc]
                await single.kill()
                await single.start()
            mark = len(acknowledged)
            await until(lambda: len(acknowledged) > mark + 60, "progress")
            stop.set()
            await writing
            await until(lambda: len(followed) == len(acknowledged), "the follower")
            following.cancel()
        stored = [event async for event in log.read()]
        assert stored == acknowledged
        assert followed == list(range(1, len(stored) + 1))


async def test_a_log_that_went_back_is_a_fault(tmp_path: Path) -> None:
    """Following after a position that the log does not have is refused loudly, as is a hole."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        await log.append(events(3))
        with pytest.raises(LogFault, match="rolled back"):
            await anext(aiter(log.follow(after=7)))


async def test_an_unreachable_server_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    """Without a server: connecting and appending say LogUnavailable within bounded time."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        await single.kill()
        with pytest.raises(LogUnavailable):
            await log.append(events(1))
        with pytest.raises(LogUnavailable):
            await connect(single.settings, timeout_seconds=0.5)


def digest(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


async def test_a_scratch_server_reads_a_copy_and_leaves_the_original_alone(tmp_path: Path) -> None:
    """A stopped server's store is opened as a copy; the original keeps each byte, though the copy is written."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        builder = LogBuilder()
        written = events(5, builder)
        await log.append(written)
    before = digest(single.store)
    async with scratch_server(single.store) as url, await connect(NatsSettings(url=url)) as connection:
        log = JetStreamLog(connection, "EV")
        assert [event async for event in log.read()] == written
        await log.append(events(1, builder))
    assert digest(single.store) == before


async def test_few_events_that_need_not_be_whole_are_written_one_after_the_other(tmp_path: Path) -> None:
    """No batch is made of them; a retry after a beginning adds the rest; another's event is a conflict."""
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        log = JetStreamLog(connection, "EV")
        await log.ensure(event_stream("EV", "mesh.v1.>"))
        mine = events(4)
        await log.append(mine[:2], whole=False)
        await log.append(mine, whole=False)
        assert [event async for event in log.read()] == mine
        stored = await get_batch(connection, "$JS.API", "EV", {"seq": 1, "batch": 4})
        assert not any("Nats-Batch-Id" in one.headers for one in stored)
        fourth, fifth = events(5)[3:]
        with pytest.raises(Conflict):
            await log.append([msgspec.structs.replace(fourth, id="another"), fifth], whole=False)
        assert await log.last() == 4
