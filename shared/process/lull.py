"""Lull: a moment in which no change is on its way, for what can wait a little.

What is written behind a change (conditions, progress, the copy of a zone's log for global) needs the same processor,
disk and servers as the next change. Measured with one new service right after the other: 3 to 4 of 20 ms until each of
them answered. So it waits for a moment without changes, though never for long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

QUIET_SECONDS = 0.02
"""How long nothing has happened when a change is over: proxies have answered, and are being used."""
MOST_SECONDS = 0.2
"""How long anything waits for that at most."""

Pause: TypeAlias = Callable[[], Awaitable[None]]
"""Returns when what can wait is to be done."""


class Lull:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        """Nothing has ever happened."""
        self._disturbed = -math.inf

    def disturb(self) -> None:
        """A change has come a step further. Costs next to nothing: it is called at each."""
        self._disturbed = time.monotonic()

    async def over(self) -> None:
        """Return after QUIET_SECONDS without a step, MOST_SECONDS from now in any case."""
        latest = time.monotonic() + MOST_SECONDS
        while (left := min(self._disturbed + QUIET_SECONDS, latest) - time.monotonic()) > 0:  # noqa: ASYNC110
            # Waking somebody at every step would cost just what is to be saved.
            await asyncio.sleep(left)


async def at_once() -> None:
    """A Pause that is none."""
