"""Guard: stands between the publisher and ADS, and keeps from a proxy what it should not get unseen.

A push that takes away too much (`ads.shrink`) is held, and that is an event: the proxy keeps what it was given, be it
over a restart of the control plane, until an operator releases it or the next push takes away less. A state that is
older than what a proxy has had (`ads.fence`) is kept from it until the state has caught up, or until an operator
releases it; nothing is recorded of that, since the log itself may be the one that was restored.

What a proxy was given last is compared with; of a proxy that was given nothing in this life, what it says it holds
when it asks for its clusters. The names its agent answers are guarded in the same way, or applications could not find
what the proxies still serve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import structlog

from shared.events.event import Change, PushHeld, PushReleased
from shared.events.state import Position, Stored, ZoneState
from shared.model.resource import Dataplane, Resource, ZoneEgress
from zone_cp.ads import shrink
from zone_cp.ads.facts import Nacked
from zone_cp.ads.fence import Fence, mark_of
from zone_cp.ads.names import DnsTable
from zone_cp.ads.quarantine import Key, contains
from zone_cp.follow import SYSTEM, Decided
from zone_cp.quarantines import Quarantines
from zone_cp.xds.snapshot import Snapshot
from zone_cp.xds.tombstone import tombstone

PAST_KEPT = 4
"""Pushes of each proxy that are remembered: what it refuses now may stand in the newest few of them."""
PROXIES_PER_EVENT = 500
"""Proxies that one PushHeld or PushReleased names at most."""

log = structlog.get_logger(__name__)


class Ads(Protocol):
    """What the guard needs of the ADS server."""

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        """Let the proxy have this snapshot, now or when it connects."""

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """Let the proxy's agent answer from this table."""

    def advance(self, position: Position) -> None:
        """What every proxy was offered last holds at `position` too, save of those that were left."""

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """What the proxy was offered is not kept up to date any more, or only up to a moment."""

    def withhold(self, proxy: str) -> None:
        """Take back what was offered to a proxy that has been sent nothing of it."""

    def forget(self, proxy: str) -> None:
        """Drop what was offered to a proxy that is another now, or gone for good."""

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> object:
        """Wait until `proxy` answered all of a position. Raises TimeoutError."""


class Guard:
    """Belongs to one event loop. present: the state that is being published; record: as `Recorder.record`."""

    def __init__(
        self,
        ads: Ads,
        fence: Fence,
        quarantines: Quarantines,
        *,
        share_percent: int,
        present: Callable[[], ZoneState],
        record: Callable[[Decided, str], None],
    ) -> None:
        self._ads = ads
        self._fence = fence
        self._quarantines = quarantines
        self._share = share_percent
        self._present = present
        self._record = record
        self._offered: dict[str, Snapshot] = {}
        self._leads_to: dict[str, Snapshot] = {}
        self._given: dict[str, Snapshot] = {}
        self._led_to: dict[str, Snapshot] = {}
        self._keeping: dict[str, Snapshot] = {}
        self._kept: dict[str, Position | None] = {}
        self._past: dict[str, tuple[Snapshot, ...]] = {}
        self._tables: dict[str, DnsTable] = {}
        self._waiting: dict[str, Snapshot] = {}
        self._waiting_tables: dict[str, DnsTable] = {}
        self._reported: dict[str, Mapping[str, str]] = {}
        self._alive: tuple[Position, Position, frozenset[shrink.Address]] | None = None
        self._places: dict[str, tuple[shrink.Address, ...]] = {}
        self.held: dict[str, str] = {}
        self.fenced: dict[str, str] = {}

    def recall(self, state: ZoneState) -> None:
        """Take up the holds of an earlier life: call before anything is offered."""
        holds = {proxy: hold for proxy, hold in state.own.holds.items() if not hold.released}
        self.held = {proxy: hold.reason for proxy, hold in holds.items()}
        self._kept = {proxy: hold.kept for proxy, hold in holds.items()}

    def reason(self, proxy: str) -> str:
        """Why a proxy is not given what there is for it, "" when it is."""
        if proxy in self.held:
            return f"held: {self.held[proxy]}"
        return f"fenced: {self.fenced[proxy]}" if proxy in self.fenced else ""

    # --- what the publisher says ---------------------------------------------------------------------------------

    def offer(self, proxy: str, snapshot: Snapshot, leads_to: Snapshot | None = None) -> None:
        """See Ads; it may have to wait. leads_to: what it comes down to, where it keeps something for a while still."""
        self._note(proxy)
        self._offered[proxy] = snapshot
        self._leads_to[proxy] = leads_to or snapshot
        self._quarantines.offered(proxy, snapshot)
        self._weigh(proxy, self._quarantines.overlaid(snapshot))

    def _weigh(self, proxy: str, snapshot: Snapshot) -> None:
        behind = self._fence.behind(proxy, mark_of(self._present()))
        if behind:
            self._waiting[proxy] = snapshot
            known = proxy in self.fenced
            self.fenced[proxy] = behind
            if not known:
                log.warning("proxy keeps what it has", proxy=proxy, why="fence", reason=behind)
            return
        self.fenced.pop(proxy, None)
        said = self._judged(proxy, self._leads_to[proxy])
        if not said and proxy in self.held and proxy not in self._given and proxy not in self._reported:
            said = self.held[proxy]  # of an earlier life: what it holds is not known before it says so
        if said:
            self._hold(proxy, snapshot, said)
        else:
            self._give(proxy, snapshot)

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """See Ads; it waits while the proxy's push does."""
        before = self._tables.get(proxy)
        if before is not None and before.version == table.version:
            self._waiting_tables.pop(proxy, None)
            return
        if proxy in self.held or proxy in self.fenced:
            self._waiting_tables[proxy] = table
            return
        said = "" if before is None else shrink.too_many(before.names, table.names, self._share, "hostnames")
        if said:
            self._waiting_tables[proxy] = table
            self._begin(proxy, said)
        else:
            self._tables[proxy] = table
            self._ads.offer_dns(proxy, table)

    def advance(self, position: Position) -> None:
        """See Ads. Also lets go what was behind and is no more."""
        self._ads.advance(position)
        for proxy in [one for one in self.fenced if one in self._waiting]:
            self._weigh(proxy, self._waiting[proxy])

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """See Ads."""
        self._ads.leave(proxy, position)

    def forget(self, proxy: str) -> None:
        """See Ads. What comes under its name next is another: nothing is held against that one."""
        offered = (
            self._offered,
            self._leads_to,
            self._given,
            self._led_to,
            self._keeping,
            self._past,
            self._tables,
            self._waiting,
            self._waiting_tables,
            self._reported,
        )
        for known in (*offered, self._kept, self._places, self.fenced):
            known.pop(proxy, None)
        if self.held.pop(proxy, None) is not None:
            self._record(self._changes, SYSTEM)
        self._ads.forget(proxy)

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> object:
        """See Ads."""
        return await self._ads.acked(proxy, position, timeout_seconds)

    # --- what a held proxy is told nonetheless (`kept`) ----------------------------------------------------------

    def holding(self) -> Mapping[str, Position | None]:
        """The proxies whose push is held, and the moment of what each keeps; None where that is not known."""
        return {proxy: self._kept.get(proxy) for proxy in self.held if proxy in self._waiting}

    def keep(self, proxy: str, snapshot: Snapshot) -> None:
        """Give a proxy whose push is held this in place of what it keeps. It must not take away anything either."""
        snapshot = self._quarantines.overlaid(snapshot)
        before = self._keeping.get(proxy) or self._led_to.get(proxy)
        if before is not None and versions(before) == versions(snapshot):
            return
        if before is not None:
            said = shrink.too_many(shrink.of(before), shrink.of(snapshot), self._share, "clusters")
        else:
            said = self._missing(self._reported.get(proxy, {}), snapshot)
        if said:
            log.error("a held proxy is not told who lost access", proxy=proxy, reason=said)
            return
        self._keeping[proxy] = snapshot
        self._ads.offer(proxy, snapshot)
        self._ads.leave(proxy, snapshot.position)

    # --- what a proxy says ---------------------------------------------------------------------------------------

    def reported(self, proxy: str, clusters: Mapping[str, str]) -> None:
        """A new stream of the proxy says which clusters it holds, with their versions, before it is sent any."""
        waiting, given = self._waiting.get(proxy), self._given.get(proxy)
        if proxy in self.held and given is None:
            self._reported[proxy] = clusters
            if waiting is not None and not self._judged(proxy, self._leads_to[proxy]):
                self._give(proxy, waiting)
            elif (keeping := self._keeping.get(proxy)) is not None and self._missing(clusters, keeping):
                self._ads.withhold(proxy)
                del self._keeping[proxy]
        elif given is None:
            self._reported[proxy] = clusters
        elif proxy not in self.held and not self._is_released(proxy):
            said = self._missing(clusters, given)
            if said:
                self._ads.withhold(proxy)
                del self._given[proxy]
                self._reported[proxy] = clusters
                self._hold(proxy, given, said)

    def refused(self, proxy: str, nack: Nacked) -> None:
        """The proxy's Envoy refused something: what is certain to be at fault goes to nobody else."""
        self._again(self._quarantines.refused(proxy, nack, partial(self._moment_of, proxy)))

    def _moment_of(self, proxy: str, key: Key) -> Position | None:
        """A moment at which the proxy was given this very version, None where that is long ago."""
        return next((one.position for one in self._past.get(proxy, ()) if contains(one, key)), None)

    def forgive(self, keys: Sequence[Key]) -> None:
        """Let quarantined versions be tried again."""
        self._quarantines.release(keys)
        self._again(keys)

    def _again(self, keys: Sequence[Key]) -> None:
        """What stands in place of these versions is another now."""
        for proxy, snapshot in self._offered.items() if keys else ():
            if any(contains(snapshot, key) for key in keys):
                self._weigh(proxy, self._quarantines.overlaid(snapshot))

    def _is_released(self, proxy: str) -> bool:
        """Whether an operator let a push go that the proxy, as far as is known, has not taken yet."""
        hold, mark = self._present().own.holds.get(proxy), self._fence.mark(proxy)
        return hold is not None and hold.released and (mark is None or mark.z < hold.event.n)

    # --- what an operator says -----------------------------------------------------------------------------------

    def waiting(self, proxy: str | None = None) -> tuple[str, ...]:
        """The proxies (or this one) that are not given what there is for them."""
        return tuple(sorted(one for one in self.held.keys() | self.fenced.keys() if proxy in (None, one)))

    def release(self, proxies: Iterable[str]) -> None:
        """Give them what there is for them, whatever it takes away, and however old it is."""
        for proxy in proxies:
            self.held.pop(proxy, None)
            self.fenced.pop(proxy, None)
            self._fence.forget(proxy)
            self._reported.pop(proxy, None)
            if (snapshot := self._waiting.get(proxy)) is not None:
                self._give(proxy, snapshot)
            if (table := self._waiting_tables.pop(proxy, None)) is not None:
                self._tables[proxy] = table
                self._ads.offer_dns(proxy, table)
            log.warning("proxy released", proxy=proxy)

    # --- inside --------------------------------------------------------------------------------------------------

    def _judged(self, proxy: str, snapshot: Snapshot) -> str:
        before = self._led_to.get(proxy)
        if before is not None and proxy in self._given:
            return shrink.too_much(before, snapshot, self._share, partial(self._online, before.position))
        return "" if self._is_released(proxy) else self._missing(self._reported.get(proxy, {}), snapshot)

    def _missing(self, reported: Mapping[str, str], snapshot: Snapshot) -> str:
        wanted = shrink.of(snapshot)
        # What stands in for a service that was asked for and is not there is no loss.
        holds = [name for name, version in reported.items() if name in wanted or version != tombstone(name).version]
        return shrink.too_many(holds, wanted, self._share, "clusters")

    def _hold(self, proxy: str, snapshot: Snapshot, reason: str) -> None:
        self._waiting[proxy] = snapshot
        self._ads.leave(proxy)
        self._begin(proxy, reason)

    def _begin(self, proxy: str, reason: str) -> None:
        if proxy not in self.held:
            self.held[proxy] = reason
            self._kept[proxy] = self._moment_kept(proxy)
            log.warning("proxy keeps what it has", proxy=proxy, why="hold", reason=reason)
            self._record(self._changes, SYSTEM)

    def _give(self, proxy: str, snapshot: Snapshot) -> None:
        self._fence.forget(proxy)
        self._waiting.pop(proxy, None)
        self._reported.pop(proxy, None)
        if proxy in self._given:
            self._past[proxy] = (self._given[proxy], *self._past.get(proxy, ()))[:PAST_KEPT]
        self._given[proxy], self._led_to[proxy] = snapshot, self._leads_to[proxy]
        self._keeping.pop(proxy, None)
        self._ads.offer(proxy, snapshot)
        if self.held.pop(proxy, None) is not None:
            log.info("proxy is held no more", proxy=proxy)
            self._record(self._changes, SYSTEM)
            if (table := self._waiting_tables.pop(proxy, None)) is not None:
                self.offer_dns(proxy, table)

    def _online(self, since: Position) -> frozenset[shrink.Address]:
        """Where proxies listen that are online and have not said anything else of themselves since that moment."""
        state = self._present()
        if self._alive is None or self._alive[:2] != (state.position, since):
            online = (status for status in state.own.proxies.values() if status.online)
            same = (status.proxy for status in online if _unchanged(state.own.resources.get(status.key), since))
            places = frozenset(place for proxy in same for place in self._places.get(proxy, ()))
            self._alive = (state.position, since, places)
        return self._alive[2]

    def _note(self, proxy: str) -> None:
        own = self._present().own
        status = own.proxies.get(proxy)
        stored = own.resources.get(status.key) if status is not None else None
        if stored is not None:  # where its resource is deleted, it goes on listening
            self._places[proxy] = _places(stored.resource)

    def _changes(self, state: ZoneState) -> Sequence[Change]:
        """What the log does not say yet of who is held and who is not."""
        recorded = {proxy: hold for proxy, hold in state.own.holds.items() if not hold.released}
        alike: dict[tuple[str, Position | None], list[str]] = {}
        for proxy in sorted(self.held.keys() - recorded.keys()):
            alike.setdefault((self.held[proxy], self._kept.get(proxy)), []).append(proxy)
        changes: list[Change] = []
        for (reason, kept), proxies in alike.items():
            g, z = (0, 0) if kept is None else (kept.g, kept.z)
            changes += [PushHeld(proxies=some, kept_g=g, kept_z=z, reason=reason) for some in _parts(proxies)]
        over = _parts(sorted(recorded.keys() - self.held.keys()))
        return [*changes, *(PushReleased(proxies=some, by="itself") for some in over)]

    def _moment_kept(self, proxy: str) -> Position | None:
        given, mark = self._given.get(proxy), self._fence.mark(proxy)
        if given is not None:
            return given.position
        return None if mark is None else mark.position


def versions(snapshot: Snapshot) -> dict[str, dict[str, str]]:
    """What a snapshot has, by type and name."""
    return {url: {name: one.version for name, one in names.items()} for url, names in snapshot.resources.items()}


def _parts(proxies: list[str]) -> list[tuple[str, ...]]:
    return [tuple(proxies[i : i + PROXIES_PER_EVENT]) for i in range(0, len(proxies), PROXIES_PER_EVENT)]


def _unchanged(stored: Stored | None, since: Position) -> bool:
    return stored is None or stored.last.n <= since.z


def _places(resource: Resource) -> tuple[shrink.Address, ...]:
    """Where the proxy of a resource listens."""
    match resource:
        case ZoneEgress(networking=networking):
            return ((networking.address, networking.port),)
        case Dataplane(networking=networking):
            hosts = (networking.advertised_address, networking.address)
            return tuple(
                (host, one.port) for one in networking.inbound for host in (one.address, *hosts) if host is not None
            )
        case _:
            return ()
