"""External services for tests: many servers in one event loop, each speaking HTTP/1.1, HTTP/2, gRPC and lines.

What a client says first decides. Every answer tells what the server saw of the connection, as JSON; a line `?` asks
TCP for it. Paths of HTTP: `/echo` returns the body as it comes, `/status/<n>`, `/bytes/<n>`, `/slow/<seconds>`,
`/held` until `Server.release`; a WebSocket upgrade is taken anywhere.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import threading
import warnings
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Coroutine
from hashlib import sha1
from pathlib import Path
from typing import Any, Self, TypeVar

import h2.config
import h2.connection
import h2.events

from shared.demo.looking import eventually
from tests.xds.clients import Answer

T = TypeVar("T")
WINDOW = 1 << 24
WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Server:
    """One listening server. `seen` counts requests, and TCP connections that said something.

    `status` is answered; `cut` ends the connection instead. `greeting` is said to everybody, before they say anything.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.seen = 0
        self.connections = 0
        self.status = 200
        self.cut = False
        self.greeting = b""
        self.listening: asyncio.Server | None = None
        self.open: set[asyncio.Transport] = set()
        self.held: list[Callable[[], object]] = []

    def release(self) -> None:
        """Answer all that is held."""
        while self.held:
            self.held.pop()()


class _Connection(asyncio.Protocol):
    """One accepted connection, before it is known what it speaks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.speaks: Callable[[bytes], None] | None = None
        self.early = b""
        self.language = ""

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self.server.connections += 1
        self.server.open.add(transport)
        transport.write(self.server.greeting)

    def connection_lost(self, exc: Exception | None) -> None:
        self.speaks = lambda _: None
        self.server.open.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.speaks is None:
            self.early += data
            if len(self.early) < 3 and b"\n" not in self.early:
                return
            data = self.early
            if data.startswith(b"PRI"):
                self.language, self.speaks = "http2", _Http2(self).receive
            elif re.match(rb"[A-Z]+ ", data):
                self.language, self.speaks = "http1", _Http1(self).receive
            else:
                self.language, self.speaks = "lines", self._lines
                self.server.seen += 1
        self.speaks(data)

    def _lines(self, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            self.transport.write((json.dumps(self.about()) + "\n").encode() if line == b"?\n" else line)

    def about(self, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """What this connection looks like from here."""
        tls: Any = self.transport.get_extra_info("ssl_object")
        certificate: Any = (tls.getpeercert() if tls is not None else None) or {}
        return {
            "server": self.server.name,
            "language": self.language,
            "sni": getattr(tls, "seen_name", None),
            "version": tls.version() if tls is not None else None,
            "alpn": tls.selected_alpn_protocol() if tls is not None else None,
            "client": [value for group in certificate.get("subject", ()) for _, value in group],
            "headers": headers or {},
        }


class _Http1:
    def __init__(self, connection: _Connection) -> None:
        self.connection, self.buffer = connection, b""
        self.body: Callable[[], bool] | None = None
        self.raw = False

    def receive(self, data: bytes) -> None:
        self.buffer += data
        while self.buffer:
            if self.raw:
                self.connection.transport.write(self.buffer)
                self.buffer = b""
            elif self.body is not None:
                if not self.body():
                    return
                self.body = None
            elif b"\r\n\r\n" in self.buffer:
                head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
                self._request(head)
            else:
                return

    def _request(self, head: bytes) -> None:
        first, *lines = head.decode().split("\r\n")
        path = first.split()[1]
        headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        server, write = self.connection.server, self.connection.transport.write
        server.seen += 1
        if server.cut:
            self.connection.transport.abort()
        elif headers.get("upgrade", "").lower() == "websocket":
            accept = b64encode(sha1(headers["sec-websocket-key"].encode() + WEBSOCKET).digest())
            write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n")
            write(b"sec-websocket-accept: " + accept + b"\r\n\r\n")
            self.raw = True
        elif path == "/echo":
            write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            length = headers.get("content-length")
            self.body = self._chunks if length is None else self._counted(int(length))
        elif path.startswith("/slow/"):
            loop = asyncio.get_running_loop()
            loop.call_later(float(path.removeprefix("/slow/")), self._answer, 200, b"late")
        elif path == "/held":
            loop = asyncio.get_running_loop()
            server.held.append(lambda: loop.call_soon_threadsafe(self._answer, 200, b"released"))
        else:
            self._plain(path, headers)

    def _plain(self, path: str, headers: dict[str, str]) -> None:
        status = self.connection.server.status
        body = json.dumps(self.connection.about(headers | {":path": path})).encode()
        if path.startswith("/status/"):
            status = int(path.removeprefix("/status/"))
        elif path.startswith("/bytes/"):
            body = b"x" * int(path.removeprefix("/bytes/"))
        self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> None:
        self.connection.transport.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    def _counted(self, left: int) -> Callable[[], bool]:
        def more() -> bool:
            nonlocal left
            taken, self.buffer = self.buffer[:left], self.buffer[left:]
            left -= len(taken)
            self._chunk(taken)
            if not left:
                self._chunk(b"")
            return not left

        return more

    def _chunks(self) -> bool:
        while True:
            size, found, rest = self.buffer.partition(b"\r\n")
            if not found or len(rest) < int(size, 16) + 2:
                return False
            data, self.buffer = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            self._chunk(data)
            if not data:
                return True

    def _chunk(self, data: bytes) -> None:
        self.connection.transport.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


class _Http2:
    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.local_settings.initial_window_size = WINDOW
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(WINDOW)
        self.echo: set[int] = set()
        self.grpc: set[int] = set()

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._request(event.stream_id, {str(key): str(value) for key, value in event.headers})
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.stream_id in self.echo:
                    self.h2.send_data(event.stream_id, event.data)
            elif isinstance(event, h2.events.StreamEnded):
                self._end(event.stream_id)
        self.connection.transport.write(self.h2.data_to_send())

    def _request(self, stream: int, headers: dict[str, str]) -> None:
        self.connection.server.seen += 1
        grpc = headers.get("content-type", "").startswith("application/grpc")
        kind = [("content-type", "application/grpc")] if grpc else []
        self.h2.send_headers(stream, [(":status", str(self.connection.server.status)), *kind])
        if grpc:
            self.grpc.add(stream)
        if headers[":path"] in ("/echo", "/test.Echo/Talk"):
            self.echo.add(stream)
            return
        body = json.dumps(self.connection.about(headers)).encode()
        self.h2.send_data(stream, b"\0" + len(body).to_bytes(4, "big") + body if grpc else body)

    def _end(self, stream: int) -> None:
        if stream in self.grpc:
            self.h2.send_headers(stream, [("grpc-status", "0"), ("x-trailer", "kept")], end_stream=True)
        else:
            self.h2.end_stream(stream)


async def while_busy(ask: Callable[[str], Awaitable[Answer]], servers: Collection[Server]) -> set[str]:
    """Which of the servers answer while one of them has a request under way, whose answer comes last."""
    busy = asyncio.ensure_future(ask("/held"))

    async def arrived() -> bool:
        return busy.done() or any(one.held for one in servers)

    await eventually(arrived, bool, "a request to be under way")
    found = [await ask("/") for _ in range(6)]
    for one in servers:
        one.release()
    assert (await busy).status == 200
    return {one.seen["server"] for one in found}


def limit(context: ssl.SSLContext, lowest: ssl.TLSVersion, highest: ssl.TLSVersion) -> None:
    """Let it speak these versions of TLS. OpenSSL has 1.0 and 1.1 at that level only, and Python deprecates them."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = lowest, highest


def server_context(
    directory: Path,
    pair: tuple[str, str],
    *,
    clients: str | None = None,
    version: ssl.TLSVersion | None = None,
) -> ssl.SSLContext:
    """A server's context from PEM texts. `clients`: a CA it demands client certificates of; `version`: the only one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, text in zip(("server.pem", "server.key"), pair, strict=True):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(text)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    context.set_alpn_protocols(["h2", "http/1.1"])
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients)
    if version is not None:
        limit(context, version, version)

    def remember(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        connection.seen_name = name

    context.sni_callback = remember
    return context


class Servers:
    """The servers' event loop, in a thread of its own."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._servers: list[Server] = []
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            self.stop(server)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(10)

    def add(
        self,
        name: str,
        context: ssl.SSLContext | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "",
    ) -> Server:
        """A listening server; `path`: on a Unix socket."""
        server = Server(name)

        async def start() -> None:
            if path:
                server.listening = await self.loop.create_unix_server(lambda: _Connection(server), path)
                return
            made = await self.loop.create_server(lambda: _Connection(server), host, port, ssl=context, backlog=512)
            server.listening, server.port = made, made.sockets[0].getsockname()[1]

        self._do(start())
        self._servers.append(server)
        return server

    def stop(self, server: Server) -> None:
        """Listen no more; open connections are cut."""

        async def end() -> None:
            if server.listening is not None:
                server.listening.close()
                server.listening = None
            for transport in [*server.open]:
                transport.abort()

        self._do(end())

    def again(self, server: Server) -> None:
        """Listen again where it did, without TLS."""

        async def start() -> None:
            server.listening = await self.loop.create_server(
                lambda: _Connection(server), "127.0.0.1", server.port, backlog=512
            )

        self._do(start())
