"""Reading what is left of a damaged stream: every message that nats-server still gives, past those that it does not.

Measured with nats-server 2.15.1. A message whose checksum does not fit is counted, but answered with 404, and a
consumer stops there for ever. After a block was cut short the server knows how far it went, and counts the rest as
deleted. Where it finds no index it takes a damaged block for one that ends there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from shared.nats.connection import Connection
from shared.nats.direct import DIRECT_MESSAGES, get_batch
from shared.nats.pull import RawEvent
from shared.nats.stream import API


async def salvaged(connection: Connection, stream: str, last: int) -> AsyncGenerator[list[RawEvent], None]:
    """Messages up to sequence `last`, in order, as far as they can be had. Raises LogUnavailable."""
    at = 1
    while at <= last:
        found = await get_batch(connection, API, stream, {"seq": at, "batch": min(DIRECT_MESSAGES, last - at + 1)})
        if found:
            yield [stored.raw for stored in found]
            at = found[-1].raw.sequence
        at += 1
