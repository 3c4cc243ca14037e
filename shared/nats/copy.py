"""A zone's only reader of the hub: pull global's events, verify their chain, keep them in the local copy, hand them on.

Nothing downstream sees an event before the copy holds it, so a zone that restarts while cut off never goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from shared.events.log import Conflict, LogUnavailable
from shared.nats.chain import ChainFault, Link, link, verify
from shared.nats.log import MAX_BATCH, JetStreamLog, LogFault
from shared.nats.pull import RawEvent

RETRY_SECONDS = 0.2
TURNS_TO_SEND = 2
"""Turns of the event loop until an append is on its way: one to ask for it, one to write it."""

Fault = ChainFault | LogFault | Conflict


class Copier:
    """Copies `source` to `target`. Run it once, by `batches` or by `run`.

    on_fault: called once when the copy halts because the source is not a continuation of the copy; the target keeps
    what it has. check: an additional test of each event before it is kept; it raises ChainFault. ahead: called
    with events that have been sent to the target, while its answer is waited for; what it makes of them must not be
    used before they are handed on, and is void when they are not.
    """

    def __init__(
        self,
        source: JetStreamLog,
        target: JetStreamLog,
        *,
        on_fault: Callable[[Fault], None],
        check: Callable[[RawEvent], None] | None = None,
        ahead: Callable[[Sequence[RawEvent]], None] | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._on_fault = on_fault
        self._check = check
        self._ahead = ahead
        self._repaired = asyncio.Event()
        self.fault: Fault | None = None
        self.position = 0

    async def run(self) -> None:
        """Copy for ever; whoever needs the events follows the target."""
        async for _ in self.batches():
            pass

    async def batches(self) -> AsyncGenerator[list[RawEvent], None]:
        """Non-empty batches of events that the target holds now, from its present end on.

        A link that is down only means waiting. A fault halts: the callback is called and nothing more is yielded
        until `resume`.
        """
        while True:
            try:
                at = await self._tail()
                self.position = at.n
                async with contextlib.aclosing(self._source.follow_raw(at.n)) as following:
                    async for raws in following:
                        for chunk in _chunks(raws):
                            at = self._verified(at, chunk)
                            await self._keep(chunk)
                            self.position = at.n
                            yield chunk
            except LogUnavailable:
                # Only the local server raises this here: the follower itself waits for the hub.
                await self._target.connection.pause(RETRY_SECONDS)
            except (ChainFault, LogFault, Conflict) as fault:
                await self._halt(fault)

    def resume(self) -> None:
        """Try again after a fault, once an operator has repaired the hub or the copy."""
        self._repaired.set()

    async def _halt(self, fault: Fault) -> None:
        self.fault = fault
        self._repaired.clear()
        self._on_fault(fault)
        await self._repaired.wait()
        self.fault = None

    async def _tail(self) -> Link:
        last = await self._target.last()
        at = Link()
        async for raw in self._target.read_raw(last - 1, last):
            at = link(raw)
        if at.n != last:
            raise LogFault(self._target.stream, last, f"holds event {at.n}")
        await self._same_at_source(at)
        return at

    async def _same_at_source(self, at: Link) -> None:
        """A hub that was rolled back and went on has other events below our end: `prev` alone shows it only later."""
        if not at.n:
            return
        try:
            async for raw in self._source.read_raw(at.n - 1, at.n):
                if link(raw).hash != at.hash:
                    raise ChainFault(at.n, "the hub holds another event here: it was rolled back")
        except LogUnavailable:
            return

    def _verified(self, at: Link, raws: list[RawEvent]) -> Link:
        for raw in raws:
            at = verify(at, raw)
            if self._check is not None:
                self._check(raw)
        return at

    async def _keep(self, raws: list[RawEvent]) -> None:
        while True:
            try:
                await self._appended(raws)
            except LogUnavailable:
                await self._target.connection.pause(RETRY_SECONDS)
            else:
                return

    async def _appended(self, raws: list[RawEvent]) -> None:
        if self._ahead is None:
            await self._target.append_raw(raws)
            return
        appending = asyncio.ensure_future(self._target.append_raw(raws))
        try:
            for _ in range(TURNS_TO_SEND):
                await asyncio.sleep(0)
            if not appending.done():
                self._ahead(raws)
            await appending
        finally:
            appending.cancel()


def _chunks(raws: list[RawEvent]) -> list[list[RawEvent]]:
    return [raws[i : i + MAX_BATCH] for i in range(0, len(raws), MAX_BATCH)]
