"""Safety: what stands between a zone and a wrong push, put together: marks, fence, guard, and how to release them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from shared.api.release import Released
from shared.api.resume import Halting
from shared.events.event import Change, Event, PushReleased, QuarantineEnded
from shared.events.log import Conflict, LogUnavailable
from shared.events.state import ZoneState
from shared.events.stop import Stop, stops_of
from shared.nats.chain import ChainFault
from shared.nats.log import JetStreamLog, LogFault
from shared.nats.refill import refill
from shared.nats.status import StatusStream
from zone_cp.ads.fence import Fence, Mark
from zone_cp.ads.quarantine import Key
from zone_cp.ads.server import AdsServer
from zone_cp.follow import Decided, ZoneOwner
from zone_cp.guard import Guard, parts
from zone_cp.marks import Marks
from zone_cp.quarantines import Quarantines
from zone_cp.took import Records
from zone_cp.xds.inspect import short_type

REFILL_SECONDS = 3.0
"""How long a start waits for the hub's copy of the zone's log."""
RETRY_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Safety:
    """A `shared.api.release.Releaser`. present: the state that is being published."""

    def __init__(
        self,
        owner: ZoneOwner,
        ads: AdsServer,
        delivery: StatusStream,
        records: StatusStream,
        *,
        share_percent: int,
        present: Callable[[], ZoneState],
        record: Callable[[Decided, str], None],
    ) -> None:
        self._owner = owner
        self.zone = owner.zone
        self.halting: dict[str, Halting] = {}
        self._logs: tuple[JetStreamLog, JetStreamLog, JetStreamLog] | None = None
        self._marked: Mapping[str, Mark] = {}
        self.fence = Fence()
        self.quarantines = Quarantines(ads.hub, record)
        self.guard = Guard(
            ads, self.fence, self.quarantines, share_percent=share_percent, present=present, record=record
        )
        incarnations = lambda: (owner.state.hub.incarnation, owner.state.own.incarnation)  # noqa: E731 - said once
        self.marks = Marks(delivery, ads.hub, incarnations, Records(records))
        ads.hub.on_reported = self.guard.reported
        ads.hub.on_moved = self.marks.moved
        ads.hub.on_advanced = self.marks.advanced
        ads.hub.on_left = self.marks.left

    async def recover(self, own: JetStreamLog, copy: JetStreamLog, hub: JetStreamLog) -> None:
        """Bring the owner's state up from the logs; `hub` is the hub's copy of the zone's own.

        A log that proxies or the hub have seen further than it goes was restored from an older copy. Then nothing is
        decided and nobody is served anything before it has back what it lost, or an operator releases it.
        """
        self._logs = (own, copy, hub)
        self._marked = await self.marks.recall()
        self.fence.recall(self._marked)
        await self._refill(REFILL_SECONDS)
        await self._owner.recover(copy, self._marked)
        self.guard.recall(self._owner.state)
        self.quarantines.recall(self._owner.state)
        if self._owner.lost:
            what = {"ends_at": self._owner.state.own.n, "proxies_had": self._owner.lost}
            log.error("the zone's own log was restored from an older copy: proxies keep what they have", **what)

    @property
    def stops(self) -> Sequence[Stop]:
        """See `shared.api.halted.Reads`."""
        return stops_of([self._owner.stop])

    @property
    def faults(self) -> Mapping[str, str]:
        """See `shared.api.halted.Reads`."""
        broken = {"the own log": self._owner.broken} if self._owner.broken else {}
        return broken | {what: str(part.fault) for what, part in self.halting.items() if part.fault is not None}

    async def skip(self, origin: str, n: int, reason: str, actor: str) -> Sequence[Event]:
        """See `shared.api.halted.Reads`."""
        return await self._owner.skip(origin, n, reason, actor)

    def reason(self, proxy: str) -> str:
        """Why the proxy is not given what there is for it, "" when it is."""
        if stop := self._owner.unread():
            return f"fenced: {stop}"
        if self._owner.broken:
            return f"fenced: {self._owner.broken}"
        if self._owner.lost:
            ends = self._owner.state.own.n
            return f"fenced: the zone's log was restored up to {ends}, and proxies have had {self._owner.lost}"
        return self.guard.reason(proxy)

    def quarantined(self) -> tuple[tuple[Key, str], ...]:
        """Versions that no proxy is given, with the reason of each."""
        return self.quarantines.known()

    @property
    def marks_then(self) -> Mapping[str, Mark]:
        """How far proxies had come in an earlier life."""
        return self._marked

    async def regain(self) -> None:
        """For ever: while the own log lacks what it had, ask the hub for it."""
        while self._owner.lost:
            await asyncio.sleep(RETRY_SECONDS)
            if self._owner.lost and self._logs is not None and await self._refill(None):
                await self._owner.recover(self._logs[1], self._marked)
        await asyncio.Event().wait()

    async def _refill(self, timeout_seconds: float | None) -> int:
        if self._logs is None:
            return 0
        own, _, hub = self._logs
        try:
            async with asyncio.timeout(timeout_seconds):
                regained = await refill(own, hub)
        except (LogUnavailable, TimeoutError):
            return 0  # the hub is away; what proxies had tells as well
        except (ChainFault, LogFault, Conflict) as fault:
            log.error("cannot take back what the hub holds of the zone's log", reason=str(fault))  # noqa: TRY400
            return 0
        if regained:
            log.warning("the zone's own log got back what it had lost", events=regained)
        return regained

    async def release(self, proxy: str | None, actor: str) -> Released:
        """See Releaser."""
        restored = bool(self._owner.lost) and proxy is None
        if restored and self._logs is not None:
            await self._owner.accept_loss(actor)
            await self._owner.recover(self._logs[1], {})
        if proxy is None:
            self.fence.recall({})  # of proxies, too, that nothing was offered to yet
        chosen, keys = self.guard.waiting(proxy), self.quarantines.of(proxy)

        def decided(_: ZoneState) -> Sequence[Change]:
            ends = (QuarantineEnded(type_url=key[0], name=key[1], version=key[2], by="operator") for key in keys)
            return [*(PushReleased(proxies=part, by="operator") for part in parts(chosen)), *ends]

        await self._owner.write(decided, actor=actor)
        self.guard.release(chosen)
        self.guard.forgive(keys)
        names = tuple(f"{short_type(type_url)} {name}" for type_url, name, _ in keys)
        return Released(self._owner.zone, chosen, names, restored=restored)
