"""Reading a stream by DIRECT.GET: no consumer, no state on the server. For short ranges and single messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from nats.aio.msg import Msg

from shared.events.log import LogUnavailable
from shared.nats.connection import Connection
from shared.nats.pull import RawEvent

DIRECT_MESSAGES = 500
DIRECT_TIMEOUT_SECONDS = 2.0

_END_OF_BATCH = "204"
_NOT_FOUND = "404"


class Stored(msgspec.Struct, frozen=True):
    """One message with the headers it was published with (and the server's)."""

    raw: RawEvent
    headers: Mapping[str, str]


async def read_direct(connection: Connection, api: str, stream: str, after: int, until: int) -> AsyncIterator[RawEvent]:
    """Messages with after < sequence <= until. Raises LogUnavailable."""
    while after < until:
        request = {"seq": after + 1, "batch": min(DIRECT_MESSAGES, until - after)}
        batch = await get_batch(connection, api, stream, request)
        if not batch:
            return
        for stored in batch:
            after = stored.raw.sequence
            if after > until:
                return
            yield stored.raw


async def get_batch(connection: Connection, api: str, stream: str, request: dict[str, Any]) -> list[Stored]:
    """One DIRECT.GET with a `batch`; empty when nothing matches. Raises LogUnavailable."""
    messages: list[Stored] = []
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def receive(message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            raw = RawEvent(int(headers["Nats-Sequence"]), headers["Nats-Subject"], message.data)
            messages.append(Stored(raw, headers))
        elif not done.done():
            done.set_result(status)

    inbox = connection.new_inbox()
    subscription = await connection.subscribe(inbox, receive)
    try:
        await connection.publish(f"{api}.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=inbox)
        async with asyncio.timeout(DIRECT_TIMEOUT_SECONDS):
            status = await done
    except TimeoutError as error:
        raise LogUnavailable(f"no answer from {stream}") from error
    finally:
        if connection.is_connected:
            await subscription.unsubscribe()
    if status not in (_END_OF_BATCH, _NOT_FOUND):
        raise LogUnavailable(f"{stream}: status {status}")
    return messages
