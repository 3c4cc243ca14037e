"""What stands behind a stop (`shared.events.stop`), of a log that can be read again: little of it is kept in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from shared.events.event import Event
from shared.events.log import EventLog, LogBroken, LogUnavailable
from shared.events.stop import HELD_LIMIT, Held, Passed, Stop

RETRY_SECONDS = 0.5

log = structlog.get_logger(__name__)


def told(stop: Stop) -> None:
    """Log a new stop."""
    log.error("stopped before an event", stop=stop.event, reason=stop.reason, mended_by=stop.mend)


class Behind(Held):
    """A Held that reads from `log` what it has not kept, once it is wanted."""

    def __init__(self, on_stop: Callable[[Stop], None] = told, *, limit: int = HELD_LIMIT) -> None:
        super().__init__(on_stop, limit=limit)
        self.log: EventLog | None = None

    async def ready(self, after: int, passed: Passed) -> list[Event]:
        """What can be taken now of what is held and of what is not kept; nothing once all has been. See Held.take.

        A log that is away is waited for. Raises what else its `read` does.
        """
        while self.log is not None and (part := self.lacking(after, passed)) is not None:
            try:
                events = [event async for event in self.log.read(*part)]
            except LogUnavailable as error:
                log.warning("what stood behind an event cannot be read now, retrying", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not events:
                break
            self.fill(events)
        return self.take(after, (), passed)


async def batched(events: AsyncIterator[Event], count: int) -> AsyncIterator[list[Event]]:
    """The events of a log, so many at once: it is never in memory whole. What stands before a LogBroken counts; the
    fault is only logged: whoever writes there finds the same place, halts and tells why.
    """
    part: list[Event] = []
    try:
        async for event in events:
            part.append(event)
            if len(part) == count:
                yield part
                part = []
    except LogBroken as fault:
        log.error("a log cannot be read to its end", reason=str(fault))  # noqa: TRY400 - it says it all
    if part:
        yield part
