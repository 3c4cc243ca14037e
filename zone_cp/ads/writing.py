"""Writing: the one writer of a stream.

What falls due while the client or its socket takes no more is said when that is over: a slow client is told the newest
then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

Write: TypeAlias = Callable[[bytes], Coroutine[Any, Any, None]]
"""Writes one message of a call, and returns when the next may follow."""


class Writer:
    """Belongs to one event loop. due: what is to be written now; send: sends one message and says whether another may
    follow at once (else `go_on` is to be called when it may); failed: is told what `due` raised.
    """

    __slots__ = ("_due", "_failed", "_is_blocked", "_is_rung", "_left", "_send")

    def __init__(
        self, due: Callable[[], Sequence[bytes]], send: Callable[[bytes], bool], failed: Callable[[BaseException], None]
    ) -> None:
        self._due, self._send, self._failed = due, send, failed
        self._is_rung = self._is_blocked = False
        self._left: deque[bytes] | None = None

    def ring(self) -> None:
        """Say what is due as soon as the caller is through with all that he changes now."""
        if not self._is_rung:
            self._is_rung = True
            if not self._is_blocked:
                asyncio.get_running_loop().call_soon(self._say)

    def speak(self) -> None:
        """Say what is due now. Raises nothing."""
        self._is_rung = True
        self._say()

    def go_on(self) -> None:
        """More may be sent."""
        self._is_blocked = False
        self._say()

    def close(self) -> None:
        """Write nothing more."""
        self._due = _nothing
        self._left = None

    def _say(self) -> None:
        try:
            while not self._is_blocked and (response := self._next()) is not None:
                self._is_blocked = not self._send(response)
        except Exception as error:  # noqa: BLE001 - it is this stream's end, and nobody else's
            self.close()
            self._failed(error)

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


def _nothing() -> Sequence[bytes]:
    return ()
