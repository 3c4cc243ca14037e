"""Writing: the one writer of a stream.

What falls due while a write is under way is said when that is done: overlapping writes kill the call (design/xds.md
§2), and a slow client is told the newest then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

from zone_cp.ads.waiting import OneWait

Write: TypeAlias = Callable[[bytes], Coroutine[Any, Any, None]]
"""Writes one message of a call. Raises what ends the call."""


class Writer:
    """Belongs to one event loop. due: what is to be written now; failed: is told what ended the call, once at most."""

    __slots__ = ("_due", "_failed", "_is_rung", "_left", "_wait", "_write")

    def __init__(
        self, due: Callable[[], Sequence[bytes]], write: Write, failed: Callable[[BaseException], None]
    ) -> None:
        self._due, self._write, self._failed = due, write, failed
        self._is_rung = False
        self._left: deque[bytes] | None = None
        self._wait = OneWait(self._go_on, self._fail)

    def ring(self) -> None:
        """Say what is due as soon as the caller is through with all that he changes now."""
        if not self._is_rung:
            self._is_rung = True
            if not self._wait.is_under_way:
                asyncio.get_running_loop().call_soon(self._go_on)

    def speak(self) -> None:
        """Say what is due now. Raises nothing."""
        self._is_rung = True
        self._go_on()

    def close(self) -> None:
        """Write nothing more."""
        self._due = _nothing
        self._left = None
        self._wait.close()

    def _go_on(self, _: object = None) -> None:
        if self._wait.is_under_way:
            return  # begun meanwhile; its end leads here again
        try:
            response = self._next()
        except Exception as error:  # noqa: BLE001 - it is this stream's end, and nobody else's
            self._fail(error)
        else:
            if response is not None:
                self._wait.begin(self._write(response))

    def _next(self) -> bytes | None:
        if self._left:
            return self._left.popleft()
        if not self._is_rung:
            return None
        self._is_rung = False
        due = self._due()
        if len(due) > 1:
            self._left = deque(due[1:])
        return due[0] if due else None

    def _fail(self, error: BaseException) -> None:
        self.close()
        self._failed(error)


def _nothing() -> Sequence[bytes]:
    return ()
