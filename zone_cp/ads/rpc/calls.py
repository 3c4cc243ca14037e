"""Calls: what a method of a gRPC server is given. Messages are bytes.

A method that is told what comes by `listen` and sends with `send` costs no task switches; `read` and `write` are for
those few messages that do not matter.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from zone_cp.ads.rpc.exchange import MAX_MESSAGE_BYTES, Exchange, Status
from zone_cp.ads.rpc.fields import Fields

Method: TypeAlias = "Callable[[Call], Coroutine[Any, Any, None]]"
"""Serves one call; the call ends as it does: OK when it returns, Aborted with that status."""


_timeout = re.compile(rb"(\d{1,8})([HMSmun])").fullmatch
_UNIT_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


def seconds_of(fields: Fields) -> float | None:
    """How long the client gives a call; None without a word that is understood."""
    for name, value in fields:
        if name == b"grpc-timeout" and (said := _timeout(value)):
            return int(said[1]) * _UNIT_SECONDS[said[2]]
    return None


class Aborted(Exception):
    """The call ends with this status and message: for a method to raise."""

    def __init__(self, status: Status, message: str) -> None:
        """message: for the client's operator."""
        super().__init__(message)
        self.status = status


class Call:
    """One call. Belongs to one event loop; at most one `read` and one `write` at a time."""

    __slots__ = ("_exchange", "_reading", "_writing")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Header fields of the request; empty once the caller was admitted."""
        return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._exchange.fields)

    def admit(self) -> None:
        """Who is calling is settled: a token need not be kept as long as the call, and messages may be large."""
        self._exchange.fields = ()
        self._exchange.limit = MAX_MESSAGE_BYTES

    async def read(self) -> bytes | None:
        """The next message, None when the client has no more to say."""
        exchange = self._exchange
        while (message := exchange.kept()) is None and not exchange.ended:
            self._reading = asyncio.get_running_loop().create_future()
            exchange.on_kept = exchange.on_half_closed = self._woken
            await self._reading
        return message

    def _woken(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def listen(self, take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """From now on `take` is given every message as it comes, and `ended` is called after the last."""
        exchange = self._exchange
        while (message := exchange.kept()) is not None:
            take(message)
        exchange.take, exchange.on_half_closed = take, ended
        if exchange.ended:
            ended()

    def deafen(self) -> None:
        """Take nothing more."""
        self._exchange.take = _ignored
        self._exchange.on_half_closed = _nothing

    def send(self, message: bytes) -> bool:
        """Send a message; whether another may follow at once, else `when_ready` says when."""
        return self._exchange.send(message)

    def when_ready(self, ready: Callable[[], None]) -> None:
        """What is called when more may be sent after `send` has said no."""
        self._exchange.on_ready = ready

    async def write(self, message: bytes) -> None:
        """Send a message, and wait until another may follow."""
        if self._exchange.send(message):
            return
        self._writing = asyncio.get_running_loop().create_future()
        before, self._exchange.on_ready = self._exchange.on_ready, self._written
        try:
            await self._writing
        finally:
            self._exchange.on_ready = before
            self._writing = None

    def _written(self) -> None:
        if self._writing is not None and not self._writing.done():
            self._writing.set_result(None)


def _ignored(_: bytes) -> None:
    """Said after the end."""


def _nothing() -> None:
    """Nobody waits."""
