"""The past as a running plane tells it: read from its own server when somebody asks, kept in its data directory.

Nothing is read before the first question. One question is answered at a time, in a thread of its own, so that proxies
are served meanwhile; what has been written since the last question is read first.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, TypeVar

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.events.past import PastLog
from shared.events.reading import EVERYTHING, Reader, past_for, records_for
from shared.events.redaction import redacted_line
from shared.events.signing import Checks
from shared.history.cache import HistoryCache, OriginCache, history_of
from shared.nats.pull import RawEvent
from shared.process.collector import collector_paused

T = TypeVar("T")

WAITING_LIMIT = 16
"""Questions that wait or are answered."""
NARROWED_LIMIT = 16
"""Logs as limited readers see them that are kept: 20 bytes per event each."""
READ_EVENTS = 500
"""Read in one piece: about a millisecond of work."""
KEEP_EVENTS = 10_000
"""So many new events make it worth to write the index anew."""


Recorded: TypeAlias = Callable[[], Awaitable[Sequence[bytes]]]


class TooManyQuestions(Exception):
    """Ask again later."""


class RawLog(Protocol):
    """What is needed of an origin's log (`shared.nats.log.JetStreamLog`)."""

    async def last(self) -> int:
        """Sequence of the last event. Raises LogUnavailable."""
        ...

    def read_raw(self, after: int = 0, until: int | None = None) -> AsyncGenerator[RawEvent, None]:
        """Events, not decoded. Raises LogUnavailable, LogFault."""
        ...


class PlaneHistory:
    """The history of a plane's logs. `directory` is its own, and can be deleted while it is down. recorded: reads what
    a zone recorded of its proxies, by zone. checks: what verifies the logs' signatures.
    """

    def __init__(
        self,
        logs: Mapping[str, RawLog],
        directory: Path,
        recorded: Mapping[str, Recorded] = MappingProxyType({}),
        *,
        checks: Checks = MappingProxyType({}),
    ) -> None:
        self.checks = checks
        self._logs = dict(sorted(logs.items(), key=lambda item: (item[0] != GLOBAL, item[0])))
        self._directory = directory
        self._recorded = recorded
        self._caches: dict[str, OriginCache] = {}
        self._turn = asyncio.Lock()
        self._narrowed: OrderedDict[tuple[Reader, str], tuple[PastLog, PastLog]] = OrderedDict()
        self.reader: Callable[[], Reader] = lambda: EVERYTHING
        """Tells, when something is asked, what whoever asks may see; all else is left out of what they are told."""
        self._waiting = 0

    @property
    def origins(self) -> list[str]:
        """Whose logs there are for whoever asks, global first."""
        return [origin for origin in self._logs if self.reader().sees_zone(origin)]

    async def ask(self, question: Callable[[History], T]) -> T:
        """What `question` finds in the history up to now. Raises TooManyQuestions, LogUnavailable, LogFault, OSError,
        DamagedLog, and whatever the question raises.
        """
        if self._waiting >= WAITING_LIMIT:
            raise TooManyQuestions(f"{WAITING_LIMIT} questions about the past wait already")
        answering = asyncio.ensure_future(self._answer(question, self.reader()))
        self._waiting += 1
        answering.add_done_callback(self._answered)
        # Whoever asked may go away: the thread works on, and nothing may change under it.
        return await asyncio.shield(answering)

    async def _answer(self, question: Callable[[History], T], reader: Reader) -> T:
        async with self._turn:
            for origin, log in self._logs.items():
                await self._read(origin, log)
            kept = await asyncio.gather(*(read() for read in self._recorded.values()))
            recorded = dict(zip(self._recorded, kept, strict=True))
            history = await asyncio.to_thread(self._history_for, reader, recorded)
            found = await asyncio.to_thread(_found, question, history)
            history.tidy()
            return found

    def _answered(self, answering: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not answering.cancelled():
            answering.exception()  # told to whoever still waits

    def _history_for(self, reader: Reader, recorded: Mapping[str, Sequence[bytes]]) -> History:
        pasts = {origin: self._past_for(reader, origin) for origin in self._caches if reader.sees_zone(origin)}
        return history_of(pasts, {zone: records_for(reader, kept) for zone, kept in recorded.items() if zone in pasts})

    def _past_for(self, reader: Reader, origin: str) -> PastLog:
        past, place = self._caches[origin].past, (reader, origin)
        if not reader.is_limited:
            return past
        of, narrowed = self._narrowed.pop(place, (None, past))
        if of is not past or len(narrowed) != len(past):
            narrowed = past_for(reader, past)
        self._narrowed[place] = past, narrowed
        if len(self._narrowed) > NARROWED_LIMIT:
            self._narrowed.popitem(last=False)
        return narrowed

    async def lines(self, origin: str, after: int, until: int) -> AsyncGenerator[bytes, None]:
        """Events with after < n <= until, without secrets, a line each, in pieces. Call `ask` first."""
        past = self._past_for(self.reader(), origin)
        for first in range(after + 1, min(until, len(past)) + 1, READ_EVENTS):
            last = min(first + READ_EVENTS - 1, until, len(past))
            yield b"".join(redacted_line(past.raw(n)) + b"\n" for n in range(first, last + 1))
            await asyncio.sleep(0)

    async def _read(self, origin: str, log: RawLog) -> None:
        cache = self._caches.get(origin)
        last = await log.last()
        if cache is None:
            cache = self._caches[origin] = await asyncio.to_thread(self._opened, origin)
        n = len(cache.index)
        if not await continues(log, cache.past, last):
            cache.forget()
            n = 0
        if n >= last:
            return
        with cache.growing(keep=last - cache.kept >= KEEP_EVENTS) as extend:
            piece: list[bytes] = []
            async with aclosing(log.read_raw(n, last)) as arriving:
                async for raw in arriving:
                    piece.append(raw.data)
                    if len(piece) >= READ_EVENTS:
                        extend(piece)
                        piece = []
            if piece:
                extend(piece)

    def _opened(self, origin: str) -> OriginCache:
        with HistoryCache(self._directory) as kept:
            return kept.origin(origin)


def _found(question: Callable[[History], T], history: History) -> T:
    with collector_paused():
        return question(history)


async def continues(log: RawLog, past: PastLog, last: int) -> bool:
    """Whether the log, whose last event is `last`, has at the end of what is kept the event that is kept there."""
    n = len(past)
    if n > last:
        return False
    return [raw.data async for raw in log.read_raw(n - 1, n)] == [past.raw(n)] if n else True
