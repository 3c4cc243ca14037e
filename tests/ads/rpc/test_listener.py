"""The gRPC server behind real sockets, spoken to by grpcio: methods, statuses, TLS, silent clients, the end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from grpc import aio

from zone_cp.ads.rpc import frames, listener
from zone_cp.ads.rpc.calls import Aborted, Call
from zone_cp.ads.rpc.exchange import Status
from zone_cp.ads.rpc.listener import Listener
from zone_cp.ads.rpc.secure import server_context

SECONDS = 5.0
LARGE = b"x" * 3_000_000
pytestmark = pytest.mark.anyio


class Methods:
    """What is served, and what its clients did."""

    def __init__(self) -> None:
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.waiting = asyncio.Event()

    async def echo(self, call: Call) -> None:
        while (message := await call.read()) is not None:
            await call.write(message)

    async def flood(self, call: Call) -> None:
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        call.listen(heard.put_nowait, lambda: None)
        ready = asyncio.Event()
        call.when_ready(ready.set)
        for _ in range(int(await heard.get())):
            ready.clear()
            if not call.send(LARGE):
                await ready.wait()

    async def broken(self, call: Call) -> None:
        raise ValueError(f"broken for {dict(call.metadata)['who']}")

    async def refused(self, call: Call) -> None:
        raise Aborted(Status.PERMISSION_DENIED, "not for you: ünd")

    async def forever(self, call: Call) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.put_nowait("cancelled")

    def all(self) -> dict[str, Any]:
        return {f"/s/{name}": getattr(self, name) for name in ("echo", "flood", "broken", "refused", "forever")}


def made() -> tuple[bytes, bytes]:
    """A certificate for localhost that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )  # fmt: skip
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@asynccontextmanager
async def served(*, tls: bool = False) -> AsyncGenerator[tuple[Methods, Listener, int, aio.Channel]]:
    """The methods, their listener, its port and a channel to it."""
    methods = Methods()
    it = Listener(methods.all())
    certificate, key = made() if tls else (b"", b"")
    port = await it.start("127.0.0.1", 0, server_context(certificate, key) if tls else None)
    options = (("grpc.max_receive_message_length", -1),)
    if tls:
        credentials = grpc.ssl_channel_credentials(certificate)
        channel = aio.secure_channel(f"localhost:{port}", credentials, options)
    else:
        channel = aio.insecure_channel(f"127.0.0.1:{port}", options)
    try:
        async with channel:
            yield methods, it, port, channel
    finally:
        await it.stop(0)


def call(channel: aio.Channel, name: str) -> Any:
    """A call of that method."""
    multi: Any = channel.stream_stream(f"/s/{name}")
    return multi(metadata=(("who", "me"),))


async def ending(one: Any) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(SECONDS):
        return await one.code(), await one.details()


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_messages_of_any_size_come_back(tls: bool) -> None:
    """Empty, small and larger than any window, in order; a call that is over is OK."""
    async with served(tls=tls) as (_, _, _, channel), asyncio.timeout(SECONDS):
        one = call(channel, "echo")
        for message in (b"", b"small", LARGE, b"last"):
            await one.write(message)
            assert await one.read() == message
        await one.done_writing()
        assert await ending(one) == (grpc.StatusCode.OK, "")


def spoken(target: str, credentials: grpc.ChannelCredentials | None) -> list[bytes]:
    """What grpcio's synchronous client is told for what it says."""
    made: Any = grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
    with made as channel:
        return list(channel.stream_stream("/s/echo")(iter((b"1", b"", b"3" * 100_000)), timeout=SECONDS))


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_a_synchronous_client(tls: bool) -> None:
    """grpcio's other client, which gives its calls a time."""
    certificate, key = made()
    it = Listener(Methods().all())
    port = await it.start("localhost", 0, server_context(certificate, key) if tls else None)
    credentials = grpc.ssl_channel_credentials(certificate) if tls else None
    assert await asyncio.to_thread(spoken, f"localhost:{port}", credentials) == [b"1", b"", b"3" * 100_000]
    await it.stop(0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "127.0.0.1", "localhost"])
async def test_where_it_is_found(host: str) -> None:
    """All addresses are those of IPv4 and of IPv6, where there is IPv6, whichever of them is asked for."""
    it = Listener(Methods().all())
    port = await it.start(host, 0, None)
    targets = [f"127.0.0.1:{port}"]
    if socket.has_dualstack_ipv6() and host not in {"127.0.0.1", "localhost"}:
        targets.append(f"[::1]:{port}")
    for target in targets:
        assert await asyncio.to_thread(spoken, target, None) == [b"1", b"", b"3" * 100_000]
    with pytest.raises(OSError, match="in use"):
        await Listener({}).start(host, port, None)
    await it.stop(0)


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
async def test_who_sends_without_a_task_is_called_when_more_may_be_sent(tls: bool) -> None:
    """Much more than sockets hold arrives whole."""
    async with served(tls=tls) as (_, _, _, channel), asyncio.timeout(SECONDS):
        one = call(channel, "flood")
        await one.write(b"20")
        for _ in range(20):
            assert await one.read() == LARGE
        assert await ending(one) == (grpc.StatusCode.OK, "")


async def test_every_end_has_its_status() -> None:
    """No such method, a method's own refusal, and a method that breaks: each with words, the others go on."""
    async with served() as (_, _, _, channel):
        ends = {name: await ending(call(channel, name)) for name in ("nothing", "refused", "broken")}
    assert ends == {
        "nothing": (grpc.StatusCode.UNIMPLEMENTED, "there is no method /s/nothing"),
        "refused": (grpc.StatusCode.PERMISSION_DENIED, "not for you: ünd"),
        "broken": (grpc.StatusCode.UNKNOWN, "ValueError: broken for me"),
    }


async def test_a_client_that_gives_up_ends_the_method() -> None:
    """By its own cancellation, and with its connection."""
    async with served() as (methods, _, port, channel), asyncio.timeout(SECONDS):
        one = call(channel, "forever")
        await methods.waiting.wait()
        one.cancel()
        assert await methods.ended.get() == "cancelled"
        methods.waiting.clear()
        async with aio.insecure_channel(f"127.0.0.1:{port}") as other:
            call(other, "forever")
            await methods.waiting.wait()
        assert await methods.ended.get() == "cancelled"


async def test_a_stop_waits_and_then_ends_what_is_left() -> None:
    """A call that ends in time has its own status; one that does not is UNAVAILABLE; nobody connects any more."""
    async with served() as (methods, it, port, channel), asyncio.timeout(SECONDS):
        echo, forever = call(channel, "echo"), call(channel, "forever")
        await echo.write(b"1")
        await echo.read()
        await methods.waiting.wait()
        stopping = asyncio.create_task(it.stop(0.2))
        await asyncio.sleep(0.05)
        await echo.done_writing()
        assert await ending(echo) == (grpc.StatusCode.OK, "")
        await stopping
        assert await ending(forever) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_client_that_is_silent_is_asked_and_then_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers pings stays; one that does not, or that never spoke, is closed."""
    monkeypatch.setattr(listener, "WATCH_SECONDS", 0.05)
    async with served() as (_, _, port, channel), asyncio.timeout(SECONDS):
        lively = call(channel, "echo")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(frames.PREFACE + frames.settings({}))
        mute, _ = await asyncio.open_connection("127.0.0.1", port)
        assert frames.frame(frames.PING, 0, 0, b"zonal...") in await reader.read()
        assert await mute.read() == b""
        await lively.write(b"still here")
        assert await lively.read() == b"still here"


async def test_another_protocol_is_let_go() -> None:
    """HTTP/1 to gRPC, and words that break HTTP/2 are answered with the reason."""
    async with served() as (_, _, port, _), asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: zone\r\n\r\n")
        assert await reader.read() == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(frames.PREFACE + frames.frame(frames.PING, 0, 0, b"short"))
        assert b"PING has eight octets" in await reader.read()


async def test_tls_is_not_spoken_with_everybody() -> None:
    """Another ALPN, an older version and no TLS at all are closed; the next client is served."""
    async with served(tls=True) as (_, _, port, channel), asyncio.timeout(SECONDS):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
        reader, _ = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert await reader.read() == b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: zone\r\n\r\n")
        await reader.read()  # at most an alert
        assert reader.at_eof()
        one = call(channel, "echo")
        await one.write(b"1")
        assert await one.read() == b"1"


async def test_tls_in_the_smallest_pieces() -> None:
    """Records arrive cut anywhere."""
    async with served(tls=True) as (_, _, port, _), asyncio.timeout(SECONDS):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        spoken = context.wrap_bio(incoming, outgoing)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heard = b""

        async def turn() -> None:
            for octet in outgoing.read():
                writer.write(bytes((octet,)))
                await asyncio.sleep(0)
            incoming.write(await reader.read(65_536))

        while True:
            try:
                spoken.do_handshake()
                break
            except ssl.SSLWantReadError:
                await turn()
        assert spoken.selected_alpn_protocol() == "h2"
        spoken.write(frames.PREFACE + frames.settings({}) + frames.frame(frames.PING, 0, 0, b"12345678"))
        while frames.frame(frames.PING, frames.ACK, 0, b"12345678") not in heard:
            try:
                heard += spoken.read(65_536)
            except ssl.SSLWantReadError:
                await turn()
