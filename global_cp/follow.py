"""The owner of global's state: takes commands, records what they decide, follows every zone's log.

Commands pass through one lock: judge on the present state, append with the expected sequence, fold, answer. If
another global wrote first, nothing was written; the owner catches up and judges again. What global itself owes the
mesh (roots, intermediates, key wraps) is recorded right after, as events with their cause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog
from immutables import Map

from global_cp.authorities import Authorities
from global_cp.decide import may_owe, pending
from shared.events.decide import Command, Decision, Rejected, decide_write
from shared.events.event import GLOBAL, Change, DataKeyWrapped, Event, LogRestored
from shared.events.fold import fold, fold_all
from shared.events.log import Conflict, EventLog, LogUnavailable
from shared.events.signing import Signer
from shared.events.state import GlobalState, LogState
from shared.events.stop import Stop, Stopped, check_skip, first_unread, stops_of, tombstone
from shared.process.behind import Behind, told
from shared.process.writer import LogWriter, event_time

SYSTEM = "system:global"

log = structlog.get_logger(__name__)


class GlobalOwner:
    """Holds the GlobalState; the only one in this process that moves it.

    `changed()` is called after every move and must not block.

    An event that cannot be read stops the fold of its log (`shared.events.stop`). Of its own log, which another global
    may have written, global then shows what it can read and records nothing; of a zone's, the rest of it is held.
    """

    def __init__(
        self,
        own_log: EventLog,
        zones: Sequence[str],
        authorities: Authorities,
        changed: Callable[[], None],
        signer: Signer | None = None,
    ) -> None:
        self._writer = LogWriter(own_log, LogState(origin=GLOBAL), signer=signer)
        self._zones: Map[str, LogState] = Map({zone: LogState(origin=zone) for zone in zones})
        self._authorities = authorities
        self._changed = changed
        self._lock = asyncio.Lock()
        self._owing = asyncio.Event()
        self._lost_to = 0
        self._held = {zone: Behind() for zone in zones}
        self.faults: dict[str, str] = {}
        """Origins whose log is none any more, and why: what is shown of them stands still."""

    @property
    def state(self) -> GlobalState:
        """The present."""
        return GlobalState(self._writer.state, self._zones)

    async def recover(self) -> None:
        """Fold the whole log, then record whatever is owed."""
        async with self._lock:
            await self._writer.catch_up()
            if self._writer.broken is not None:
                self.break_off(GLOBAL, self._writer.broken)
                return
            if stop := self._unread():
                told(stop)
                return
            await self._settle("")
            await self._writer.vouch(SYSTEM)

    def break_off(self, origin: str, fault: Exception) -> None:
        """What comes next in a log cannot be that log: what is shown of it stands still, all else goes on."""
        self.faults[origin] = str(fault)
        log.error("halted", what=f"log of {origin}", reason=str(fault))

    @property
    def is_readable(self) -> bool:
        """Whether all of global's own log was read, so that it may be written to."""
        return self._writer.broken is None and self._unread() is None

    @property
    def stops(self) -> tuple[Stop, ...]:
        """Events that global cannot read and stops before, one a log."""
        return stops_of((self._unread(), *(held.stop for _, held in sorted(self._held.items()))))

    def _unread(self) -> Stop | None:
        return first_unread(self._writer.state)

    async def skip(self, origin: str, n: int, reason: str, actor: str) -> tuple[Event, ...]:
        """Record that event n of a log is passed over, and go on. One of a zone's log must be the one that global stops
        before; one of global's own has to be there, for whoever cannot read it. Raises NotSkipped, LogUnavailable.
        """
        async with self._lock:
            while True:
                check_skip("global", self._writer.state, origin, n, self.stops)
                events = self._writer.prepare([tombstone(origin, n, reason)], actor=actor)
                try:
                    await self._writer.commit(events)
                except Conflict as conflict:
                    log.info("another global wrote first, judging again", actual=conflict.actual)
                    continue
                break
            if self.is_readable:
                await self._settle(events[-1].id)
            for zone in [*self._held]:
                await self._take(zone, ())
            self._changed()
            return events

    def judge(self, commands: Sequence[Command], wraps: Sequence[DataKeyWrapped] = ()) -> Decision | Rejected:
        """What a batch would come to now."""
        return decide_write(commands, self._writer.state, zones=self._zones, wraps=wraps, now=event_time())

    async def write(
        self, commands: Sequence[Command], *, actor: str, wraps: Sequence[DataKeyWrapped] = ()
    ) -> tuple[Decision | Rejected, tuple[Event, ...]]:
        """Judge and record a batch, all or nothing. Raises LogUnavailable."""
        async with self._lock:
            while True:
                self._refuse_while_stopped()
                decision = self.judge(commands, wraps)
                if isinstance(decision, Rejected) or not decision.changes:
                    return decision, ()
                events = self._writer.prepare(decision.changes, actor=actor, cause=decision.causes)
                try:
                    await self._writer.commit(events)
                except Conflict as conflict:
                    log.info("another global wrote first, judging again", actual=conflict.actual)
                    continue
                try:
                    if any(map(may_owe, decision.changes)):
                        await self._settle(events[-1].id)
                except LogUnavailable as error:
                    # The write stands and is answered as such; what is owed is recorded when the log is back.
                    log.warning("cannot record now what a write asks for", error=str(error))
                    self.owe()
                self._changed()
                return decision, events

    async def follow_own(self, events: Sequence[Event]) -> None:
        """Take events of global's own log that another global may have written."""
        async with self._lock:
            known = self._unread()
            for event in events:
                self._writer.state = fold(self._writer.state, event)
            if (stop := self._unread()) is not None and known is None:
                told(stop)
            self._changed()

    def _refuse_while_stopped(self) -> None:
        if stop := self._unread():
            raise Stopped(str(stop))

    def reads(self, zone: str, zone_log: EventLog) -> None:
        """Where a zone's events come from: what stands behind a stop is not all kept, and read again from there."""
        self._held[zone].log = zone_log

    async def zone_events(self, zone: str, events: Sequence[Event]) -> None:
        """Take events that a zone's outbox delivered."""
        async with self._lock:
            await self._take(zone, events)
            self._changed()

    async def _take(self, zone: str, events: Sequence[Event]) -> None:
        state, held = self._zones[zone], self._held[zone]
        held.hold(state.n, events)
        while taken := await held.ready(state.n, self._writer.state.skipped):
            state = fold_all(state, taken)
        self._zones = self._zones.set(zone, state)
        if state.seen > max(self._writer.state.n, self._lost_to) and self.is_readable:
            await self._restored(zone, state.seen)

    async def _restored(self, zone: str, seen: int) -> None:
        """Begin a new incarnation where a zone has seen more of the log than there is (decision 33)."""
        try:
            await self._writer.catch_up()  # another global may have written it, and the zone was the quicker one
            told = [e.change.lost_to async for e in self._writer.log.read() if isinstance(e.change, LogRestored)]
            self._lost_to = max(told, default=0)
            last = self._writer.state.n
            if seen > max(last, self._lost_to):
                restored = LogRestored(lost_from=last, lost_to=seen)
                await self._writer.commit(self._writer.prepare((restored,), actor=SYSTEM))
                self._lost_to = seen
                log.error("the log was restored from an older copy", ends_at=last, seen=seen, zone=zone)
        except (LogUnavailable, Conflict) as error:
            log.warning("cannot record now that the log was restored", error=str(error))

    def owe(self) -> None:
        """Remember that something could not be recorded."""
        self._owing.set()

    async def owed(self) -> None:
        """Return when something is owed that could not be recorded."""
        await self._owing.wait()
        self._owing.clear()

    async def renew(self) -> None:
        """Issue again whatever certificate is due; called by a timer set to the next such moment."""
        async with self._lock:
            if not self.is_readable:
                return
            await self._settle("")
            self._changed()

    async def _settle(self, cause: str) -> None:
        """Record what global owes, until nothing is owed (an intermediate needs its root first)."""
        while needs := pending(self.state, tuple(self._zones), due=self._authorities.due):
            changes: list[Change] = []
            for need in needs:
                changes += self._authorities.meet(need, self.state)
            if not changes:
                return
            try:
                await self._writer.commit(self._writer.prepare(changes, actor=SYSTEM, cause=cause))
            except Conflict:
                continue
