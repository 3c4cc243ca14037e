"""A zone's own log on its way to the hub: same events, same sequences, as often as it takes.

The hub is asked where it stands after every failure, so nothing about the delivery is kept here. Message ids and
expected sequences make each attempt harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from shared.events.log import Conflict, LogUnavailable
from shared.nats.chain import ChainFault, link
from shared.nats.log import MAX_BATCH, JetStreamLog, LogFault
from shared.nats.pull import RawEvent
from shared.nats.status import Forwarded, StatusStream
from shared.process.lull import Pause, at_once

RETRY_SECONDS = 0.2

OutboxFault = ChainFault | LogFault


class Outbox:
    """Forwards `local` to `remote`. on_fault: called once, as it halts, if the hub holds something else than we do.

    pause: waited for before events are forwarded, with what comes meanwhile.
    """

    def __init__(
        self,
        local: JetStreamLog,
        remote: JetStreamLog,
        *,
        on_fault: Callable[[OutboxFault], None],
        pause: Pause = at_once,
    ) -> None:
        self._local = local
        self._remote = remote
        self._on_fault = on_fault
        self._pause = pause
        self._repaired = asyncio.Event()
        self.fault: OutboxFault | None = None
        self.delivered = 0

    async def run(self) -> None:
        """Forward for ever: after a pause on a new local event, and when the hub can be reached again."""
        while True:
            try:
                await self._forward()
            except (LogUnavailable, Conflict):
                # The hub may hold less than it did (it was restored): whether it still is our log is seen anew.
                await self._local.connection.pause(RETRY_SECONDS)
            except (ChainFault, LogFault) as fault:
                self.fault = fault
                self._repaired.clear()
                self._on_fault(fault)
                await self._repaired.wait()
                self.fault = None

    def resume(self) -> None:
        """Try again after a fault that an operator has repaired."""
        self._repaired.set()

    async def _forward(self) -> None:
        self.delivered = await self._common_end()
        async with contextlib.aclosing(self._local.follow_raw(self.delivered, self._pause)) as following:
            async for raws in following:
                for i in range(0, len(raws), MAX_BATCH):
                    chunk = raws[i : i + MAX_BATCH]
                    await self._remote.append_raw(chunk, whole=False)
                    self.delivered = chunk[-1].sequence

    async def _common_end(self) -> int:
        """Where the hub stands, after checking that its last event is ours. Raises ChainFault, LogUnavailable."""
        delivered = await self._remote.last()
        if delivered == 0:
            return 0
        if delivered > await self._local.last():
            raise ChainFault(delivered, "the hub holds more of this zone's log than the zone: the zone was rolled back")
        mine, theirs = await _one(self._local, delivered), await _one(self._remote, delivered)
        if link(mine) != link(theirs):
            raise ChainFault(delivered, "the hub holds another event of this zone here")
        return delivered


class StatusOutbox:
    """Forwards a zone's status stream: the last value per key, in the order of the writes."""

    def __init__(self, local: StatusStream, remote: StatusStream) -> None:
        self._local = local
        self._remote = remote
        self._anew = False

    async def run(self) -> None:
        """Forward for ever, as `Outbox.run`."""
        while True:
            try:
                await self._forward()
            except LogUnavailable:
                await self._local.connection.pause(RETRY_SECONDS)

    async def _forward(self) -> None:
        source = await self._local.identity()
        done = await self._remote.forwarded()
        # Values at or below this were delivered by an earlier run, unless they belong to a stream before this one.
        after = done.sequence if done is not None and done.source == source and not self._anew else 0
        self._anew, last = False, 0
        async with contextlib.aclosing(self._local.follow()) as following:
            async for batch in following:
                # Of values that came while the last ones were on their way, only the newest of each key is of use.
                for status in sorted({one.key: one for one in batch}.values(), key=lambda one: one.sequence):
                    if status.sequence > after:
                        sequence = await self._remote.put(
                            status.key, status.data, origin=Forwarded(source, status.sequence)
                        )
                        # Nobody else writes there: the hub's stream is another than before, and lacks the rest.
                        self._anew = bool(last) and sequence != last + 1
                        if self._anew:
                            return
                        after, last = status.sequence, sequence


async def _one(log: JetStreamLog, sequence: int) -> RawEvent:
    async for raw in log.read_raw(sequence - 1, sequence):
        return raw
    raise LogUnavailable(f"{log.stream} has no event {sequence}")
