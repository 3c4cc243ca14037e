"""An external service whose certificates change while it serves, and clients that notice every failure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socketserver
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

REQUESTS_PER_CONNECTION = 20
"""Then the server says goodbye, so that its peers make new handshakes all the while."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.served = 0

    def do_GET(self) -> None:
        self.served += 1
        connection: Any = self.connection
        found = connection.getpeercert() or {"subject": ()}
        body = json.dumps(
            {
                "client": [value for group in found["subject"] for _, value in group],
                "generation": connection.context.generation,
            }
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        if self.served >= REQUESTS_PER_CONNECTION:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


class _Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            for line in self.rfile:
                self.wfile.write(line)


class Rotating:
    """HTTPS and TCP echo over TLS, both demanding a client certificate; `rotate` concerns new connections alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._generation = 0
        self._context: ssl.SSLContext | None = None
        owner = self

        class Http(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                super().finish_request(owner.wrapped(request), client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        class Echo(socketserver.ThreadingTCPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                super().finish_request(owner.wrapped(request), client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        self._servers = (Http(("127.0.0.1", 0), _Answer), Echo(("127.0.0.1", 0), _Lines))
        self.http, self.tcp = (int(one.server_address[1]) for one in self._servers)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def rotate(self, pair: tuple[str, str], clients: str) -> int:
        """Present this certificate and trust these client authorities from now on; the generation it is."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = self._directory / "rotating.pem"
        file.touch(mode=0o600)
        file.write_text("".join(pair))
        context.load_cert_chain(file)
        file.unlink()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients)
        self._generation += 1
        context.generation = self._generation  # type: ignore[attr-defined]  # told by _Answer
        self._context = context
        return self._generation

    def wrapped(self, request: Any) -> ssl.SSLSocket:
        """TLS of the newest generation."""
        assert self._context is not None
        return self._context.wrap_socket(request, server_side=True)


class Load:
    """What clients saw: answers, and every failure in words. `last` is the newest body."""

    def __init__(self) -> None:
        self.answers = 0
        self.connections = 0
        self.echoes = 0
        self.failures: list[str] = []
        self.seen: set[tuple[int, str]] = set()
        self.news = asyncio.Condition()

    async def saw(self, generation: int, client: str) -> None:
        """One good answer."""
        async with self.news:
            self.answers += 1
            self.seen.add((generation, client))
            self.news.notify_all()

    async def until(self, generation: int, client: str, seconds: float = 30) -> None:
        """Wait until an answer came from that generation of the server, which saw that client certificate."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(lambda: (generation, client) in self.seen)


@asynccontextmanager
async def load(http: tuple[str, int], tcp: tuple[str, int], *, kept: int = 2, fresh: int = 2) -> AsyncIterator[Load]:
    """Call all the while: `kept` connections that are never given up, `fresh` ones per request, and a TCP stream."""
    seen, stop = Load(), asyncio.Event()
    tasks = [asyncio.create_task(_kept(seen, stop, *http)) for _ in range(kept)]
    tasks += [asyncio.create_task(_fresh(seen, stop, *http)) for _ in range(fresh)]
    tasks.append(asyncio.create_task(_stream(seen, stop, *tcp)))
    try:
        yield seen
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _kept(seen: Load, stop: asyncio.Event, host: str, port: int) -> None:
    seen.connections += 1
    reader, writer = await asyncio.open_connection(host, port)
    while not stop.is_set():
        try:
            await _ask(seen, reader, writer)
        except (OSError, EOFError, TimeoutError) as error:
            seen.failures.append(f"a kept connection broke: {error!r}")
            return
        await asyncio.sleep(0.005)
    writer.close()


async def _fresh(seen: Load, stop: asyncio.Event, host: str, port: int) -> None:
    while not stop.is_set():
        seen.connections += 1
        try:
            reader, writer = await asyncio.open_connection(host, port)
            await _ask(seen, reader, writer)
            writer.close()
        except (OSError, EOFError, TimeoutError) as error:
            seen.failures.append(f"a fresh connection: {error!r}")
        await asyncio.sleep(0.005)


async def _ask(seen: Load, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(10):
        writer.write(b"GET / HTTP/1.1\r\nhost: rotating\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        body = await reader.readexactly(size)
    if not head.startswith("http/1.1 200"):
        seen.failures.append(head.partition("\r\n")[0] + ": " + body.decode(errors="replace").strip())
        return
    told = json.loads(body)
    await seen.saw(told["generation"], ",".join(told["client"]))


async def _stream(seen: Load, stop: asyncio.Event, host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    while not stop.is_set():
        try:
            writer.write(b"line\n")
            async with asyncio.timeout(10):
                if await reader.readline() != b"line\n":
                    raise EOFError("closed")
        except (OSError, EOFError, TimeoutError) as error:
            seen.failures.append(f"the TCP stream broke: {error!r}")
            return
        seen.echoes += 1
        await asyncio.sleep(0.005)
    writer.close()
