"""How the demo looks: from outside, as a user would, who asks again until he sees, or gives up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.demo import application
from shared.demo.narration import StepFailed

T = TypeVar("T")

WITHIN_SECONDS = 30.0
"""Ten times what a quiet machine needs for the longest step: one that does other work is no reason to give up."""
PAUSE_SECONDS = 0.02


async def eventually(
    look: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], expected: str, within: float = WITHIN_SECONDS
) -> T:
    """Look until `wanted`, at most `within` seconds. Raises StepFailed with the last thing seen."""
    seen: T | Exception | None = None
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            seen = await look()
            if wanted(seen):
                return seen
        except (OSError, TimeoutError, application.Unresolved, ValueError, KeyError) as error:
            seen = error
        await asyncio.sleep(PAUSE_SECONDS)
    raise StepFailed(expected, repr(seen))
