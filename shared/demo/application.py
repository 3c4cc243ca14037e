"""The application of the demo: asks its sidecar's DNS, connects to the VIP in plaintext, reads the answer."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

import dns.exception
import dns.message
import dns.rdatatype
import msgspec

TIMEOUT_SECONDS = 5
MAX_DATAGRAM = 4096

SocketMaker: TypeAlias = Callable[[socket.SocketKind], socket.socket]
"""Makes the sockets an application uses: of this host, or of another place."""


def here(kind: socket.SocketKind) -> socket.socket:
    """A socket of this host."""
    return socket.socket(socket.AF_INET, kind)


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer: status, and the body (JSON where it is)."""

    status: int
    text: str

    @property
    def json(self) -> dict[str, Any]:
        """The body as JSON, {} where it is none."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


class Unresolved(Exception):
    """The sidecar's DNS has no address for the name."""


async def resolve(hostname: str, port: int, server: str = "127.0.0.1", make: SocketMaker = here) -> str:
    """Ask the sidecar's DNS for an A record. Raises Unresolved."""
    query = dns.message.make_query(hostname, dns.rdatatype.A)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            with make(socket.SOCK_DGRAM) as client:
                client.setblocking(False)
                await loop.sock_connect(client, (server, port))
                await loop.sock_sendall(client, query.to_wire())
                response = dns.message.from_wire(await loop.sock_recv(client, MAX_DATAGRAM))
    except (dns.exception.DNSException, OSError, TimeoutError) as error:
        raise Unresolved(f"{hostname}: {error}") from error
    for answer in response.answer:
        for item in answer:
            if item.rdtype == dns.rdatatype.A:
                return str(item.address)
    raise Unresolved(f"{hostname}: no address")


async def _connected(
    ip: str, port: int, make: SocketMaker, tls: ssl.SSLContext | None = None, hostname: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    client = make(socket.SOCK_STREAM)
    try:
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (ip, port))
        return await asyncio.open_connection(sock=client, ssl=tls, server_hostname=hostname if tls else None)
    except BaseException:
        client.close()
        raise


async def get(  # noqa: PLR0917 - what a request is made of
    ip: str, port: int, hostname: str, path: str = "/", make: SocketMaker = here, tls: ssl.SSLContext | None = None
) -> Answer:
    """GET over a fresh connection, in plaintext without `tls`. Raises OSError, TimeoutError."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        reader, writer = await _connected(ip, port, make, tls, hostname)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {hostname}:{port}\r\nconnection: close\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(head.split(" ", 2)[1])
            return Answer(status, (await _body(reader, head.lower())).decode(errors="replace"))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(f"{hostname}: closed without an answer") from error
        finally:
            writer.close()


async def _body(reader: asyncio.StreamReader, head: str) -> bytes:
    for line in head.split("\r\n"):
        if line.startswith("content-length:"):
            return await reader.readexactly(int(line.split(":", 1)[1]))
    if "transfer-encoding: chunked" not in head:
        return await reader.read()
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return body


async def echo(ip: str, port: int, line: str, make: SocketMaker = here) -> str:
    """Send one line over TCP and return what comes back ("" when the connection is closed)."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        reader, writer = await _connected(ip, port, make)
        try:
            writer.write(line.encode() + b"\n")
            return (await reader.readline()).decode().rstrip("\n")
        except ConnectionError:
            return ""
        finally:
            writer.close()
