"""The gRPC server behind real sockets, and clients that mean it no good: nobody is kept for ever, nobody else waits."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
from hpack import Encoder

from tests.ads.rpc.peer import FIELDS
from tests.ads.rpc.test_listener import SECONDS, call, ending, served
from tests.xds.servers import limit
from zone_cp.ads.rpc import exchange, frames, listener
from zone_cp.ads.rpc.frames import PREFACE, frame
from zone_cp.ads.rpc.listener import Listener

OPENING = PREFACE + frames.settings({})
pytestmark = pytest.mark.anyio


def requests(path: str, count: int, *more: tuple[str, str], flags: int = frames.END_HEADERS) -> bytes:
    """The frames that begin so many calls."""
    encoder, fields = Encoder(), [*((name, path if name == ":path" else value) for name, value in FIELDS), *more]
    return b"".join(frame(frames.HEADERS, flags, 2 * one + 1, encoder.encode(fields)) for one in range(count))


def client_context(*protocols: str) -> ssl.SSLContext:
    """A client's side that trusts anybody."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(protocols or ["h2"])
    return context


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that nothing tells of."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110 - there is no such event
            await asyncio.sleep(0.005)


async def nothing_left(it: Listener) -> None:
    """Neither sockets nor tasks."""
    await until(lambda: not it._sockets and not it._tasks and not it._turns and not it._strangers)


@asynccontextmanager
async def dripping(port: int, said: bytes) -> AsyncGenerator[asyncio.StreamReader]:
    """A client that says this over and over, one octet at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def drip() -> None:
        for octet in said:
            writer.write(bytes((octet,)))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(drip())
    try:
        yield reader
    finally:
        task.cancel()
        writer.close()


@pytest.mark.parametrize("tls", [False, True], ids=["a preface", "a handshake"])
async def test_a_beginning_that_never_ends(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client gains no time by saying little: it is closed when it has not begun with HTTP/2 by then."""
    monkeypatch.setattr(listener, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(listener, "HELLO_LOOKS", 3)
    said = b"\x16\x03\x01\x3f\xf0\1\0\x3f\xec\3\3" + bytes(5_000) if tls else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"
    async with served(tls=tls) as (_, it, port, _), asyncio.timeout(SECONDS):
        async with dripping(port, said) as reader:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        await nothing_left(it)


async def test_a_connection_without_calls_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, with a GOAWAY, however lively it is; grpcio connects again for its next call. One with a call
    stays.
    """
    monkeypatch.setattr(listener, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(listener, "IDLE_LOOKS", 3)
    async with served() as (_, it, port, channel), asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING + requests("/s/echo", 1))

        async def chat() -> None:
            while True:
                writer.write(frame(frames.PING, 0, 0, bytes(8)))
                await asyncio.sleep(0.01)

        chatting = asyncio.create_task(chat())
        first = call(channel, "echo")
        await first.done_writing()
        assert await ending(first) == (grpc.StatusCode.OK, "")
        await until(lambda: len(it._sockets) == 1)
        second = call(channel, "echo")
        await second.write(b"again")
        assert await second.read() == b"again"
        chatting.cancel()
        assert frames.go_away(1, frames.Fault.NO_ERROR) not in await reader.read(65_536)


async def test_too_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest that has no call makes room for the newest; those with calls stay."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 3)
    async with served() as (_, it, port, channel), asyncio.timeout(SECONDS):
        lively = call(channel, "echo")
        await lively.write(b"1")
        assert await lively.read() == b"1"
        mute = []
        for _ in range(5):
            mute.append(await asyncio.open_connection("127.0.0.1", port))
            await until(lambda: len(it._sockets) <= 3)
        for reader, _ in mute[:3]:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert len(it._sockets) == 3
        await lively.write(b"2")
        assert await lively.read() == b"2"


async def test_a_client_that_asks_and_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it asks for: what is written for it is limited."""
    monkeypatch.setattr(listener, "UNREAD_BYTES", 10_000)
    async with served() as (_, it, port, channel), asyncio.timeout(SECONDS):
        mute = socket.create_connection(("127.0.0.1", port))
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        said = OPENING + requests("/" + "%" * 900, 5_000, flags=frames.END_HEADERS | frames.END_STREAM)

        def ask() -> None:
            with mute:
                mute.sendall(said)
                while True:
                    mute.sendall(frame(frames.PING, 0, 0, bytes(8)))

        with pytest.raises(OSError, match=r"reset|pipe"):
            await asyncio.to_thread(ask)
        await until(lambda: not it._sockets)
        one = call(channel, "echo")
        await one.write(b"others")
        assert await one.read() == b"others"


async def test_a_flood_of_calls_leaves_the_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a turn of the loop, and then those have theirs who wait, as often as it takes."""
    monkeypatch.setattr(listener, "TURN_SECONDS", 0.0)
    async with served() as (_, it, port, _), asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING + requests("/no", 2_000, flags=frames.END_HEADERS | frames.END_STREAM))
        turns, heard = 0, b""

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        while heard.count(b"/no") < 2_000:
            heard += await reader.read(65_536)
        counting.cancel()
        assert turns >= 2_000 // 25
        writer.close()
        await nothing_left(it)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_many_that_come_at_once_are_all_served(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other."""
    monkeypatch.setattr(listener, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(listener, "ACCEPTS", 1)
    ping = frame(frames.PING, 0, 0, b"12345678")

    async def one(port: int) -> None:
        context = client_context() if tls else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(OPENING + ping)
        heard = b""
        while frame(frames.PING, frames.ACK, 0, b"12345678") not in heard:
            heard += await reader.read(4_096)
        writer.close()

    async with served(tls=tls) as (_, it, port, _), asyncio.timeout(4 * SECONDS):
        await asyncio.gather(*(one(port) for _ in range(40)))
        await nothing_left(it)


async def test_a_call_has_the_time_that_its_client_gives_it() -> None:
    """grpc-timeout: then it ends, whether the client keeps to it or not."""
    async with served() as (methods, it, port, _), asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING + requests("/s/forever", 1, ("grpc-timeout", "20m")))
        heard = b""
        while b"\x0bgrpc-status\x014" not in heard:
            heard += await reader.read(4_096)
        assert await methods.ended.get() == "cancelled"
        await until(lambda: not it._tasks)


@pytest.mark.parametrize("said", [b"\1\0\0\0\1x", b"\0\xff\xff\xff\xff"], ids=["compressed", "too large"])
async def test_a_method_ends_when_its_call_is_refused(said: bytes) -> None:
    """A message that is not taken ends the call for both sides; the connection goes on."""
    async with served() as (methods, it, port, _), asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(OPENING + requests("/s/forever", 1))
        await methods.waiting.wait()
        writer.write(frame(frames.DATA, 0, 1, said))
        assert await methods.ended.get() == "cancelled"
        await until(lambda: not it._tasks)
        writer.write(frame(frames.PING, 0, 0, b"12345678"))
        heard = b""
        while b"12345678" not in heard:
            heard += await reader.read(4_096)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_a_stop_waits_for_nobody_who_does_not_read(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of much that is written."""
    monkeypatch.setattr(listener, "CLOSE_SECONDS", 0.05)
    async with served(tls=tls) as (_, it, port, channel), asyncio.timeout(SECONDS):
        one = call(channel, "flood")
        await one.write(b"20")
        assert await one.read()
        context = client_context() if tls else None
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1)
        much = {frames.INITIAL_WINDOW_SIZE: frames.MOST_WINDOW}
        flood = frame(frames.DATA, 0, 1, b"\0\0\0\0\x0220")
        writer.write(PREFACE + frames.settings(much) + frames.window_update(0, 2**30) + requests("/s/flood", 1) + flood)
        await until(lambda: any(each._connection.paused for each in it._sockets))
        await it.stop(0.05)
        await asyncio.sleep(0)
        await nothing_left(it)


async def test_the_end_of_tls_is_said() -> None:
    """By both: a client can tell it from a connection that was cut; one that says it is closed."""
    async with served(tls=True) as (_, it, port, _), asyncio.timeout(SECONDS):

        def speak() -> bytes:
            raw = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
            with client_context().wrap_socket(raw, suppress_ragged_eofs=False) as one:
                one.sendall(PREFACE + frame(frames.PING, 0, 0, b"short"))
                heard = b""
                while part := one.recv(4_096):  # raises SSLEOFError where it was cut
                    heard += part
                return heard

        assert b"PING has eight octets" in await asyncio.to_thread(speak)
        await nothing_left(it)

        def leave() -> bytes:
            raw = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
            with client_context().wrap_socket(raw) as one:
                one.sendall(OPENING)
                heard = b""
                while not heard.endswith(frame(frames.SETTINGS, frames.ACK, 0, b"")):
                    heard += one.recv(4_096)
                return one.unwrap().recv(4_096)

        assert await asyncio.to_thread(leave) == b""
        await nothing_left(it)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_what_is_said_on_a_connection_that_is_being_closed(tls: bool) -> None:
    """Calls and looks do not break off because of it, and nobody hears it."""
    async with served(tls=tls) as (methods, it, port, _), asyncio.timeout(SECONDS):
        context = client_context() if tls else None
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(OPENING + requests("/s/forever", 1))
        await methods.waiting.wait()
        (one,) = it._sockets
        (exchanged,) = one._connection.exchanges.values()
        one.close()
        for _ in range(listener.QUIET_LOOKS):
            one.look()
        exchanged.send(b"too late")
        await nothing_left(it)


async def test_a_client_that_waits_for_us_is_not_silent() -> None:
    """In a storm its handshake may have to wait for those of many."""
    async with served(tls=True) as (_, it, _, channel), asyncio.timeout(SECONDS):
        one = call(channel, "echo")
        await one.write(b"1")
        assert await one.read() == b"1"
        (waiting,) = it._sockets
        waiting._wait()
        for _ in range(listener.LOST_LOOKS):
            waiting.look()
        await one.write(b"2")
        assert await one.read() == b"2"
        for _ in range(listener.LOST_LOOKS):
            waiting.look()
        assert (await ending(one))[0] == grpc.StatusCode.UNAVAILABLE


async def test_however_many_there_are_all_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few in each turn of the loop."""
    monkeypatch.setattr(listener, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(listener, "LOOKS", 2)
    async with served() as (_, it, port, _), asyncio.timeout(SECONDS):
        mute = [await asyncio.open_connection("127.0.0.1", port) for _ in range(7)]
        for reader, _ in mute:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        await nothing_left(it)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_clients_that_are_killed_leave_nothing(tls: bool) -> None:
    """At any moment: without a word, in a handshake, in a frame, while much is written to them."""
    async with served(tls=tls) as (_, it, port, channel), asyncio.timeout(SECONDS):
        beginnings = [b"", b"\x16\x03\x01", PREFACE[:5], OPENING[:-2], OPENING + requests("/s/echo", 3)[:-3]]
        beginnings += [OPENING + requests("/s/flood", 1) + frame(frames.DATA, 0, 1, b"\0\0\0\0\x0220")]

        def kill(said: bytes, shake_hands: bool) -> None:
            one = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
            if shake_hands:
                one = client_context().wrap_socket(one)
            one.sendall(said)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()  # a reset

        for said in beginnings:
            for shake_hands in {False, tls}:
                await asyncio.to_thread(kill, said, shake_hands)
        await nothing_left(it)
        one = call(channel, "echo")
        await one.write(b"others")
        assert await one.read() == b"others"


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.set_alpn_protocols(["http/1.1"]),
        lambda one: limit(one, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1),
        lambda one: setattr(one, "verify_mode", ssl.CERT_REQUIRED),
    ],
    ids=["another protocol", "an old version", "no trust"],
)
async def test_handshakes_that_fail_leave_nothing(change: Callable[[ssl.SSLContext], object]) -> None:
    """Neither sockets nor tasks."""
    async with served(tls=True) as (_, it, port, channel), asyncio.timeout(SECONDS):
        context = client_context()
        change(context)
        for _ in range(3):
            with suppress(OSError):
                reader, _ = await asyncio.open_connection("127.0.0.1", port, ssl=context)
                assert await reader.read() == b""
        await nothing_left(it)
        one = call(channel, "echo")
        await one.write(b"1")
        assert await one.read() == b"1"


async def test_streams_of_one_connection_wait_for_themselves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose client takes nothing of it holds nobody up, nor what others say."""
    monkeypatch.setattr(exchange, "RECEIVE_WINDOW", 20_000)
    async with served() as (_, it, _, channel), asyncio.timeout(SECONDS):
        slow, quick = call(channel, "flood"), call(channel, "echo")
        await slow.write(b"50")  # 150 MB that nobody reads: grpcio keeps a window's worth
        for number in range(200):
            await quick.write(b"%d" % number)
            assert await quick.read() == b"%d" % number
        slow.cancel()
        await quick.done_writing()
        assert await ending(quick) == (grpc.StatusCode.OK, "")
        await until(lambda: not it._tasks)
