"""A link that can be cut: a TCP proxy on loopback that refuses, or swallows everything, until it is healed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal


class Link:
    """Forwards a port of its own to `target_port`. `cut` ends all connections; `heal` lets new ones through."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self, how: Literal["refuse", "swallow"] = "refuse") -> None:
        """Refuse connections and end those that stand, or keep them open and let no byte through."""
        if how == "swallow":
            self._flows.clear()
            return
        if self._server is not None:
            self._server.close()
            self._server = None
        self._drop()

    async def heal(self) -> None:
        """Let bytes through again."""
        if self._server is None:
            await self.start()
        if not self._flows.is_set():
            self._flows.set()

    async def stop(self) -> None:
        """End it."""
        self._flows.set()
        await self.cut()
        await asyncio.sleep(0)

    def _drop(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            self._writers.discard(writer)
            return
        self._writers.add(there_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there_writer))
                group.create_task(self._pump(there_reader, writer))
        finally:
            for end in (writer, there_writer):
                end.transport.abort()
                self._writers.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
