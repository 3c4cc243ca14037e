"""The event log as the rest of the system sees it: a protocol, and an in-memory one for pure tests.

Appends carry the expected sequence of the log's last event; a batch is all or nothing. `shared/nats`
implements it on JetStream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Protocol

from shared.events.event import Event


class Conflict(Exception):
    """Somebody else appended first; nothing was written. `actual` is the log's last sequence."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"the log is at {actual}, not at {expected}: somebody else wrote first")
        self.expected = expected
        self.actual = actual


class LogUnavailable(Exception):
    """The log cannot be reached now; the outcome of a write is unknown only if `ambiguous`."""

    def __init__(self, message: str, *, ambiguous: bool = False) -> None:
        super().__init__(message)
        self.ambiguous = ambiguous


class LogBroken(Exception):
    """From `sequence` on, what stands in the log cannot be this log: no event, or not the one that belongs there."""

    sequence: int
    reason: str


class EventLog(Protocol):
    """One origin's log: event n stands at sequence n."""

    async def append(self, events: Sequence[Event], *, whole: bool = True) -> None:
        """Append events whose first `n` must be the last sequence + 1; all or nothing, durable on return.

        whole False: a beginning of them may stay behind when this fails, for callers that go on from there.
        A retry of the same events (same ids) is a success, not a conflict. Raises Conflict, LogUnavailable.
        """
        ...

    async def last(self) -> int:
        """Sequence of the last event, 0 when empty."""
        ...

    def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Event]:
        """Events with after < n <= until (default: the last one at the time of the call), in order.

        Raises LogUnavailable, LogBroken.
        """
        ...

    def follow(self, after: int = 0) -> AsyncIterator[Sequence[Event]]:
        """Non-empty batches of events with n > after, for ever, as they come; survives cuts of the link."""
        ...


class MemoryLog:
    """An EventLog in memory, for unit tests and the simulation."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._grown = asyncio.Condition()

    async def append(self, events: Sequence[Event], *, whole: bool = True) -> None:
        """See EventLog."""
        if not events:
            return
        first = events[0].n
        known = self.events[first - 1 : first - 1 + len(events)]
        if [event.id for event in known] == [event.id for event in events]:
            return
        if first != len(self.events) + 1:
            raise Conflict(first - 1, len(self.events))
        async with self._grown:
            self.events.extend(events)
            self._grown.notify_all()

    async def last(self) -> int:
        """See EventLog."""
        return len(self.events)

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Event]:
        """See EventLog."""
        for event in self.events[after : len(self.events) if until is None else until]:
            yield event

    async def follow(self, after: int = 0) -> AsyncIterator[Sequence[Event]]:
        """See EventLog."""
        while True:
            async with self._grown:
                await self._grown.wait_for(partial(self._longer_than, after))
                batch = self.events[after:]
            after += len(batch)
            yield batch

    def _longer_than(self, length: int) -> bool:
        return len(self.events) > length
