"""The writer of a stream says nothing while its client takes no more, and the newest when it does again."""

from __future__ import annotations

import asyncio

import pytest

from zone_cp.ads.writing import Writer

pytestmark = pytest.mark.anyio


class Wire:
    """A call that takes one message, and the next when the test says so."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.due: list[bytes] = []
        self.faults: list[BaseException] = []
        self.blocked = False
        self.fault: Exception | None = None
        self.writer = Writer(self._take, self.send, self.faults.append)

    def _take(self) -> list[bytes]:
        due, self.due = self.due, []
        return due

    def send(self, message: bytes) -> bool:
        assert not self.blocked, "nothing is to be sent now"
        if self.fault is not None:
            raise self.fault
        self.written.append(message)
        self.blocked = True
        return False

    def speak(self, *due: bytes) -> None:
        """These are due now, in place of what was before."""
        self.due = list(due)
        self.writer.speak()

    def done(self) -> None:
        """The call takes more."""
        self.blocked = False
        self.writer.go_on()


async def test_what_falls_due_meanwhile_is_said_when_the_write_is_done() -> None:
    """The first message goes out at once; of two that fall due while it takes no more, the newest."""
    wire = Wire()
    wire.speak(b"1")
    assert wire.written == [b"1"]
    wire.speak(b"2")
    wire.speak(b"3")
    assert wire.written == [b"1"]
    wire.done()
    assert wire.written == [b"1", b"3"]
    wire.done()
    wire.speak(b"4")
    assert wire.written[2:] == [b"4"]


async def test_all_of_one_moment_is_written_before_the_next() -> None:
    """Several messages go out in their order, and what is due after them is asked for once they are through."""
    wire = Wire()
    wire.speak(b"1", b"2")
    wire.speak(b"3")
    for _ in range(3):
        wire.done()
    assert wire.written == [b"1", b"2", b"3"]


async def test_a_call_that_takes_more_at_once_is_given_all() -> None:
    """No turn of the loop between messages that need not wait."""
    written: list[bytes] = []
    due = [[b"1", b"2"], []]

    def send(message: bytes) -> bool:
        written.append(message)
        return True

    Writer(lambda: due.pop(0), send, lambda _: None).speak()
    assert written == [b"1", b"2"]


async def test_a_call_that_fails_is_told_once() -> None:
    """It ends the stream with its reason; nothing is written after it, whoever asks."""
    wire = Wire()
    wire.speak(b"1", b"2")
    wire.fault = OSError("gone")
    wire.done()
    wire.speak(b"3")
    assert [str(fault) for fault in wire.faults] == ["gone"]
    assert wire.written == [b"1"]


async def test_a_state_that_breaks_ends_its_own_stream_only() -> None:
    """Who asks hears nothing of a fault in what is due."""

    def broken() -> list[bytes]:
        raise ValueError("broken")

    wire = Wire()
    Writer(broken, wire.send, wire.faults.append).speak()
    assert [str(fault) for fault in wire.faults] == ["broken"]


async def test_a_writer_that_is_closed_writes_no_more() -> None:
    """The stream ended while its call took no more: what is left of it is dropped, and nobody is told."""
    wire = Wire()
    wire.speak(b"1", b"2")
    wire.writer.close()
    wire.done()
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
    wire.done()
    await asyncio.sleep(0)
    assert wire.written == [b"2"]
