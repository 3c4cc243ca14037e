"""A progress bar on stderr, for people only, and only once something takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.history.progress import Progress, unwatched

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

QUIET_SECONDS = 0.5
"""What is done by then shows nothing."""


@contextmanager
def progress() -> Iterator[Progress]:
    """What long work is told to; nothing is shown when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield unwatched
        return
    shown = _Shown()
    try:
        yield shown.tell
    finally:
        shown.end()


class _Shown:
    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}

    def tell(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            if time.monotonic() - self._begun < QUIET_SECONDS:
                return
            self._bar = self._started()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total or None)
        self._bar.update(self._tasks[what], completed=done, total=total or None)

    def _started(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
        bar.start()
        return bar

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
