"""Event logs that fail on demand."""

from __future__ import annotations

from collections.abc import Sequence

from shared.events.event import Event
from shared.events.log import Conflict, LogUnavailable, MemoryLog

REFUSED, LOST = "refused", "lost"


class FailingLog(MemoryLog):
    """A MemoryLog that fails appends as told: `refused` writes nothing, `lost` writes and loses the answer.

    `rival` is called before an append: another process of the same origin.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.rivals: list[Sequence[Event]] = []
        self.appends = 0

    async def append(self, events: Sequence[Event], *, whole: bool = True) -> None:
        """See EventLog."""
        self.appends += 1
        if self.rivals:
            await super().append(self.rivals.pop(0))
        fault = self.faults.pop(0) if self.faults else ""
        if fault == REFUSED:
            raise LogUnavailable("not connected")
        await super().append(events)
        if fault == LOST:
            raise LogUnavailable("no answer", ambiguous=True)


__all__ = ["Conflict", "FailingLog", "LogUnavailable"]
