"""What a zone recorded of its proxies, read from the streams of the server that a plane is connected to."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from shared.nats.pull import RawEvent
from shared.nats.status import StatusStream


class Recordings:
    """records: what proxies took; marks: how far they are, where it is here (in the zone). Records are kept in memory
    (`stream.RECORDS_BYTES`), so that of each reading only what is new is asked for.
    """

    def __init__(self, records: StatusStream, marks: StatusStream | None = None) -> None:
        self._records = records
        self._marks = marks
        self._known: deque[RawEvent] = deque()

    async def read(self) -> Sequence[bytes]:
        """All that is kept now. Raises LogUnavailable."""
        await self._records.news(self._known)
        marks = [] if self._marks is None else await self._marks.kept()
        return [*marks, *(raw.data for raw in self._known)]
