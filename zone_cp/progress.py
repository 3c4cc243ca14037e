"""Progress: how far the zone's proxies are with its changes, for `zonal trace` and `apply --wait`.

Whoever asks the zone is answered from memory, and woken by what happens. Global is told by one message for all proxies
in the zone's status stream: written soon (BEHIND_SECONDS, then in the next lull), then again when it says something
else, never twice within SPACING_SECONDS and never more than a tenth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog
from immutables import Map

from shared.events.log import LogUnavailable
from shared.events.progress import LISTED, PROGRESS_KEY, Laggard, Progress, Refused, Waiting
from shared.events.state import Position, ProxyStatus, ZoneState
from shared.events.stop import RESUME, HaltedPart, Stop, halted_parts
from shared.process.lull import Lull
from shared.process.news import News
from shared.process.writer import event_time
from zone_cp.ads.facts import Acked, Fact
from zone_cp.ads.fence import Mark
from zone_cp.ads.hub import Hub
from zone_cp.ads.quarantine import Key
from zone_cp.ads.reach import Reach, Where
from zone_cp.refused import RefusedVersions
from zone_cp.xds.fleet import Fleet, Turn
from zone_cp.xds.inspect import short_type

BEHIND_SECONDS = 0.02
"""What is pushed goes first: global hears of it when proxies are likely to have answered, and so half as often."""
SPACING_SECONDS = 0.05
PAUSE_FACTOR, PAUSE_SECONDS_MAX = 9, 2.0
"""Pause after each message, as a multiple of what it took: a server that was slow once keeps nobody waiting."""
RETRY_SECONDS = 0.5
HALTED_SECONDS = 1.0
"""While something stands still, it is looked at so often whether it still does."""
REASON_TOLD = 500
"""Characters of a reason."""
PUSHES_TOLD, SEEN_TOLD = 16, 32
"""Pushes and arrivals that one message tells of."""

log = structlog.get_logger(__name__)


class Stream(Protocol):
    """Where the zone's word is kept for global (`shared.nats.status.StatusStream`)."""

    async def put(self, key: str, data: bytes) -> object:
        """Set a key. Raises LogUnavailable."""


class Kept(Protocol):
    """What keeps things from proxies (`zone_cp.safety.Safety`)."""

    def reason(self, proxy: str) -> str:
        """Why the proxy is not given what there is for it, "" when it is."""
        ...

    @property
    def stops(self) -> Sequence[Stop]:
        """Events that the zone stops before."""
        ...

    @property
    def faults(self) -> Mapping[str, str]:
        """What else stands still, and why."""
        ...

    def quarantined(self) -> Sequence[tuple[Key, str]]:
        """Versions that no proxy is given, with the reason of each."""
        ...


class Plan(Protocol):
    """What proxies should hold (`zone_cp.publish.Publisher`)."""

    @property
    def fleet(self) -> Fleet | None:
        """All of them; None before the first state."""
        ...

    def delayed(self, proxy: str) -> str:
        """Why a proxy is not told yet of what there is for it, "" when it is."""
        ...


class ZoneProgress:
    """A `shared.api.trace.Tracer` of one zone. Belongs to one event loop.

    lull is disturbed by every step of a change on its way to a proxy.
    """

    def __init__(
        self,
        zone: str,
        hub: Hub,
        stream: Stream,
        *,
        state: Callable[[], ZoneState],
        plan: Plan,
        kept: Kept,
    ) -> None:
        self._zone = zone
        self._hub = hub
        self._stream = stream
        self._state = state
        self._plan = plan
        self._kept = kept
        self._reach = Reach()
        self._refused = RefusedVersions()
        self._news = News()
        self.lull = Lull()
        self._wake = asyncio.Event()
        self._offline: tuple[Map[str, ProxyStatus], tuple[str, ...]] | None = None
        moved, advanced = hub.on_moved, hub.on_advanced

        def also_moved(proxy: str) -> None:
            moved(proxy)
            self._moved(proxy)

        def also_advanced() -> None:
            advanced()
            self._advanced()

        hub.on_moved, hub.on_advanced, hub.on_answered = also_moved, also_advanced, self._answered

    # --- facts come in -------------------------------------------------------------------------------------------

    def recall(self, marks: Mapping[str, Mark]) -> None:
        """Who was connected in an earlier life is expected back. marks: how far proxies had come then."""
        state = self._state()
        now = (state.hub.incarnation, state.own.incarnation)
        reached = {proxy: mark.position for proxy, mark in marks.items() if (mark.hub, mark.own) == now}
        online = (status.proxy for status in state.own.proxies.values() if status.online)
        self._reach.expect({proxy: reached.get(proxy) for proxy in online})
        self._told()

    def lost(self) -> None:
        """Who has not come back by now is offline."""
        self._reach.lose()
        self._told()

    def saw(self, first: int, last: int) -> None:
        """The copy of global's log holds these events."""
        self._reach.saw(first, last, event_time())
        self._told()

    def offered(self, turn: Turn) -> None:
        """A turn has been offered to its proxies."""
        self._reach.pushed(turn.fleet.view.position, [proxy for proxy, _ in turn.offers], event_time())
        self._told()

    def _advanced(self) -> None:
        if self._hub.position is not None:
            self._reach.advanced(self._hub.position)
            self._told()

    def _moved(self, proxy: str) -> None:
        where = self._where(proxy)
        if where is None:
            self._refused.left(proxy)
        self._reach.moved(proxy, where, event_time())
        self._told()

    def _where(self, proxy: str) -> Where | None:
        streams = self._hub.streams_of(proxy)
        sent = [one for stream in streams for _, one, _ in stream.xds.positions() if one is not None]
        where = Where(self._hub.delivered(proxy), max(sent, default=None), self._hub.keeps_up(proxy))
        return where if streams else None

    def _answered(self, proxy: str, facts: Sequence[Fact]) -> None:
        for fact in facts:
            self._refused.answered(proxy, fact)
            if isinstance(fact, Acked):
                self._reach.acked(proxy, short_type(fact.type_url), fact.position, event_time())

    def halted(self) -> None:
        """Something stands still since now."""
        self._told()

    def _told(self) -> None:
        self.lull.disturb()
        self._news.tell()
        self._wake.set()

    # --- what is said --------------------------------------------------------------------------------------------

    @property
    def zones(self) -> Sequence[str]:
        """See Tracer."""
        return (self._zone,)

    def progress(self, _zone: str) -> Progress:
        """See Tracer: with every laggard, and all that is remembered."""
        return self._said(self._laggards(), len(self._reach.pushes()), len(self._reach.seen()))

    async def news(self) -> None:
        """See Tracer."""
        await self._news.wait()

    async def run(self) -> None:
        """For ever: let global know."""
        before: bytes | None = None
        while True:
            with suppress(TimeoutError):
                # Nothing tells when what stood still goes on.
                async with asyncio.timeout(HALTED_SECONDS if self._halted() else None):
                    await self._wake.wait()
            await asyncio.sleep(BEHIND_SECONDS)
            await self.lull.over()
            self._wake.clear()
            started = time.perf_counter()
            row = self._row()
            says = msgspec.json.encode(msgspec.structs.replace(row, said_at=""))
            if says != before:
                try:
                    await self._stream.put(PROGRESS_KEY, msgspec.json.encode(row))
                    before = says
                except LogUnavailable as error:
                    log.warning("cannot say now how far proxies are", error=str(error))
                    self._wake.set()
                    await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(
                max(SPACING_SECONDS, min((time.perf_counter() - started) * PAUSE_FACTOR, PAUSE_SECONDS_MAX))
            )

    def _row(self) -> Progress:
        laggards = self._laggards()
        row = self._said(laggards[:LISTED], PUSHES_TOLD, SEEN_TOLD)
        rest = [one.reached for one in laggards[LISTED:]]
        known = [one for one in rest if one is not None]
        if rest and len(known) == len(rest):
            lowest = Position(min(one.g for one in known), min(one.z for one in known))
            row = msgspec.structs.replace(row, rest=lowest)
        return msgspec.structs.replace(row, offline_names=row.offline_names[:LISTED], refused=row.refused[:LISTED])

    def _said(self, laggards: tuple[Laggard, ...], pushes: int, seen: int) -> Progress:
        offline, reach = self._offline_ones(), self._reach
        return Progress(
            zone=self._zone,
            said_at=event_time(),
            position=reach.head,
            online=reach.online,
            behind=len(reach.behind) + len(reach.returning),
            laggards=laggards,
            refused=self._refusals(),
            offline=len(offline),
            offline_names=offline,
            seen=reach.seen(seen),
            pushes=reach.pushes(pushes),
            halted=self._halted(),
        )

    def _halted(self) -> tuple[HaltedPart, ...]:
        parts = halted_parts(self._kept.stops, self._kept.faults, RESUME)[:LISTED]
        return tuple(msgspec.structs.replace(part, reason=part.reason[:REASON_TOLD]) for part in parts)

    def _laggards(self) -> tuple[Laggard, ...]:
        """Who is behind, furthest first; those that are not named in any answer without the reason."""
        found = (*self._reach.behind.items(), *self._reach.returning.items())
        ordered = sorted(found, key=lambda one: (one[1] is not None, one[1] or Position(0, 0), one[0]))
        first = (Laggard(proxy, *self._why(proxy), reached) for proxy, reached in ordered[:LISTED])
        return (*first, *(Laggard(proxy, "offered", reached=reached) for proxy, reached in ordered[LISTED:]))

    def _why(self, proxy: str) -> tuple[Waiting, str]:
        kept = self._kept.reason(proxy)
        if kept:
            word, _, reason = kept.partition(": ")
            return ("held" if word == "held" else "fenced"), reason
        if proxy in self._reach.returning:
            return "returning", "not back since the control plane started"
        if fault := self._fault(proxy):
            return "fault", f"cannot be compiled: {fault}"
        if delayed := self._plan.delayed(proxy):
            return "order", delayed
        snapshot, where = self._hub.snapshot(proxy), self._where(proxy)
        if snapshot is None or where is None:
            return "new", "connected, and not given anything yet"
        if where.sent is not None and where.sent >= snapshot.position:
            return "sent", ", ".join(self._unanswered(proxy))
        return "offered", ""

    def _fault(self, proxy: str) -> str:
        fleet = self._plan.fleet
        situation = None if fleet is None else fleet.situations.get(proxy)
        return "" if fleet is None or situation is None else fleet.groups[situation].fault

    def _unanswered(self, proxy: str) -> Iterator[str]:
        for stream in self._hub.streams_of(proxy):
            for type_url, sent, acked in stream.xds.positions():
                if sent != acked:
                    yield short_type(type_url)

    def _refusals(self) -> tuple[Refused, ...]:
        return tuple(self._refused.concerning(self._plan.fleet, self._kept.quarantined(), self._connected()))

    def _connected(self) -> Collection[str]:
        return {stream.proxy for stream in self._hub.streams()}

    def _offline_ones(self) -> tuple[str, ...]:
        own = self._state().own
        if self._offline is None or self._offline[0] is not own.proxies:
            known = (status for status in own.proxies.values() if not status.online and status.key in own.resources)
            self._offline = (own.proxies, tuple(sorted(status.proxy for status in known)))
        return self._offline[1]
