"""Observed conditions of a zone: the last word per key, in a stream that keeps one message per subject.

Nothing here is history: a reader gets the present value of each key first and then every change, and may miss values
that were replaced before it came. The resource log never depends on it (decision 30).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from shared.events.log import LogUnavailable
from shared.nats.connection import ApiError, Connection, decode_api
from shared.nats.direct import get_batch, read_direct
from shared.nats.pull import TRANSIENT, PullSession, RawEvent, Start
from shared.nats.stream import API

REOPEN_SECONDS = 0.1
SOURCE_HEADER = "Zonal-Source"
SEQUENCE_HEADER = "Zonal-Source-Sequence"


class Status(msgspec.Struct, frozen=True):
    """The present value of a key; `data` is empty where the key was cleared. `sequence` orders the writes."""

    key: str
    data: bytes
    sequence: int


class Forwarded(msgspec.Struct, frozen=True):
    """How far an outbox had come: up to `sequence` of the stream that was created at `source`."""

    source: str
    sequence: int


class StatusStream:
    """One zone's status stream. subjects: the subject prefix with its final dot; api, prefix: as in JetStreamLog."""

    def __init__(self, connection: Connection, stream: str, subjects: str, *, api: str = API, prefix: str = "") -> None:
        self.connection = connection
        self.stream = stream
        self.subjects = subjects
        self._api = api
        self._prefix = prefix

    async def put(self, key: str, data: bytes, *, origin: Forwarded | None = None) -> int:
        """Set `key` (a valid rest of a NATS subject) to `data`, JSON; the sequence it got. Raises LogUnavailable."""
        headers = {"Nats-Expected-Stream": self.stream}
        if origin is not None:
            headers |= {SOURCE_HEADER: origin.source, SEQUENCE_HEADER: str(origin.sequence)}
        reply = await self.connection.request(self._prefix + self.subjects + key, data, headers=headers)
        try:
            return int(decode_api(reply.data)["seq"])
        except ApiError as error:
            raise LogUnavailable(f"{self.stream}: {error}") from error

    async def clear(self, key: str) -> None:
        """Leave an empty value at `key`: nothing is observed any more. Raises LogUnavailable."""
        await self.put(key, b"")

    async def follow(self) -> AsyncGenerator[list[Status], None]:
        """Non-empty batches: first the present values, then each change; for ever, across cuts of the link."""
        position = 0
        while True:
            session = PullSession(self.connection, self._api, self.stream)
            try:
                batch = await self._first(session, position)
                while batch is not None:
                    position = batch[-1].sequence
                    yield [self._status(raw) for raw in batch]
                    batch = await _next(session)
            finally:
                await session.close()
            await self.connection.pause(REOPEN_SECONDS)

    async def _first(self, session: PullSession, position: int) -> list[RawEvent] | None:
        try:
            if position and await self._last() < position:
                position = 0  # The stream began anew: everything in it is news.
            await session.open(
                Start(position, gapless=False) if position else Start(latest=f"{self.subjects}>", gapless=False)
            )
        except TRANSIENT:
            return None
        return await _next(session)

    async def keys(self) -> set[str]:
        """Every key that was ever set, cleared ones included. Raises LogUnavailable."""
        found: set[str] = set()
        while True:
            page = await self._info({"subjects_filter": f"{self.subjects}>", "offset": len(found)})
            subjects = page["state"].get("subjects") or {}
            found |= {subject.removeprefix(self.subjects) for subject in subjects}
            if not subjects or len(found) >= int(page.get("total", 0)):
                return found

    async def values(self) -> dict[str, bytes]:
        """The present value of every key. Raises LogUnavailable."""
        wanted = {"multi_last": [f"{self.subjects}>"]}
        found = await get_batch(self.connection, self._api, self.stream, wanted)
        return {stored.raw.subject.removeprefix(self.subjects): stored.raw.data for stored in found}

    async def kept(self) -> list[bytes]:
        """Every message that the stream still holds, in order. Raises LogUnavailable."""
        last = await self._last()
        return [raw.data async for raw in read_direct(self.connection, self._api, self.stream, 0, last)]

    async def news(self, known: deque[RawEvent]) -> None:
        """Bring what the stream held once up to what it holds now, in order. Raises LogUnavailable."""
        state = (await self._info())["state"]
        first, last = int(state["first_seq"]), int(state["last_seq"])
        if known and known[-1].sequence > last:
            known.clear()  # it began anew
        while known and known[0].sequence < first:
            known.popleft()
        after = known[-1].sequence if known else 0
        known.extend([raw async for raw in read_direct(self.connection, self._api, self.stream, after, last)])

    async def identity(self) -> str:
        """When the stream was created, as the server says: tells a stream from its successor. Raises LogUnavailable."""
        return str((await self._info())["created"])

    async def forwarded(self) -> Forwarded | None:
        """What the last message says about its outbox; None where nothing was forwarded. Raises LogUnavailable."""
        last = await self._last()
        found = await get_batch(self.connection, self._api, self.stream, {"seq": last, "batch": 1}) if last else []
        if not found or SOURCE_HEADER not in found[0].headers:
            return None
        headers = found[0].headers
        return Forwarded(headers[SOURCE_HEADER], int(headers[SEQUENCE_HEADER]))

    async def _last(self) -> int:
        return int((await self._info())["state"]["last_seq"])

    async def _info(self, asked: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            info: dict[str, Any] = await self.connection.api(f"{self._api}.STREAM.INFO.{self.stream}", asked)
        except ApiError as error:
            raise LogUnavailable(f"{self.stream}: {error}") from error
        return info

    def _status(self, raw: RawEvent) -> Status:
        return Status(raw.subject.removeprefix(self.subjects), raw.data, raw.sequence)


async def _next(session: PullSession) -> list[RawEvent] | None:
    try:
        return await session.batch()
    except TRANSIENT:
        return None
