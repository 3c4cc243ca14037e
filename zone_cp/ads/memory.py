"""Memory that a storm of connecting proxies left behind, given back to the system.

Every first request is 60 KB of which a few hundred bytes live on, strewn over the C heap between what is freed. glibc
keeps all of that for the process; `malloc_trim` returns it, page by page (measured: 25 kB per proxy). It is done once a
storm is over, in a thread and with the interpreter's lock released, so that no change waits for it. Where there is no
glibc nothing is done: another allocator has its own ways.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

QUIET_SECONDS = 1.0
"""How long after the last first sync it is given back."""


def trimmer() -> Callable[[], object] | None:
    """What gives freed memory back, None where the C library cannot (it is not glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(0)


class AfterStorm:
    """Belongs to one event loop. trim: None where nothing can be done; forget: lets go of what only a storm needs."""

    def __init__(self, trim: Callable[[], object] | None, forget: Callable[[], object] = lambda: None) -> None:
        """Nothing is to be given back yet."""
        self._trim, self._forget = trim, forget
        self._alarm: asyncio.TimerHandle | None = None

    def again(self) -> None:
        """A client has just been brought up to date: if it was the last for a while, memory is given back."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._over)

    def _over(self) -> None:
        self._forget()
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim)
