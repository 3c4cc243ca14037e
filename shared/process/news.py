"""News: wakes everyone who waits, whenever something happens. Nothing is kept: look first, then wait at once."""

from __future__ import annotations

import asyncio


class News:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        """Something has happened."""
        told, self._next = self._next, asyncio.Event()
        told.set()

    async def wait(self) -> None:
        """Return when something happens."""
        await self._next.wait()
