"""The link between hub and zone, as a TCP relay in the demo's own process, so that it can be cut and healed."""

from __future__ import annotations

import asyncio


class Link:
    """Relays `port` on loopback to `target_port`; while cut, open connections are reset and new ones refused."""

    def __init__(self, port: int, target_port: int) -> None:
        self.cut_by = f"the relay on port {port} resets connections and refuses new ones"
        self._port = port
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def heal(self) -> None:
        """Accept connections (again)."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """Refuse connections and reset the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of its own, because asyncio reports a connection callback that ends cancelled.
        relay = asyncio.create_task(self._both_ways(reader, writer))
        self._relays.add(relay)
        await asyncio.wait((relay,))
        self._relays.discard(relay)

    async def _both_ways(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, far_writer))
                group.create_task(_pump(far_reader, writer))
        except* (OSError, _Ended):
            pass
        finally:
            for end in ends:
                end.transport.abort()


class _Ended(Exception):
    """One side closed: both pumps stop."""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    raise _Ended
