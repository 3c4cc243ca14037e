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

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec
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
from zone_cp.xds.snapshot import Snapshot, differing
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


class _Push(msgspec.Struct, frozen=True):
    """What there is for a proxy, and what it comes down to, where something is kept for a while still."""

    snapshot: Snapshot
    leads_to: Snapshot


class _Hold(msgspec.Struct, frozen=True):
    """Why a push is held, and the moment of what its proxy keeps, None where that is not known."""

    reason: str
    kept: Position | None


class _Proxy(msgspec.Struct):
    """What is known of one proxy.

    offered: as it was compiled; waiting: the same, overlaid, while it is kept from it; given: what it was given last;
    past: what it was given before, the newest first; keeping: what it was told since its push is held; reported: the
    clusters that it says it holds, as long as that is all there is to compare with; resource: where it listens.
    """

    offered: _Push | None = None
    waiting: _Push | None = None
    given: _Push | None = None
    past: tuple[Snapshot, ...] = ()
    keeping: Snapshot | None = None
    reported: Mapping[str, str] | None = None
    table: DnsTable | None = None
    waiting_table: DnsTable | None = None
    resource: Resource | None = None


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
        self._proxies: defaultdict[str, _Proxy] = defaultdict(_Proxy)
        self._alive: tuple[Position, Position, frozenset[shrink.Address]] | None = None
        self.held: dict[str, _Hold] = {}
        self.fenced: dict[str, str] = {}

    def recall(self, state: ZoneState) -> None:
        """Take up the holds of an earlier life: call before anything is offered."""
        holds = state.own.holds.items()
        self.held = {proxy: _Hold(hold.reason, hold.kept) for proxy, hold in holds if not hold.released}

    def reason(self, proxy: str) -> str:
        """Why a proxy is not given what there is for it, "" when it is."""
        if proxy in self.held:
            return f"held: {self.held[proxy].reason}"
        return f"fenced: {self.fenced[proxy]}" if proxy in self.fenced else ""

    # --- what the publisher says ---------------------------------------------------------------------------------

    def offer(self, proxy: str, snapshot: Snapshot, leads_to: Snapshot | None = None) -> None:
        """See Ads; it may have to wait. leads_to: what it comes down to, where it keeps something for a while still."""
        one = self._proxies[proxy]
        self._note(proxy, one)
        one.offered = _Push(snapshot, leads_to or snapshot)
        self._quarantines.offered(proxy, snapshot)
        self._weigh(proxy, one, one.offered)

    def _weigh(self, proxy: str, one: _Proxy, offered: _Push) -> None:
        overlaid = self._quarantines.overlaid(offered.snapshot)
        push = offered if overlaid is offered.snapshot else _Push(overlaid, offered.leads_to)
        behind = self._fence.behind(proxy, mark_of(self._present()))
        if behind:
            one.waiting = push
            if proxy not in self.fenced:
                log.warning("proxy keeps what it has", proxy=proxy, why="fence", reason=behind)
            self.fenced[proxy] = behind
            return
        self.fenced.pop(proxy, None)
        said = self._judged(proxy, one, push)
        if not said and proxy in self.held and one.given is None and one.reported is None:
            said = self.held[proxy].reason  # of an earlier life: what it holds is not known before it says so
        if said:
            self._hold(proxy, one, push, said)
        else:
            self._give(proxy, one, push)

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """See Ads; it waits while the proxy's push does."""
        one = self._proxies[proxy]
        before = one.table
        if before is not None and before.version == table.version:
            one.waiting_table = None
        elif proxy in self.held or proxy in self.fenced:
            one.waiting_table = table
        elif before is not None and (said := self._fewer(before.names, table.names, "hostnames")):
            one.waiting_table = table
            self._begin(proxy, one, said)
        else:
            self._give_table(proxy, one, table)

    def advance(self, position: Position) -> None:
        """See Ads. Also lets go what was behind and is no more."""
        self._ads.advance(position)
        for proxy in tuple(self.fenced):
            one = self._proxies[proxy]
            if one.waiting is not None and one.offered is not None:
                self._weigh(proxy, one, one.offered)

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """See Ads."""
        self._ads.leave(proxy, position)

    def forget(self, proxy: str) -> None:
        """See Ads. What comes under its name next is another: nothing is held against that one."""
        self._proxies.pop(proxy, None)
        self.fenced.pop(proxy, None)
        if self.held.pop(proxy, None) is not None:
            self._record(self._changes, SYSTEM)
        self._ads.forget(proxy)

    # --- what a held proxy is told nonetheless (`kept`) ----------------------------------------------------------

    def holding(self) -> Mapping[str, Position | None]:
        """The proxies whose push is held, and the moment of what each keeps; None where that is not known."""
        return {proxy: hold.kept for proxy, hold in self.held.items() if self._proxies[proxy].waiting is not None}

    def keep(self, proxy: str, snapshot: Snapshot) -> None:
        """Give a proxy whose push is held this in place of what it keeps. It must not take away anything either."""
        if proxy not in self.held:
            return
        snapshot, one = self._quarantines.overlaid(snapshot), self._proxies[proxy]
        before = one.given.leads_to if one.keeping is None and one.given is not None else one.keeping
        if before is None:
            said = self._missing(one.reported, snapshot)
        elif not any(differing(before, snapshot, url) for url in {*before.resources, *snapshot.resources}):
            return
        else:
            said = self._fewer(shrink.of(before), shrink.of(snapshot), "clusters")
        if said:
            log.error("a held proxy is not told who lost access", proxy=proxy, reason=said)
            return
        one.keeping = snapshot
        self._ads.offer(proxy, snapshot)
        self._ads.leave(proxy, snapshot.position)

    # --- what a proxy says ---------------------------------------------------------------------------------------

    def reported(self, proxy: str, clusters: Mapping[str, str]) -> None:
        """A new stream of the proxy says which clusters it holds, with their versions, before it is sent any."""
        one = self._proxies[proxy]
        given = one.given
        if given is None:
            one.reported = clusters
            if proxy not in self.held:
                return
            if one.waiting is not None and not self._judged(proxy, one, one.waiting):
                self._give(proxy, one, one.waiting)
            elif one.keeping is not None and self._missing(one.reported, one.keeping):
                self._ads.withhold(proxy)
                one.keeping = None
        elif proxy in self.held or self._is_released(proxy):
            return
        elif said := self._missing(clusters, given.snapshot):
            self._ads.withhold(proxy)
            one.given, one.reported = None, clusters
            self._hold(proxy, one, given, said)

    def refused(self, proxy: str, nack: Nacked) -> None:
        """The proxy's Envoy refused something: what is certain to be at fault goes to nobody else."""
        self._again(self._quarantines.refused(proxy, nack, partial(self._moment_of, proxy)))

    def _moment_of(self, proxy: str, key: Key) -> Position | None:
        """A moment at which the proxy was given this very version, None where that is long ago."""
        return next((one.position for one in self._proxies[proxy].past if contains(one, key)), None)

    def forgive(self, keys: Sequence[Key]) -> None:
        """Let quarantined versions be tried again."""
        self._quarantines.release(keys)
        self._again(keys)

    def _again(self, keys: Sequence[Key]) -> None:
        """What stands in place of these versions is another now."""
        for proxy, one in self._proxies.items() if keys else ():
            offered = one.offered
            if offered is not None and any(contains(offered.snapshot, key) for key in keys):
                self._weigh(proxy, one, offered)

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
            one = self._proxies[proxy]
            self.held.pop(proxy, None)
            self.fenced.pop(proxy, None)
            self._fence.forget(proxy)
            one.reported = None
            if one.waiting is not None:
                self._give(proxy, one, one.waiting)
            if one.waiting_table is not None:
                self._give_table(proxy, one, one.waiting_table)
            log.warning("proxy released", proxy=proxy)

    # --- inside --------------------------------------------------------------------------------------------------

    def _judged(self, proxy: str, one: _Proxy, push: _Push) -> str:
        if one.given is not None:
            before = one.given.leads_to
            return shrink.too_much(before, push.leads_to, self._share, partial(self._online, before.position))
        return "" if self._is_released(proxy) else self._missing(one.reported, push.leads_to)

    def _missing(self, reported: Mapping[str, str] | None, snapshot: Snapshot) -> str:
        wanted, said = shrink.of(snapshot), (reported or {}).items()
        # What stands in for a service that was asked for and is not there is no loss.
        holds = [name for name, version in said if name in wanted or version != tombstone(name).version]
        return self._fewer(holds, wanted, "clusters")

    def _fewer(self, before: Collection[str], after: Container[str], what: str) -> str:
        return shrink.too_many(before, after, self._share, what)

    def _hold(self, proxy: str, one: _Proxy, push: _Push, reason: str) -> None:
        one.waiting = push
        self._ads.leave(proxy)
        self._begin(proxy, one, reason)

    def _begin(self, proxy: str, one: _Proxy, reason: str) -> None:
        if proxy not in self.held:
            self.held[proxy] = _Hold(reason, self._moment_kept(proxy, one))
            log.warning("proxy keeps what it has", proxy=proxy, why="hold", reason=reason)
            self._record(self._changes, SYSTEM)

    def _give(self, proxy: str, one: _Proxy, push: _Push) -> None:
        self._fence.forget(proxy)
        if one.given is not None:
            one.past = (one.given.snapshot, *one.past)[:PAST_KEPT]
        one.given, one.waiting, one.keeping, one.reported = push, None, None, None
        self._ads.offer(proxy, push.snapshot)
        if self.held.pop(proxy, None) is not None:
            log.info("proxy is held no more", proxy=proxy)
            self._record(self._changes, SYSTEM)
            table, one.waiting_table = one.waiting_table, None
            if table is not None:
                self.offer_dns(proxy, table)

    def _give_table(self, proxy: str, one: _Proxy, table: DnsTable) -> None:
        one.table, one.waiting_table = table, None
        self._ads.offer_dns(proxy, table)

    def _online(self, since: Position) -> frozenset[shrink.Address]:
        """Where proxies listen that are online and have not said anything else of themselves since that moment."""
        state = self._present()
        if self._alive is None or self._alive[:2] != (state.position, since):
            online = (status for status in state.own.proxies.values() if status.online)
            same = (status.proxy for status in online if _unchanged(state.own.resources.get(status.key), since))
            known = (self._proxies[proxy].resource for proxy in same if proxy in self._proxies)
            places = frozenset(place for resource in known for place in _places(resource))
            self._alive = (state.position, since, places)
        return self._alive[2]

    def _note(self, proxy: str, one: _Proxy) -> None:
        own = self._present().own
        status = own.proxies.get(proxy)
        stored = own.resources.get(status.key) if status is not None else None
        if stored is not None:  # where its resource is deleted, it goes on listening
            one.resource = stored.resource

    def _changes(self, state: ZoneState) -> Sequence[Change]:
        """What the log does not say yet of who is held and who is not."""
        recorded = {proxy: hold for proxy, hold in state.own.holds.items() if not hold.released}
        alike: dict[_Hold, list[str]] = {}
        for proxy in sorted(self.held.keys() - recorded.keys()):
            alike.setdefault(self.held[proxy], []).append(proxy)
        changes: list[Change] = []
        for hold, proxies in alike.items():
            g, z = (0, 0) if hold.kept is None else (hold.kept.g, hold.kept.z)
            changes += [PushHeld(proxies=some, kept_g=g, kept_z=z, reason=hold.reason) for some in parts(proxies)]
        over = parts(sorted(recorded.keys() - self.held.keys()))
        return [*changes, *(PushReleased(proxies=some, by="itself") for some in over)]

    def _moment_kept(self, proxy: str, one: _Proxy) -> Position | None:
        if one.given is not None:
            return one.given.snapshot.position
        mark = self._fence.mark(proxy)
        return None if mark is None else mark.position


def parts(proxies: Sequence[str]) -> list[tuple[str, ...]]:
    """Proxies by the event that names them."""
    return [tuple(proxies[i : i + PROXIES_PER_EVENT]) for i in range(0, len(proxies), PROXIES_PER_EVENT)]


def _unchanged(stored: Stored | None, since: Position) -> bool:
    return stored is None or stored.last.n <= since.z


def _places(resource: Resource | None) -> tuple[shrink.Address, ...]:
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
