"""A UDP server socket on asyncio's loop, read in batches: one wake-up serves all that is there.

asyncio's own transport takes a turn of the loop and a buffer of 256 KiB per datagram, which costs ten times what an
answer does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

MAX_BATCH = 64
"""Datagrams taken in one turn of the loop; then others have theirs."""
MAX_DATAGRAM = 4096
"""Bytes of a query; a longer one is cut off, and so malformed."""
RECEIVE_BUFFER_BYTES = 1 << 20
"""What may wait in the kernel while the loop does something else; the system may allow less."""

Receive: TypeAlias = Callable[[bytes, Any], bytes | None]
"""Given a datagram and who sent it, the answer, or None for none (yet)."""


class Datagrams:
    """A bound socket; `open` begins to read, `close` ends it."""

    def __init__(self, host: str, port: int, receive: Receive) -> None:
        """Bind. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self._receive = receive
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port: int = self._socket.getsockname()[1]

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read from now on."""
        loop.add_reader(self._socket.fileno(), self._read)
        self._loop = loop

    def close(self) -> None:
        """Read no more; what is sent later is lost."""
        if self._socket.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def send(self, data: bytes, client: Any) -> None:
        """Send a datagram; one that cannot go out now is lost, as any may be."""
        with suppress(OSError):
            self._socket.sendto(data, client)

    def _read(self) -> None:
        for _ in range(MAX_BATCH):
            try:
                data, client = self._socket.recvfrom(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an earlier answer met nobody
            answer = self._receive(data, client)
            if answer is not None:
                self.send(answer, client)
