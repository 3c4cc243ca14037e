"""Starting: how many streams bring their client up to date at a time.

A client that connects is owed all it does not hold yet, and of that every stream may have several responses under way:
for thousands that connect at once more bytes than a process should keep. So a stream that has not delivered everything
once speaks only while it has a place; the others wait their turn, first come, first served. It gives its place back
when nothing that it said is unanswered, or when its time is over: a client that does not answer, or read, holds nobody
up. Those times are spread by `jitter`, or the places of many slow clients would fall free at one moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from zone_cp.ads.hub import Stream
from zone_cp.ads.memory import AfterStorm, trimmer
from zone_cp.ads.rpc import frames
from zone_cp.ads.writing import Write, Writer

FIRST_SYNCS_MAX = 32
"""Streams that may have the first responses of their life under way at the same time."""
FIRST_SYNC_SECONDS = 2.0
"""How long one may keep its place while its client does not answer, on average."""


class FirstSyncs:
    """Belongs to one event loop. jitter gives numbers in [0, 1)."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        """All places are free."""
        self._places = asyncio.Semaphore(FIRST_SYNCS_MAX)
        self._jitter = jitter
        self._after = AfterStorm(trimmer(), frames.forget)

    async def begin(self, stream: Stream, writer: Writer, due: Callable[[], Sequence[bytes]], write: Write) -> None:
        """Bring a stream's client up to date, in its turn; from then on `writer` says what is due, without a task.

        Takes the stream's ring; what goes wrong ends the stream.
        """
        bell = asyncio.Event()
        stream.ring = stream.speak = bell.set
        bell.set()

        async def speak() -> None:
            bell.clear()
            for response in due():
                await write(response)

        try:
            while stream.xds.delivered is None:
                await bell.wait()
                await self._run(stream, bell, speak)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to this client and nobody else
            stream.fail(error)
        else:
            stream.ring, stream.speak = writer.ring, writer.speak
            writer.speak()
            self._after.again()

    async def _run(self, stream: Stream, bell: asyncio.Event, speak: Callable[[], Awaitable[None]]) -> None:
        """Wait for a place; then write what is due (`speak`) until nothing is unanswered or the time is over.

        bell: it is rung when something may be due.
        """
        await self._places.acquire()
        place = _Place(self._places.release)
        end = asyncio.get_running_loop().time() + FIRST_SYNC_SECONDS * (0.5 + self._jitter())
        over = asyncio.get_running_loop().call_at(end, place.give_back)  # also while a client does not read
        try:
            while not place.is_free:
                await speak()  # never interrupted: a write that is cancelled kills the call
                if not stream.xds.unanswered:
                    return
                try:
                    async with asyncio.timeout_at(end):
                        await bell.wait()
                except TimeoutError:
                    return
        finally:
            over.cancel()
            place.give_back()


class _Place:
    """A place that is given back once."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release
        self.is_free = False

    def give_back(self) -> None:
        """Let another have it."""
        if not self.is_free:
            self.is_free = True
            self._release()
