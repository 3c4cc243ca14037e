"""A log that was restored from an older copy gets back what another copy of it still holds, byte for byte."""

from __future__ import annotations

import contextlib

from shared.nats.chain import ChainFault, link, verify
from shared.nats.log import MAX_BATCH, JetStreamLog
from shared.nats.pull import RawEvent


async def refill(log: JetStreamLog, other: JetStreamLog) -> int:
    """Append to `log` what `other` holds beyond its end; how many events that were.

    Raises ChainFault when the two do not hold the same log, LogUnavailable, Conflict and LogFault.
    """
    mine, theirs = await log.last(), await other.last()
    if theirs <= mine:
        return 0
    async with contextlib.aclosing(other.read_raw(mine - 1 if mine else 0, theirs)) as reading:
        first = await anext(reading) if mine else None
        if first is not None:
            async with contextlib.aclosing(log.read_raw(mine - 1, mine)) as own:
                if link(first) != link(await anext(own)):
                    raise ChainFault(mine, "the other copy holds another event here")
        end = link(first) if first is not None else None
        batch: list[RawEvent] = []
        async for raw in reading:
            end = verify(end, raw) if end is not None else link(raw)
            batch.append(raw)
            if len(batch) == MAX_BATCH:
                await log.append_raw(batch)
                batch = []
        await log.append_raw(batch)
    return theirs - mine
