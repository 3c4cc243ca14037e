"""The life of a process: start things in order, stop them in reverse, fail loudly.

`run(start)` calls `start(life)`, which starts services one after another and returns. The process then lives
until SIGTERM, SIGINT, `life.stop()`, or the end of a service nobody asked to end. What was started last stops
first: a service is cancelled, a stop action is awaited. A second signal skips what is left of the grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from shared.process import collector
from shared.process.exit_code import ExitCode

STOP_SECONDS = 10.0
"""Grace of each service and stop action, unless it brings its own."""

Start = Callable[["Lifecycle"], Coroutine[Any, Any, None]]


class Failed(Exception):
    """A service ended although nobody asked it to."""


class Lifecycle:
    """What runs in this process. Belongs to one event loop."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        """Set once the process begins to stop."""
        self.failure: BaseException | None = None
        """The first reason to fail; None while all is well."""
        self._log = structlog.get_logger()
        self._stops: list[tuple[str, float, Callable[[], Awaitable[None]]]] = []
        self._hurry = asyncio.Event()

    def stop(self, reason: str = "asked to") -> None:
        """Begin to stop; the second call ends the grace."""
        if self.stopping.is_set():
            self._hurry.set()
            return
        self._log.info("stopping", reason=reason)
        self.stopping.set()

    def fail(self, what: str, error: BaseException) -> None:
        """Begin to stop, and let the process exit with 1."""
        if self.failure is None:
            self.failure = error
        self._log.error("failed", what=what, exc_info=error)
        if not self.stopping.is_set():
            self.stop(f"{what} failed")

    def start(
        self, name: str, work: Coroutine[Any, Any, None], *, stop_seconds: float = STOP_SECONDS
    ) -> asyncio.Task[None]:
        """Run `work` in the background until the process stops; then it is cancelled.

        Its exception, or its end before anybody asked, fails the process.
        """
        task = asyncio.create_task(self._watch(name, work), name=name)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._stops.append((name, stop_seconds, end))
        return task

    def on_stop(self, name: str, action: Callable[[], Awaitable[None]], *, stop_seconds: float = STOP_SECONDS) -> None:
        """Await `action()` when the process stops, before anything that was started earlier stops."""
        self._stops.append((name, stop_seconds, action))

    async def _watch(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if not self.stopping.is_set():
                self.fail(name, Failed(f"{name} was cancelled"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the process must not live on without the service
            self.fail(name, error)
        else:
            if not self.stopping.is_set():
                self.fail(name, Failed(f"{name} ended"))

    async def live(self, start: Start) -> None:
        """Start, wait until asked to stop, stop."""
        starting = asyncio.create_task(start(self), name="start")
        asked = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait((starting, asked), return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not starting.cancelled() and (error := starting.exception()):
                self.fail("start", error)
            collector.settled()
            await asked
        finally:
            self.stopping.set()
            asked.cancel()
            await _settled(starting)
            await self._stop_all()

    async def _stop_all(self) -> None:
        while self._stops:
            name, seconds, action = self._stops.pop()
            ending = asyncio.ensure_future(action())
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait((ending, hurry), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not ending.done():
                if self._hurry.is_set():
                    self._log.info("stop cut short", what=name)
                else:
                    self._log.warning("did not stop in time", what=name, seconds=seconds)
                ending.cancel()
                await asyncio.wait((ending,), timeout=1.0)
            elif not ending.cancelled() and (error := ending.exception()):
                self.fail(f"stop of {name}", error)


async def _settled(task: asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=STOP_SECONDS)


def run(start: Start) -> int:
    """Live in a new event loop and return the exit code: 0 after a stop that was asked for, 1 after a failure."""

    async def main() -> int:
        life = Lifecycle()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, life.stop, signal.Signals(number).name)
        await life.live(start)
        return ExitCode.FAILED if life.failure else ExitCode.OK

    return asyncio.run(main())
