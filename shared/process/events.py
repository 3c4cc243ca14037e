"""Events of a log as the HTTP API serves them: bytes as they stand in the log, page by page or as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from shared.nats.log import JetStreamLog


async def page(log: JetStreamLog, after: int, until: int | None, limit: int) -> tuple[Sequence[bytes], int]:
    """Up to `limit` events with after < n <= until, and the last n of the log."""
    last = await log.last()
    end = min(last if until is None else min(until, last), after + limit)
    if end <= after:
        return [], last
    return [raw.data async for raw in log.read_raw(after, end)], last


async def follow(log: JetStreamLog, after: int) -> AsyncIterator[bytes]:
    """Events with n > after, for ever."""
    async for batch in log.follow_raw(after):
        for raw in batch:
            yield raw.data
