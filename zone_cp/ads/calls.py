"""Calls: what every streaming method of the zone's gRPC server does with its call. Bytes in, bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from zone_cp.ads.facts import RemoteProtocolError
from zone_cp.ads.hub import CLOSED, Stream
from zone_cp.ads.waiting import OneWait

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
FIRST_REQUEST_SECONDS = 10.0
DRAINING = "the control plane is stopping: reconnect"


async def next_message(context: Context) -> bytes | None:
    """The next message, None at the end of the stream."""
    raw: Any = await context.read()
    return None if raw is aio.EOF else raw


async def first_message(context: Context) -> bytes:
    """The first message; a call without one in time is aborted."""
    raw = None
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_REQUEST_SECONDS):
            raw = await next_message(context)
    if raw is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended before its first message")
    return raw


def token_of(context: Context) -> str | None:
    """The bearer token of the call's metadata."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            scheme, _, token = text.partition(" ")
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


def bytes_stream(behavior: Callable[[object, Context], Coroutine[Any, Any, None]]) -> Any:
    """A bidirectional method that takes and gives bytes as they are."""
    untyped: Any = behavior
    return grpc.stream_stream_rpc_method_handler(untyped)


class Reader:
    """The one reader of a stream: takes each message in the turn in which it is there. Belongs to one event loop.

    take: is given every message; ended: is called when the client has no more to say; failed: is told what ended the
    call, or what `take` raised.
    """

    __slots__ = ("_ended", "_failed", "_read", "_take", "_wait")

    def __init__(
        self,
        read: Callable[[], Coroutine[Any, Any, Any]],
        take: Callable[[bytes], None],
        ended: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._read, self._take, self._ended = read, take, ended
        self._failed = failed
        self._wait = OneWait(self._here, failed)

    def begin(self, first: Callable[[], None]) -> None:
        """Do this first, as if it was a message; then read until the end."""
        try:
            first()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this stream's end
            self._failed(error)
        else:
            self._wait.begin(self._read())

    def close(self) -> None:
        """Take no more."""
        self._wait.close()

    def _here(self, raw: Any) -> None:
        if raw is aio.EOF:
            self._ended()
            return
        self._take(raw)
        self._wait.begin(self._read())


def outcome(stream: Stream) -> tuple[grpc.StatusCode | None, str]:
    """Why a stream is over, and the status to end it with; None when the client has closed it."""
    match stream.fault:
        case RemoteProtocolError() as error:
            limit = grpc.StatusCode.RESOURCE_EXHAUSTED if error.limit else grpc.StatusCode.INVALID_ARGUMENT
            return limit, str(error)
        case DecodeError():
            return grpc.StatusCode.INVALID_ARGUMENT, "a request could not be decoded"
        case None:
            pass
        case error:
            return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    if stream.reason == CLOSED:
        return None, CLOSED
    return grpc.StatusCode.UNAVAILABLE if stream.reason == DRAINING else grpc.StatusCode.ABORTED, stream.reason
