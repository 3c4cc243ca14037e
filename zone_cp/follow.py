"""The owner of a zone's state: folds global's events, decides, records, folds its own.

Everything that changes the state passes through one lock in one order, which is the interleaving that
decision 29 makes data: for every event of global the zone decides before it looks at the next one, and what
it decided carries `seen`. Nothing is served at g before the local copy holds g and the decisions are durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

import structlog
from immutables import Map

from shared.events.event import (
    Change,
    Event,
    LogRestored,
    ResourceApplied,
    ResourceDeleted,
    ZoneSettingsChanged,
)
from shared.events.fold import fold, fold_all
from shared.events.log import Conflict, EventLog, LogUnavailable
from shared.events.signing import Signer
from shared.events.state import LogState, ZoneState
from shared.events.stop import Stop, Stopped, check_skip, stops_of, tombstone, zone_unread
from shared.process.behind import Behind, batched, told
from shared.process.collector import collector_paused
from shared.process.writer import LogWriter
from zone_cp.ads.fence import Mark, lost
from zone_cp.ahead import Ahead, only_services
from zone_cp.decide import decide

APPEND_BATCH = 500
"""Events of one append while catching up: below JetStream's limit of 1000 for an atomic batch."""
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts while the zone's own server is away; the last one repeats."""

SYSTEM = "system:zone"
NO_MARKS: Map[str, Mark] = Map()

Decided: TypeAlias = Callable[[ZoneState], Sequence[Change]]
Changed: TypeAlias = Callable[[ZoneState, Sequence[Event] | None], None]

log = structlog.get_logger(__name__)


class ZoneOwner:
    """Holds the ZoneState; the only one that moves it.

    `changed(state, events)` is called after every move, inside the lock, and must not block; `events`, of both logs,
    are those that led there since the last call, None where they are not known one by one. `lost` is up to which event
    the own log is known to have been while it is shorter, 0 when all is there.

    An event that cannot be read stops the fold of its log before it (`shared.events.stop`); what comes behind is held
    until it may be passed over. Of global's log that leaves the zone where it was, serving and deciding on its own; of
    the own log nothing is decided or served before that, since what it holds was.
    """

    def __init__(
        self,
        zone: str,
        own_log: EventLog,
        settings: ZoneSettingsChanged,
        changed: Changed,
        signer: Signer | None = None,
    ) -> None:
        self.zone = zone
        self._hub = LogState(origin="global")
        self._writer = LogWriter(own_log, LogState(origin=zone), signer=signer)
        self._settings = settings
        self._changed = changed
        self._lock = asyncio.Lock()
        self._moved_by: list[Event] | None = None
        self.lost = 0
        self._ahead: Ahead | None = None
        self._foreseen: ZoneState | None = None
        self._held = Behind()

    @property
    def state(self) -> ZoneState:
        """The moment now."""
        return ZoneState(self.zone, self._hub, self._writer.state)

    @property
    def stop(self) -> Stop | None:
        """The event that the zone cannot read and stops before; None while it reads all."""
        return self.unread() or self._held.stop

    def unread(self) -> Stop | None:
        """An event that was folded although nothing lets it pass: a program decided on it that could read it."""
        return zone_unread(self.state, self._held.tombstones)

    def is_behind(self) -> bool:
        """Whether a log was lost or cut, or not all of it was read. What is missing of the copy of global's was decided
        on, and what is missing of the own one was decided: nothing is served or decided before it is there again. To
        decide without it would take VIPs and names away, or give them anew.
        """
        halted = self._writer.broken is not None or self.unread() is not None
        return halted or bool(self.lost) or self._hub.n < self._writer.state.seen

    @property
    def broken(self) -> str:
        """Why the own log cannot be read to its end by any program, "" when it can."""
        return "" if self._writer.broken is None else str(self._writer.broken)

    async def recover(self, copy: EventLog, marks: Mapping[str, Mark] = NO_MARKS) -> None:
        """Rebuild the state from the zone's own log and its copy of global's, as a restart must.

        marks: what proxies have had, which the own log must reach.

        Global's events up to the last one a decision was recorded for are folded only; later ones are
        decided anew, one by one, which yields exactly what a crash kept from being recorded.
        """
        async with self._lock:
            await self._writer.catch_up()
            # A log that is broken is longer than what is known of it.
            self.lost = 0 if self.broken else lost(marks, self._writer.state)
            self._held.log = copy
            self._held.replace(())
            with collector_paused():
                async for part in batched(copy.read(), APPEND_BATCH):
                    self._known(part)
            if self.is_behind():
                if stop := self.unread():
                    told(stop)
                elif self.broken:
                    log.error("the own log cannot be read to its end", reason=self.broken)
                elif not self.lost:
                    log.error("the copy of global's log lost what was decided on", decided=self._writer.state.seen)
                return
            await self._go_on()

    async def _go_on(self, *, settle: bool = True) -> None:
        """Decide about what is held. settle: first about what may not have been decided before."""
        try:
            if settle:
                await self._settle()
            while taken := await self._held.ready(self._hub.n, self._writer.state.skipped):
                await self._advance(taken)
            if settle:
                await self._writer.vouch(SYSTEM)
        except Stopped as stopped:
            self._moved_by = None
            log.error("stopped: nothing more is decided or served", reason=str(stopped))  # noqa: TRY400 - it says it all
        else:
            self._tell()

    def _known(self, events: Sequence[Event]) -> None:
        """Fold what was decided on of global's log, hold the rest."""
        self._hub = fold_all(self._hub, self._decided_of(events))
        self._held.hold(self._hub.n, events)

    async def skip(self, origin: str, n: int, reason: str, actor: str) -> tuple[Event, ...]:
        """Record that event n of a log is passed over, and go on. One of global's log must be the one that the zone
        stops before; one of its own log has to be there, for whoever cannot read it. Raises NotSkipped, LogUnavailable.
        """
        async with self._lock:
            asked: tuple[Event, ...] = ()
            while not asked:
                if self.lost:
                    raise LogUnavailable("the zone's own log is not complete again yet")
                check_skip(f"zone {self.zone}", self._writer.state, origin, n, stops_of([self.stop]))
                made = self._writer.prepare([tombstone(origin, n, reason)], actor=actor, seen=self._hub.n)
                with suppress(Conflict):
                    await self._writer.commit(made)
                    asked = made
            self._moved_by = None
            if not self.is_behind():
                await self._go_on()
            return asked

    async def accept_loss(self, actor: str) -> None:
        """Go on without what the own log lost: a new incarnation of it begins. Call `recover` afterwards."""
        async with self._lock:
            if self.lost:
                last = self._writer.state.n
                restored = LogRestored(lost_from=last, lost_to=self.lost)
                await self._writer.commit(self._writer.prepare((restored,), actor=actor, seen=self._hub.n))
                self.lost, self._moved_by = 0, None

    def _decided_of(self, events: Sequence[Event]) -> list[Event]:
        return [event for event in events if event.n <= self._writer.state.seen]

    def look_ahead(self, events: Sequence[Event]) -> Ahead | None:
        """The state after events of global that the copy does not hold yet; None where more than external services is
        changed, or something else is going on. Nothing is recorded or served of it until `hub_events` gets there.
        """
        self._ahead = None
        if self._lock.locked() or self.is_behind() or not events or events[0].n != self._hub.n + 1:
            return None
        if not only_services(events):
            return None
        hub, own, decided = self._hub, self._writer.state, list[Event]()
        for event in events:
            hub, own, further = self._decided_about(event, hub, own)
            decided += further
        if len(decided) > APPEND_BATCH:
            return None
        after = ZoneState(self.zone, hub, own)
        self._ahead = Ahead(self._hub, self._writer.state, after, (*events, *decided), tuple(decided))
        return self._ahead

    def _decided_about(
        self, event: Event, hub: LogState, own: LogState
    ) -> tuple[LogState, LogState, tuple[Event, ...]]:
        """Both logs after an event of global, and what is to be recorded of it."""
        hub = fold(hub, event)
        changes = decide(ZoneState(self.zone, hub, own), event, self._settings)
        further = self._prepare(changes, cause=event.id, seen=hub.n, state=own)
        return hub, fold_all(own, further), further

    async def hub_events(self, events: Sequence[Event]) -> None:
        """Take events of global that the local copy holds now."""
        async with self._lock:
            was_behind = self.is_behind()
            if was_behind:
                self._moved_by = None
                self._hub = fold_all(self._hub, self._decided_of(events))
            self._held.hold(self._hub.n, events)
            if not self.is_behind():
                await self._go_on(settle=was_behind)

    async def write(
        self, decided: Decided, *, actor: str, causes: Callable[[], Sequence[str]] = tuple
    ) -> tuple[Event, ...]:
        """Decide on the present state and record it with what follows from it; all or nothing.

        causes: of what was decided, one for each; none of them has one when it is empty. Returns the events of
        `decided` alone. Raises LogUnavailable, and whatever `decided` raises.
        """
        async with self._lock:
            while True:
                changes = decided(self.state)
                self._refuse_while_behind(changes)
                asked = self._writer.prepare(changes, actor=actor, cause=causes() or "", seen=self._hub.n)
                try:
                    await self._record(self._with_consequences(asked, self._writer.state)[0])
                except Conflict:
                    self._moved_by = None
                    continue
                return asked

    async def write_many(self, entries: Sequence[tuple[Decided, str]]) -> int:
        """Decide several things, each on what those before it made, and record them in one append.

        Each comes with its actor. Returns how many were taken: those that one append holds, at least one. Raises
        LogUnavailable, and whatever a decision raises.
        """
        async with self._lock:
            while True:
                events, taken = self._staged(entries)
                self._refuse_while_behind(events)
                try:
                    await self._record(events)
                except Conflict:
                    self._moved_by = None
                    continue
                return taken

    def _staged(self, entries: Sequence[tuple[Decided, str]]) -> tuple[list[Event], int]:
        own, events, taken = self._writer.state, list[Event](), 0
        for decided, actor in entries:
            changes = decided(ZoneState(self.zone, self._hub, own))
            asked = self._writer.prepare(changes, actor=actor, seen=self._hub.n, state=own)
            further, after = self._with_consequences(asked, own)
            if events and len(events) + len(further) > APPEND_BATCH:
                break
            own, taken = after, taken + 1
            events += further
        return events, taken

    def _refuse_while_behind(self, wanted: Sequence[object]) -> None:
        if wanted and self.is_behind():
            if stop := self.unread():
                raise Stopped(str(stop))
            which = "the zone's own log" if self.lost else "the copy of global's log"
            raise LogUnavailable(f"{which} is not complete again yet")

    async def _record(self, events: Sequence[Event]) -> None:
        await self._writer.commit(events)
        if events:
            self._moved(events)
            self._tell()

    def _moved(self, events: Sequence[Event]) -> None:
        if self._moved_by is not None:
            self._moved_by += events

    def _tell(self) -> None:
        events, self._moved_by = self._moved_by, []
        foreseen, self._foreseen = self._foreseen, None
        state = self.state
        # The very state that was looked ahead to, where it has come about: what was made of it is good.
        self._changed(foreseen if foreseen is not None and _is(foreseen, state) else state, events)

    def _with_consequences(self, asked: Sequence[Event], own: LogState) -> tuple[list[Event], LogState]:
        """What is asked for on top of `own` and what follows from it, with the state after all of it."""
        # Several changes of one write stand side by side in the log; what follows from them comes after all.
        own, events = fold_all(own, asked), list(asked)
        for event in asked:
            if isinstance(event.change, ResourceApplied | ResourceDeleted):
                changes = decide(ZoneState(self.zone, self._hub, own), event, self._settings)
                for further in self._prepare(changes, cause=event.id, state=own):
                    own = fold(own, further)
                    events.append(further)
        return events, own

    def _prepare(
        self, changes: Sequence[Change], *, cause: str = "", seen: int | None = None, state: LogState | None = None
    ) -> tuple[Event, ...]:
        at = self._hub.n if seen is None else seen
        return self._writer.prepare(changes, actor=SYSTEM, cause=cause, seen=at, state=state)

    async def _settle(self) -> None:
        """Record the settings that decisions depend on, and what a crash kept from being recorded."""
        while True:
            changes: Sequence[Change] = ()
            if self._writer.state.settings != self._settings:
                changes = (self._settings,)
            try:
                await self._commit(self._prepare(changes))
                # What was decided last may have been cut short by the crash, and a release in it decides for those
                # who waited: everything is compared before the next event is looked at.
                await self._commit(self._prepare(decide(self.state, None, self._settings)))
            except Conflict as conflict:
                self._moved_by = None
                log.info("deciding anew", reason=str(conflict))
            else:
                return

    async def _advance(self, events: Sequence[Event]) -> None:
        """Decide about each event and record it; anew where the own log held more than was known of it.

        A write of ours whose acknowledgement was lost stands in the log although it was not folded.
        """
        try:
            while events:
                try:
                    await self._decide(events)
                except Conflict as conflict:
                    log.info("deciding anew", reason=str(conflict))
                    self._moved_by = None
                    self._hub = fold_all(self._hub, self._decided_of(events))
                    await self._settle()
                    events = [event for event in events if event.n > self._hub.n]
                else:
                    return
        except Stopped:
            self._held.put_back(event for event in events if event.n > self._hub.n)
            raise

    async def _decide(self, events: Sequence[Event]) -> None:
        hub, own = self._hub, self._writer.state
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.holds(hub, own, events):
            self._moved(events)
            await self._commit(ahead.decided, after=ahead.state.own)
            self._hub, self._foreseen = ahead.state.hub, ahead.state
            return
        staged: list[Event] = []
        self._moved(events)
        for event in events:
            hub, own, further = self._decided_about(event, hub, own)
            staged += further
            if len(staged) >= APPEND_BATCH:
                await self._commit(staged)
                self._hub, own, staged = hub, self._writer.state, []
        await self._commit(staged)
        self._hub = hub

    async def _commit(self, events: Sequence[Event], *, after: LogState | None = None) -> None:
        """Append for ever: the zone goes on serving what it has until its own server is back. Raises Conflict.

        after: the state that they lead to, where it is known; of one APPEND_BATCH at most.
        """
        attempt = 0
        while events:
            try:
                for start in range(0, len(events), APPEND_BATCH):
                    # Of decisions that a crash cuts short, a restart makes the rest anew.
                    await self._writer.commit(events[start : start + APPEND_BATCH], whole=False, after=after)
                    self._moved(events[start : start + APPEND_BATCH])
                return
            except Stopped:
                raise
            except LogUnavailable as error:
                pause = RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]
                attempt += 1
                log.warning("own log unavailable, retrying", error=str(error), pause_seconds=pause)
                await asyncio.sleep(pause)
                events = [event for event in events if event.n > self._writer.state.n]


def _is(one: ZoneState, other: ZoneState) -> bool:
    return one.hub is other.hub and one.own is other.own
