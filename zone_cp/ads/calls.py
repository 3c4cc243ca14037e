"""Calls: what every streaming method of the zone's gRPC server does with its call. Bytes in, bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from google.protobuf.message import DecodeError

from zone_cp.ads.facts import RemoteProtocolError
from zone_cp.ads.hub import CLOSED, Stream
from zone_cp.ads.rpc.calls import Aborted, Call
from zone_cp.ads.rpc.exchange import Status

FIRST_REQUEST_SECONDS = 10.0
DRAINING = "the control plane is stopping: reconnect"


async def first_message(call: Call) -> bytes:
    """The first message; a call without one in time is aborted. Raises Aborted."""
    raw = None
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_REQUEST_SECONDS):
            raw = await call.read()
    if raw is None:
        raise Aborted(Status.INVALID_ARGUMENT, "the stream ended before its first message")
    return raw


def token_of(call: Call) -> str | None:
    """The bearer token of the call's metadata."""
    for key, value in call.metadata:
        if key == "authorization":
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer" and token:
                return token.strip()
    return None


async def cancel(tasks: tuple[asyncio.Task[None], ...]) -> None:
    """End a call's tasks and wait for them."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task


class Reader:
    """Takes each message of a stream in the turn in which it is there. failed: is told what `take` raised.

    It is the fault of this one stream, and its connection is not to suffer for it.
    """

    __slots__ = ("_failed", "_take")

    def __init__(self, take: Callable[[bytes], None], failed: Callable[[BaseException], None]) -> None:
        self._take, self._failed = take, failed

    def begin(self, first: Callable[[], None]) -> None:
        """Do this first, as if it was a message."""
        try:
            first()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this stream's end
            self._failed(error)

    def take(self, raw: bytes) -> None:
        """A message has come."""
        try:
            self._take(raw)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)


def outcome(stream: Stream) -> tuple[Status | None, str]:
    """Why a stream is over, and the status to end it with; None when the client has closed it."""
    match stream.fault:
        case RemoteProtocolError() as error:
            limit = Status.RESOURCE_EXHAUSTED if error.limit else Status.INVALID_ARGUMENT
            return limit, str(error)
        case DecodeError():
            return Status.INVALID_ARGUMENT, "a request could not be decoded"
        case None:
            pass
        case error:
            return Status.INTERNAL, f"{type(error).__name__}: {error}"
    if stream.reason == CLOSED:
        return None, CLOSED
    return Status.UNAVAILABLE if stream.reason == DRAINING else Status.ABORTED, stream.reason
