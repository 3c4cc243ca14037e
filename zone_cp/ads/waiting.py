"""Waiting without a task: coroutines that wait for one future each, as grpc.aio's `read` and `write` do.

A task costs two switches each time it waits, and every stream memory for as long as it lives. Who has but one thing to
wait for is called back when it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class OneWait:
    """One such coroutine at a time; belongs to one event loop. done is told its result; failed, once, what it raised.

    What `done` raises counts as well: it is the fault of this one stream, and its callers are not to suffer for it.
    """

    __slots__ = ("_coroutine", "_done", "_failed")

    def __init__(self, done: Callable[[Any], None], failed: Callable[[BaseException], None]) -> None:
        self._done, self._failed = done, failed
        self._coroutine: Coroutine[Any, Any, Any] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a coroutine waits."""
        return self._coroutine is not None

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine up to where it waits, and the rest when that is over; none may be under way."""
        self._coroutine = coroutine
        self._step()

    def close(self) -> None:
        """Wait for nothing from now on, and tell nobody."""
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None:
            coroutine.close()

    def _step(self, over: asyncio.Future[Any] | None = None) -> None:
        coroutine = self._coroutine
        if coroutine is None:  # closed meanwhile: how the call ended is no news
            if over is not None and not over.cancelled():
                over.exception()
            return
        try:
            awaited = coroutine.send(None)
        except StopIteration as end:
            self._coroutine = None
            self._over(end.value)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - told to `failed`, whatever it is
            self._coroutine = None
            self._failed(error)
        else:
            if over is None:
                awaited.add_done_callback(self._step)
            else:
                self.close()
                self._failed(RuntimeError("a second future was waited for"))

    def _over(self, value: object) -> None:
        try:
            self._done(value)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
