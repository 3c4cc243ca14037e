"""Calls: what every streaming method of the zone's gRPC server does with its call. Bytes in, bytes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
from grpc import aio

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
FIRST_REQUEST_SECONDS = 10.0


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
