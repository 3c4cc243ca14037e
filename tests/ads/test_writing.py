"""The writer of a stream never writes twice at the same time, and says the newest when it is free."""

from __future__ import annotations

import asyncio

import pytest

from zone_cp.ads.writing import Writer

pytestmark = pytest.mark.anyio


class Wire:
    """A call whose writes end when the test says so."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.due: list[bytes] = []
        self.faults: list[BaseException] = []
        self.under_way: asyncio.Future[None] | None = None
        self.writer = Writer(self._take, self._write, self.faults.append)

    def _take(self) -> list[bytes]:
        due, self.due = self.due, []
        return due

    async def _write(self, message: bytes) -> None:
        assert self.under_way is None, "two writes at once"
        self.written.append(message)
        self.under_way = asyncio.get_running_loop().create_future()
        await self.under_way

    def speak(self, *due: bytes) -> None:
        """These are due now, in place of what was before."""
        self.due = list(due)
        self.writer.speak()

    async def done(self, fault: Exception | None = None) -> None:
        """The write that is under way ends."""
        future, self.under_way = self.under_way, None
        assert future is not None
        if fault is None:
            future.set_result(None)
        else:
            future.set_exception(fault)
        await asyncio.sleep(0)


async def test_what_falls_due_meanwhile_is_said_when_the_write_is_done() -> None:
    """The first message goes out at once; of two that fall due while it is written, the newest."""
    wire = Wire()
    wire.speak(b"1")
    assert wire.written == [b"1"]
    wire.speak(b"2")
    wire.speak(b"3")
    assert wire.written == [b"1"]
    await wire.done()
    assert wire.written == [b"1", b"3"]
    await wire.done()
    wire.speak(b"4")
    assert wire.written[2:] == [b"4"]


async def test_all_of_one_moment_is_written_before_the_next() -> None:
    """Several messages go out in their order, and what is due after them is asked for once they are through."""
    wire = Wire()
    wire.speak(b"1", b"2")
    wire.speak(b"3")
    for _ in range(3):
        await wire.done()
    assert wire.written == [b"1", b"2", b"3"]


async def test_a_call_that_ends_is_told_once() -> None:
    """A write that fails ends the stream with its reason; nothing is written after it, whoever asks."""
    wire = Wire()
    wire.speak(b"1", b"2")
    await wire.done(OSError("gone"))
    wire.speak(b"3")
    assert [str(fault) for fault in wire.faults] == ["gone"]
    assert wire.written == [b"1"]


async def test_a_state_that_breaks_ends_its_own_stream_only() -> None:
    """Who asks hears nothing of a fault in what is due."""

    def broken() -> list[bytes]:
        raise ValueError("broken")

    wire = Wire()
    Writer(broken, wire._write, wire.faults.append).speak()
    assert [str(fault) for fault in wire.faults] == ["broken"]


async def test_a_writer_that_is_closed_writes_no_more() -> None:
    """The stream ended while a write was under way: what is left of it is dropped, and nobody is told."""
    wire = Wire()
    wire.speak(b"1", b"2")
    wire.writer.close()
    await wire.done()
    wire.speak(b"3")
    assert (wire.written, wire.faults) == ([b"1"], [])


async def test_a_ring_lets_its_caller_finish() -> None:
    """What a caller changes after it rang, in the same turn, counts: it may be half of one thing."""
    wire = Wire()
    wire.due = [b"1"]
    wire.writer.ring()
    wire.due = [b"2"]
    wire.writer.ring()
    assert wire.written == []
    await asyncio.sleep(0)
    assert wire.written == [b"2"]
    wire.writer.ring()
    await wire.done()
    await asyncio.sleep(0)
    assert wire.written == [b"2"]
