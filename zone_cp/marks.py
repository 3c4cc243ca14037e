"""Marks: how far each proxy has come, kept in the zone's delivery stream: what the fence looks at after a restart.

Nothing here is in the path of a change. What moved is noted in memory and written together, at most once in
FLUSH_SECONDS and never more than a tenth of the time. Proxies share BUCKETS messages, and a proxy that a change did not
touch moves with the `head`, one small message for all that are up to date. So the cost is that of the proxies that were
sent something, at most once a second, and not changes times proxies. A crash can lose the last second: a mark is then a
little lower than what the proxy had, and the fence a little weaker.

Key `head` is a Head, `bNN` is a Bucket; the stream keeps the last few messages of each, so that a reader can also see
how the marks moved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from zlib import crc32

import msgspec
import structlog

from shared.events.log import LogUnavailable
from shared.events.state import Position
from shared.nats.status import StatusStream
from shared.process.writer import event_time
from zone_cp.ads.fence import Mark
from zone_cp.ads.hub import Hub
from zone_cp.took import Incarnations, Records
from zone_cp.xds.inspect import short_type

BUCKETS = 32
FLUSH_SECONDS = 1.0
PAUSE_FACTOR, PAUSE_SECONDS_MAX = 9, 10.0
"""Pause after each write, as a multiple of what it took."""
RETRY_SECONDS = 1.0
STOP_SECONDS = 1.0
HEAD = "head"

log = structlog.get_logger(__name__)


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """How far one type of one proxy has come: the moment of what was sent last and of what was ACKed last, and when
    each was first seen here (RFC 3339, "" for never).
    """

    sent: Position | None
    sent_at: str
    acked: Position | None
    acked_at: str


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One proxy. incarnation: index into the bucket's. current: it had all there was, so it moves with the head."""

    incarnation: int
    delivered: Position
    current: bool
    at: str
    types: dict[str, Moved]


class Bucket(msgspec.Struct, frozen=True):
    """Some of the proxies."""

    incarnations: tuple[Incarnations, ...]
    rows: dict[str, Row]


class Head(msgspec.Struct, frozen=True):
    """What every proxy holds whose row says that it is current."""

    incarnations: Incarnations
    position: Position
    at: str


class _Known(msgspec.Struct):
    incarnations: Incarnations
    delivered: Position
    current: bool
    at: str
    types: dict[str, Moved]


class Marks:
    """Belongs to one event loop. incarnations: of the logs as they are now. records: told what proxies hold."""

    def __init__(
        self, stream: StatusStream, hub: Hub, incarnations: Callable[[], Incarnations], records: Records
    ) -> None:
        self._stream = stream
        self._hub = hub
        self._incarnations = incarnations
        self._known: dict[str, _Known] = {}
        self._moved: set[str] = set()
        self._changed: set[int] = set()
        self._head: Head | None = None
        self._records = records
        self._wake = asyncio.Event()

    async def recall(self) -> Mapping[str, Mark]:
        """What an earlier life wrote. Raises LogUnavailable; what cannot be read is told and left out."""
        values = await self._stream.values()
        try:
            self._head = msgspec.json.decode(values[HEAD], type=Head) if values.get(HEAD) else None
            for key, data in values.items():
                if key != HEAD and data:
                    self._take(msgspec.json.decode(data, type=Bucket))
        except msgspec.DecodeError as error:
            log.error("cannot read how far proxies had come", reason=str(error))  # noqa: TRY400 - the reason says it
        for proxy, row in self._known.items():
            row.current = False  # the head moves on; who is current again says so anew
            self._changed.add(_bucket(proxy))
        return {proxy: Mark(*row.incarnations, row.delivered.g, row.delivered.z) for proxy, row in self._known.items()}

    def _take(self, bucket: Bucket) -> None:
        head = self._head
        for proxy, row in bucket.rows.items():
            incarnations, delivered = bucket.incarnations[row.incarnation], row.delivered
            if row.current and head is not None and head.incarnations == incarnations:
                delivered = max(delivered, head.position)
            self._known[proxy] = _Known(incarnations, delivered, False, row.at, dict(row.types))

    # --- facts come in -------------------------------------------------------------------------------------------

    def moved(self, proxy: str) -> None:
        """The proxy was offered something, or has answered."""
        self._moved.add(proxy)
        self._wake.set()

    def advanced(self) -> None:
        """What proxies hold is good for a newer moment."""
        self._wake.set()

    def left(self, proxy: str, delivered: Position | None) -> None:
        """The proxy's stream ended; `delivered` is how far it had come."""
        known = self._known.get(proxy)
        if delivered is not None:
            self._note(proxy, delivered, current=False)
        elif known is not None and known.current:
            known.current = False
            self._changed.add(_bucket(proxy))
        self._moved.discard(proxy)
        self._wake.set()

    # --- writing -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever: write what moved, together."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(FLUSH_SECONDS)
            self._wake.clear()
            started = time.perf_counter()
            try:
                await self.flush()
            except LogUnavailable as error:
                log.warning("cannot record now how far proxies are", error=str(error))
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(min((time.perf_counter() - started) * PAUSE_FACTOR, PAUSE_SECONDS_MAX))

    async def settle(self) -> None:
        """Write what is left, as the process stops."""
        with suppress(LogUnavailable, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self.flush()

    async def flush(self) -> None:
        """Write what moved since it was written last. Raises LogUnavailable; nothing is forgotten by that."""
        moved, self._moved = self._moved, set()
        position = self._hub.position
        for proxy in moved:
            delivered = self._hub.delivered(proxy)
            if delivered is not None:
                self._note(proxy, delivered, current=position is not None and delivered >= position)
            elif (known := self._known.get(proxy)) is not None and known.current:
                known.current = False
                self._changed.add(_bucket(proxy))
        for number in sorted(self._changed):
            await self._stream.put(f"b{number:02}", msgspec.json.encode(self._encoded(number)))
            self._changed.discard(number)
        head = None if position is None else Head(self._incarnations(), position, event_time())
        if head is not None and (self._head is None or self._head.position != head.position):
            await self._stream.put(HEAD, msgspec.json.encode(head))
            self._head = head
        await self._records.flush()

    def _note(self, proxy: str, delivered: Position, *, current: bool) -> None:
        now = event_time()
        before = self._known.get(proxy)
        types = dict(before.types) if before is not None else {}
        for stream in self._hub.streams_of(proxy):
            for type_url, sent, acked in stream.xds.positions():
                types[short_type(type_url)] = _moved(types.get(short_type(type_url)), sent, acked, now)
        self._known[proxy] = _Known(self._incarnations(), delivered, current, now, types)
        if current and (snapshot := self._hub.snapshot(proxy)) is not None:
            self._records.took(proxy, self._incarnations(), delivered, snapshot, types)
        self._changed.add(_bucket(proxy))

    def _encoded(self, number: int) -> Bucket:
        mine = {proxy: known for proxy, known in self._known.items() if _bucket(proxy) == number}
        incarnations = tuple(dict.fromkeys(known.incarnations for known in mine.values()))
        rows = {
            proxy: Row(incarnations.index(known.incarnations), known.delivered, known.current, known.at, known.types)
            for proxy, known in mine.items()
        }
        return Bucket(incarnations, rows)


def _bucket(proxy: str) -> int:
    return crc32(proxy.encode()) % BUCKETS


def _moved(before: Moved | None, sent: Position | None, acked: Position | None, now: str) -> Moved:
    if before is None:
        return Moved(sent, now if sent else "", acked, now if acked else "")
    sent_at = before.sent_at if before.sent == sent else now
    acked_at = before.acked_at if before.acked == acked else now
    return Moved(sent, sent_at, acked, acked_at)
