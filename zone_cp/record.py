"""Recorder: puts what callbacks learned into the zone's log, in the order they learned it.

A callback must not wait for the log, and the log may be away: what is to be recorded stands in one queue, and its
head is tried until the zone's own server takes it. Nothing overtakes, so that the last word about a proxy stays last.
What came in while the log was being written goes out together: two thousand proxies that come back at once cost a
few appends, and the zone is published a few times.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TypeAlias

import structlog

from shared.events.log import LogUnavailable
from zone_cp.follow import Decided

RETRY_SECONDS = 0.5
STOP_SECONDS = 1.0
"""How long a stop waits for what is still to be recorded; the next start finds out what was missed."""
LIMIT = 100_000
"""Entries that may wait; beyond it the process fails, and its next start begins with what is true then."""

BATCH = 250
"""Entries that are decided on and recorded together at most."""

Write: TypeAlias = Callable[[Sequence[tuple[Decided, str]]], Awaitable[int]]
"""Decides and records a beginning of the entries, each with its actor; how many it took. Raises LogUnavailable."""

log = structlog.get_logger(__name__)


class RecorderFull(Exception):
    """More waits to be recorded than a zone can have to say."""


class Recorder:
    """Belongs to one event loop."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: deque[tuple[Decided, str]] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def record(self, decided: Decided, actor: str) -> None:
        """Let this be decided and recorded after all that was asked for before; returns at once."""
        self._waiting.append((decided, actor))
        self._empty.clear()
        self._wake.set()

    async def run(self) -> None:
        """For ever. Raises RecorderFull, and what a decision raises."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                for _ in range(await self._record()):
                    self._waiting.popleft()
            self._empty.set()

    async def settle(self) -> None:
        """Wait until nothing is left, at most STOP_SECONDS."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            log.warning("not all was recorded", left=len(self._waiting))

    async def _record(self) -> int:
        said = ""
        while True:
            if len(self._waiting) > LIMIT:
                raise RecorderFull(f"{len(self._waiting)} entries wait for the zone's log")
            try:
                return await self._write(tuple(islice(self._waiting, BATCH)))
            except LogUnavailable as error:
                if str(error) != said:  # it may take long until an operator comes
                    said = str(error)
                    log.warning("cannot record now", waiting=len(self._waiting), error=said)
                await asyncio.sleep(RETRY_SECONDS)
