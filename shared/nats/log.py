"""An origin's log on a JetStream stream: event n stands at sequence n.

Theory of operation. Appending carries the expected last sequence, so of two writers one is refused; every message
carries its event's id, so a retry is recognised. When the server refuses, the stream is read back at those sequences:
the same ids there mean that an earlier try of ours succeeded and only its acknowledgement was lost. Reading runs on
`PullSession`s, one after the other, each beginning after the last event handed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec

from shared.events.event import Event, decode_event, encode_event
from shared.events.log import Conflict, LogBroken, LogUnavailable
from shared.nats.connection import ApiError, Connection, decode_api
from shared.nats.direct import read_direct
from shared.nats.pull import TRANSIENT, Inbox, PullSession, RawEvent, Start
from shared.nats.stream import API, ensure_stream
from shared.process.lull import Pause, at_once

MAX_BATCH = 1000
FEW = 6
"""Up to so many events are written sooner one after the other than as one batch, which costs the server a directory of
its own (measured: about 5 ms).
"""
ATTEMPTS = 6
BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8)
REOPEN_SECONDS = 0.1
COMMIT_TIMEOUT_SECONDS = 5.0

_WRONG_SEQUENCE = frozenset({10071, 10164, 10201})
_NOTHING_WRITTEN = frozenset({10176, 10199, 10208, 10210, 10211})
_UNAVAILABLE = 503


class LogFault(LogBroken):
    """The stream is not what a log must be; reading on would be wrong. `sequence` is where it shows."""

    def __init__(self, stream: str, sequence: int, reason: str) -> None:
        super().__init__(f"stream {stream} at {sequence}: {reason}")
        self.stream = stream
        self.sequence = sequence
        self.reason = reason


class Undecodable(LogFault):
    """The event at `sequence` is readable by nobody here; `raw` is what stands there. Read on with `after=sequence`."""

    def __init__(self, stream: str, raw: RawEvent, reason: str) -> None:
        super().__init__(stream, raw.sequence, reason)
        self.raw = raw


PoisonCallback = Callable[[RawEvent, str], None]


class _Id(msgspec.Struct):
    id: str


_id_decoder = msgspec.json.Decoder(_Id)


def event_id(data: bytes) -> str:
    """The id inside an encoded event. Raises ValueError when there is none."""
    try:
        return _id_decoder.decode(data).id
    except msgspec.DecodeError as error:
        raise ValueError(f"not an event: {error}") from error


class JetStreamLog:
    """An EventLog on one stream.

    domain: JetStream domain of the stream, or api: prefix of its API where imports rename it. prefix: put before an
    event's subject when publishing, again where imports rename. reader: name of a consumer made for us that we reset
    and pull, where we may not make our own. attempts: how often an append is tried while the log is unreachable.
    on_poison: called with an event that cannot be decoded, which is then left out; without it Undecodable is raised.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        domain: str | None = None,
        api: str | None = None,
        prefix: str = "",
        reader: str | None = None,
        attempts: int = ATTEMPTS,
        on_poison: PoisonCallback | None = None,
    ) -> None:
        self.connection = connection
        self.stream = stream
        self._api = api or (f"$JS.{domain}.API" if domain else API)
        self._prefix = prefix
        self._reader = reader
        self._attempts = attempts
        self._on_poison = on_poison
        self._appending = asyncio.Lock()

    async def ensure(self, settings: dict[str, Any]) -> None:
        """Create or update the stream with settings of `shared.nats.stream`. Raises ApiError, LogUnavailable."""
        await ensure_stream(self.connection, settings)

    async def last(self) -> int:
        """See EventLog. Raises LogUnavailable."""
        try:
            info = await self.connection.api(f"{self._api}.STREAM.INFO.{self.stream}")
        except ApiError as error:
            raise LogUnavailable(f"{self.stream}: {error}") from error
        return int(info["state"]["last_seq"])

    async def append(self, events: Sequence[Event], *, whole: bool = True) -> None:
        """See EventLog. At most MAX_BATCH events. Raises Conflict, LogUnavailable."""
        raws = [RawEvent(event.n, event.subject, encode_event(event)) for event in events]
        await self.append_raw(raws, whole=whole)

    async def append_raw(self, events: Sequence[RawEvent], *, whole: bool = True) -> None:
        """Append encoded events byte for byte, under the rules of `append`."""
        if not events:
            return
        if len(events) > MAX_BATCH:
            raise ValueError(f"{len(events)} events exceed a batch of {MAX_BATCH}")
        if any(event.sequence != events[0].sequence + i for i, event in enumerate(events)):
            raise ValueError("events of a batch must be consecutive")
        async with self._appending:
            if whole or len(events) == 1 or len(events) > FEW:
                await self._append(list(events))
            else:
                await self._append_one_by_one(events)

    async def _append_one_by_one(self, events: Sequence[RawEvent]) -> None:
        """Send all at once: none is let in but behind the very one before it."""
        befores = ("", *(event_id(event.data) for event in events))
        sent = [asyncio.create_task(self._publish(*one)) for one in zip(events, befores, strict=False)]
        stored = await asyncio.gather(*sent, return_exceptions=True)
        ambiguous = False
        for event, sequence in zip(events, stored, strict=True):
            if sequence != event.sequence:
                if isinstance(sequence, asyncio.CancelledError):
                    raise sequence
                # Whatever became of it: it is looked for, and written where it is not there.
                ambiguous = ambiguous or (isinstance(sequence, LogUnavailable) and sequence.ambiguous)
                await self._append([event], ambiguous=ambiguous)

    async def _append(self, events: list[RawEvent], *, ambiguous: bool = False) -> None:
        """ambiguous: they may have been written before."""
        why: Exception | None = None
        for attempt in range(self._attempts):
            if attempt:
                await self.connection.pause(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS)) - 1])
            try:
                sequence = await (self._publish(events[0]) if len(events) == 1 else self._publish_batch(events))
            except LogUnavailable as error:
                ambiguous, why = ambiguous or error.ambiguous, error
                continue
            except ApiError as error:
                why = error
                if error.err_code in _WRONG_SEQUENCE:
                    try:
                        events = await self._missing(events)
                    except LogUnavailable as unavailable:
                        ambiguous, why = True, unavailable
                        continue
                    if not events:
                        return
                elif error.err_code not in _NOTHING_WRITTEN and error.code != _UNAVAILABLE:
                    raise LogFault(self.stream, events[0].sequence, str(error)) from error
                continue
            if sequence != events[-1].sequence:
                raise LogFault(self.stream, sequence, f"event {events[-1].sequence} was stored here")
            return
        raise LogUnavailable(f"cannot append to {self.stream}: {why}", ambiguous=ambiguous) from why

    async def _missing(self, events: list[RawEvent]) -> list[RawEvent]:
        """Those of `events` that the stream lacks, when it holds none or a beginning of them. Raises Conflict."""
        first = events[0].sequence
        last = await self.last()
        stored = [raw async for raw in self._range(first - 1, min(last, events[-1].sequence))]
        pairs = zip(events, stored, strict=False)
        same = sum(event_id(mine.data) == _id_or_none(theirs.data) for mine, theirs in pairs)
        # A server that died within a batch may have kept its beginning: then the rest is ours to add.
        if last < first - 1 or same < len(stored):
            raise Conflict(first - 1, last)
        return events[same:]

    async def _publish(self, event: RawEvent, before: str = "") -> int:
        """before: the id of the event that must be the last one; its sequence alone could be another's."""
        headers = self._headers(event, first=True)
        if before:
            headers["Nats-Expected-Last-Msg-Id"] = before
        reply = await self.connection.request(self._prefix + event.subject, event.data, headers=headers)
        return int(decode_api(reply.data).get("seq", 0))

    async def _publish_batch(self, events: list[RawEvent]) -> int:
        batch = uuid.uuid4().hex
        for i, event in enumerate(events[:-1], start=1):
            headers = self._headers(event, first=i == 1) | {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(i)}
            await self.connection.publish(self._prefix + event.subject, event.data, headers=headers)
        last = events[-1]
        headers = self._headers(last, first=False) | {
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(len(events)),
            "Nats-Batch-Commit": "1",
        }
        reply = await self.connection.request(
            self._prefix + last.subject, last.data, headers=headers, timeout_seconds=COMMIT_TIMEOUT_SECONDS
        )
        return int(decode_api(reply.data).get("seq", 0))

    def _headers(self, event: RawEvent, *, first: bool) -> dict[str, str]:
        headers = {"Nats-Msg-Id": event_id(event.data), "Nats-Expected-Stream": self.stream}
        if first:
            headers["Nats-Expected-Last-Sequence"] = str(event.sequence - 1)
        return headers

    async def read(self, after: int = 0, until: int | None = None) -> AsyncGenerator[Event, None]:
        """See EventLog. Raises LogUnavailable when the link stays down, LogFault."""
        async for raw in self.read_raw(after, until):
            event = self._decode(raw)
            if event is not None:
                yield event

    async def read_raw(self, after: int = 0, until: int | None = None) -> AsyncGenerator[RawEvent, None]:
        """As `read`, not decoded."""
        last = await self.last()
        until = last if until is None else min(until, last)
        async for raw in self._range(after, until):
            yield raw

    async def _range(self, after: int, until: int) -> AsyncGenerator[RawEvent, None]:
        position, failures = max(after, 0), 0
        while position < until:
            try:
                async for raw in self._range_once(position, until):
                    self._check_next(position, raw)
                    position, failures = raw.sequence, 0
                    yield raw
                if position < until:
                    raise LogUnavailable(f"{self.stream} gave nothing after {position}")
            except TRANSIENT as error:
                failures += 1
                if failures >= self._attempts:
                    raise LogUnavailable(f"cannot read {self.stream}: {error}") from error
                await self.connection.pause(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1])

    async def _range_once(self, after: int, until: int) -> AsyncGenerator[RawEvent, None]:
        if self._reader is not None or until - after <= MAX_BATCH:
            async for raw in read_direct(self.connection, self._api, self.stream, after, until):
                yield raw
            return
        session = PullSession(self.connection, self._api, self.stream)
        try:
            await session.open(Start(after))
            while after < until:
                for raw in await session.batch():
                    after = raw.sequence
                    if raw.sequence <= until:
                        yield raw
        finally:
            await session.close()

    async def follow(self, after: int = 0) -> AsyncGenerator[Sequence[Event], None]:
        """See EventLog. Raises LogFault (only) when the stream cannot be this log."""
        async with contextlib.aclosing(self.follow_raw(after)) as following:
            async for raws in following:
                events: list[Event] = []
                for raw in raws:
                    try:
                        event = self._decode(raw)
                    except LogFault:
                        if events:
                            yield events
                        raise
                    if event is not None:
                        events.append(event)
                if events:
                    yield events

    async def follow_raw(self, after: int = 0, pause: Pause = at_once) -> AsyncGenerator[list[RawEvent], None]:
        """As `follow`, not decoded: one batch per wake-up, never empty. pause: see `PullSession.batch`."""
        position = after
        inbox = Inbox(self.connection) if self._reader else None
        try:
            while True:
                session = PullSession(self.connection, self._api, self.stream, reader=self._reader, inbox=inbox)
                try:
                    batch = await self._open_at(session, position, pause)
                    while batch is not None:
                        for raw in batch:
                            self._check_next(position, raw)
                            position = raw.sequence
                        yield batch
                        batch = await _next_batch(session, pause)
                finally:
                    await session.close()
                await self.connection.pause(REOPEN_SECONDS)
        finally:
            if inbox is not None:
                await inbox.close()

    async def _open_at(self, session: PullSession, position: int, pause: Pause) -> list[RawEvent] | None:
        try:
            last = await self.last()
            if last >= position:
                await session.open(Start(position))
        except TRANSIENT:
            return None
        if last < position:
            raise LogFault(self.stream, last, f"the log ends before {position}: it was rolled back")
        return await _next_batch(session, pause)

    def _check_next(self, position: int, raw: RawEvent) -> None:
        if raw.sequence != position + 1:
            raise LogFault(self.stream, raw.sequence, f"expected {position + 1}: the log has a hole")

    def _decode(self, raw: RawEvent) -> Event | None:
        try:
            event = decode_event(raw.data)
        except msgspec.DecodeError as error:
            if self._on_poison is None:
                raise Undecodable(self.stream, raw, str(error)) from error
            self._on_poison(raw, str(error))
            return None
        if event.n != raw.sequence:
            raise LogFault(self.stream, raw.sequence, f"holds event {event.n}")
        return event


async def _next_batch(session: PullSession, pause: Pause) -> list[RawEvent] | None:
    try:
        return await session.batch(pause)
    except TRANSIENT:
        return None


def _id_or_none(data: bytes) -> str | None:
    try:
        return event_id(data)
    except ValueError:
        return None
