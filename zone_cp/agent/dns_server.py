"""The DNS responder on sockets: UDP and TCP, with unknown names sent on to the system's resolvers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from zone_cp.agent.datagrams import Datagrams
from zone_cp.agent.dns import Forward, Reply, failure, matches, verdict
from zone_cp.agent.dns_table import NameTable

Address: TypeAlias = tuple[str, int]

RESOLV_CONF = Path("/etc/resolv.conf")
UPSTREAM_SECONDS = 2.0
"""How long one upstream resolver may take before the next one is asked."""
MAX_FORWARDED = 512
"""Queries waiting for upstream resolvers at one time; beyond it the answer is SERVFAIL at once."""
MAX_TCP_CLIENTS = 128
TCP_IDLE_SECONDS = 10.0
BIND_ATTEMPTS = 8

log = structlog.get_logger()


def system_resolvers(resolv_conf: Path = RESOLV_CONF) -> list[Address]:
    """The name servers of a resolv.conf, none where it cannot be read."""
    out: list[Address] = []
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return out
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with suppress(ValueError):
                ip_address(words[1].partition("%")[0])
                out.append((words[1], 53))
    return out


class SystemResolvers:
    """The name servers of a resolv.conf, read again when the file is another than it was."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._found: list[Address] = []

    def now(self) -> list[Address]:
        """As the file says now; none where it cannot be read."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._seen, self._found = seen, system_resolvers(self._path)
        return self._found


def parse_address(text: str, default_port: int = 53) -> Address:
    """`ip`, `ip:port` or `[ip]:port`. Raises ValueError."""
    host, port = text, default_port
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = int(rest[1:]) if rest else default_port
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
        port = int(rest)
    ip_address(host)
    return host, port


class DnsServer:
    """Answers from `table`, which its owner changes in place; `start` binds, `stop` closes."""

    def __init__(
        self,
        table: NameTable,
        upstreams: Sequence[Address] | None = None,
        *,
        upstream_seconds: float = UPSTREAM_SECONDS,
    ) -> None:
        self._table = table
        self._configured = upstreams
        self._resolvers = SystemResolvers()
        self._upstream_seconds = upstream_seconds
        self._udp: Datagrams | None = None
        self._tcp: asyncio.Server | None = None
        self._forwarded: set[asyncio.Task[None]] = set()
        self._tcp_clients = 0
        self._asking: set[tuple[int, bytes]] = set()
        self.address: Address = ("", 0)

    async def start(self, host: str, port: int) -> None:
        """Bind UDP and TCP to the same port (0: any that is free for both). Raises OSError."""
        loop = asyncio.get_running_loop()
        for attempt in range(BIND_ATTEMPTS):
            udp = Datagrams(host, port, self._receive)
            try:
                self._tcp = await asyncio.start_server(self._serve_tcp, host, udp.port)
            except OSError:
                udp.close()
                if port or attempt == BIND_ATTEMPTS - 1:
                    raise
            else:
                self._udp, self.address = udp, (host, udp.port)
                udp.open(loop)
                return

    async def stop(self) -> None:
        """Close the sockets; queries under way are dropped."""
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in list(self._forwarded):
            task.cancel()
        await asyncio.gather(*self._forwarded, return_exceptions=True)

    def upstreams(self) -> list[Address]:
        """Where unknown names are sent: as configured, or as resolv.conf says now; never to this server itself."""
        found = self._resolvers.now() if self._configured is None else self._configured
        return [address for address in found if address != self.address]

    def _receive(self, query: bytes, client: Any) -> bytes | None:
        """One datagram; None where there is no answer, or none yet."""
        said = verdict(query, self._table)
        if type(said) is Reply:
            return said.data
        if type(said) is not Forward:
            return None
        if len(self._forwarded) >= MAX_FORWARDED or self._is_own(query, client):
            return failure(query, said.question_end)
        task = asyncio.create_task(self._forward_udp(said, client))
        self._forwarded.add(task)
        task.add_done_callback(self._forwarded.discard)
        return None

    async def _forward_udp(self, forward: Forward, client: Any) -> None:
        answer = await self.ask(forward, tcp=False)
        if self._udp is not None:
            self._udp.send(answer, client)

    async def ask(self, forward: Forward, *, tcp: bool) -> bytes:
        """An upstream's answer under the client's own id, or SERVFAIL when none of them answers."""
        for address in self.upstreams():
            # An id and a port of our own per question: nobody off the path can guess both.
            identifier = secrets.token_bytes(2)
            query = identifier + forward.query[2:]
            try:
                async with asyncio.timeout(self._upstream_seconds):
                    answer = await (
                        self._ask_tcp(address, query) if tcp else self._ask_udp(address, query, forward.question_end)
                    )
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                continue
            if matches(query, forward.question_end, answer, identifier):
                return forward.query[:2] + answer[2:]
        return failure(forward.query, forward.question_end)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tcp_clients >= MAX_TCP_CLIENTS:
            writer.close()
            return
        self._tcp_clients += 1
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    query = await _read_framed(reader)
                match verdict(query, self._table):
                    case Reply(data):
                        answer = data
                    case Forward(question_end=end) if self._is_own(query, writer.get_extra_info("peername")):
                        answer = failure(query, end)
                    case Forward() as forward:
                        answer = await self.ask(forward, tcp=True)
                    case _:
                        return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tcp_clients -= 1
            writer.close()

    def _is_own(self, query: bytes, client: Any) -> bool:
        """Whether a query is one that we sent: a resolv.conf that names this very server must not make a circle."""
        return (client[1], query[:2]) in self._asking

    async def _ask_udp(self, address: Address, query: bytes, question_end: int) -> bytes:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Question(query, question_end, answer), remote_addr=address
        )
        own = (transport.get_extra_info("sockname")[1], query[:2])
        self._asking.add(own)
        try:
            return await answer
        finally:
            self._asking.discard(own)
            transport.close()

    async def _ask_tcp(self, address: Address, query: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        own = (writer.get_extra_info("sockname")[1], query[:2])
        self._asking.add(own)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            await writer.drain()
            return await _read_framed(reader)
        finally:
            self._asking.discard(own)
            writer.close()


class _Question(asyncio.DatagramProtocol):
    """One query on a connected socket of its own: the kernel drops datagrams of anybody else."""

    def __init__(self, query: bytes, question_end: int, answer: asyncio.Future[bytes]) -> None:
        self._query, self._question_end, self._answer = query, question_end, answer

    def connection_made(self, transport: Any) -> None:
        transport.sendto(self._query)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self._answer.done() and matches(self._query, self._question_end, data, self._query[:2]):
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _read_framed(reader: asyncio.StreamReader) -> bytes:
    # RFC 1035 §4.2.2: two bytes of length before every message.
    return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
