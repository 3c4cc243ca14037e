"""A workload that dials the zone egress itself, with a certificate of its mesh and whatever else it likes to say."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path

import h2.config
import h2.connection

from shared.naming import spiffe
from tests.xds.loopback import LoopbackZone

SECONDS = 10


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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(path)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

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
                while b'"server"' not in answer and (data := await reader.read(65536)):
                    answer += data
                writer.close()
        except (OSError, ValueError):
            return b""
        return answer


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
