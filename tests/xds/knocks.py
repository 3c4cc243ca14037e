"""A workload that dials the zone egress itself, with a certificate of its mesh and whatever else it likes to say."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

import h2.config
import h2.connection

from shared.naming import spiffe
from tests.xds.loopback import LoopbackZone

SECONDS = 10


class _AnyName(ssl.SSLContext):
    """Says the name it is given: Python would check and rewrite it."""

    def _encode_hostname(self, hostname: str) -> str:
        return hostname


class Workload:
    """Workloads `web` of any mesh, on loopback."""

    def __init__(self, zone: LoopbackZone, directory: Path) -> None:
        self.zone, self.directory = zone, directory

    def context(self, mesh: str, protocols: tuple[str, ...]) -> ssl.SSLContext:
        """With a certificate that the mesh's own control plane issued."""
        svid = self.zone.secrets.identity(mesh, spiffe.workload_id(mesh, "web"))
        path = self.directory / f"{mesh}.pem"
        path.touch(mode=0o600)
        path.write_text(svid.chain_pem + svid.key_pem)
        context = _AnyName(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(path)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def dial(self, mesh: str, sni: str, protocols: tuple[str, ...]) -> ssl.SSLSocket:
        """A connection to the egress that stays."""
        raw = socket.create_connection(("127.0.0.1", self.zone.egress_port), timeout=SECONDS)
        return self.context(mesh, protocols).wrap_socket(raw, server_hostname=sni)

    def knock(self, mesh: str, sni: str, protocols: tuple[str, ...], said: bytes) -> bytes:
        """What the egress answers a workload of `mesh`, b"" when it closes."""
        return asyncio.run(self._knock(self.context(mesh, protocols), sni, said))

    def storm(self, mesh: str, names: Iterable[str], protocols: tuple[str, ...], said: bytes, width: int) -> set[bytes]:
        """The first lines of what it answers to each of many names, `width` of them at a time."""

        async def run() -> set[bytes]:
            context, left, seen = self.context(mesh, protocols), iter(names), set()

            async def worker() -> None:
                for sni in left:
                    seen.add((await self._knock(context, sni, said)).partition(b"\r\n")[0])

            await asyncio.gather(*(worker() for _ in range(width)))
            return seen

        return asyncio.run(run())

    async def _knock(self, context: ssl.SSLContext, sni: str, said: bytes) -> bytes:
        try:
            async with asyncio.timeout(SECONDS):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.zone.egress_port, ssl=context, server_hostname=sni
                )
                writer.write(said)
                answer = b""
                while not _whole(answer) and (data := await reader.read(65536)):
                    answer += data
                writer.close()
        except (OSError, ValueError):
            return b""
        return answer


class KeptOpen:
    """HTTP requests one after the other on one connection."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._http = HTTPConnection("x")
        self._http.auto_open = 0
        self._http.sock = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self) -> tuple[int, str]:
        """Status and body."""
        self._http.request("GET", "/")
        answer = self._http.getresponse()
        return answer.status, answer.read().decode()


def _whole(answer: bytes) -> bool:
    # Waiting for the end of the connection would take the second that Envoy leaves a client to close it.
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return b'"server"' in answer or bool(found and length and len(body) >= int(length[1]))


def http1(*headers: str) -> bytes:
    """A request that ends its connection."""
    lines = "".join(f"{one}\r\n" for one in headers)
    return f"GET / HTTP/1.1\r\nhost: x\r\n{lines}connection: close\r\n\r\n".encode()


def http2(*headers: str) -> bytes:
    """The same in HTTP/2, with prior knowledge."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration())
    connection.initiate_connection()
    own = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]
    more = [(name, value) for name, _, value in (one.partition(": ") for one in headers)]
    connection.send_headers(1, [*own, *more], end_stream=True)
    return connection.data_to_send()
