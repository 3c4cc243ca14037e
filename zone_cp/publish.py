"""From each new state to what every connected proxy should hold.

One task: it takes the newest state whenever there is one (a burst of events costs one turn), brings the fleet up to
it (`xds/fleet.py`) and hands the snapshots that differ to ADS, egresses before sidecars where it matters (`order.py`).
Hostnames follow only once the egresses have ACKed the clusters behind them (decision 27).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import structlog
from immutables import Map

from shared.events.event import Event
from shared.events.state import Position, ZoneState
from shared.model.resource import ResourceKey
from zone_cp.ads.names import DnsTable
from zone_cp.ads.references import read_ahead
from zone_cp.gate import NameGate, Tables
from zone_cp.grace import between
from zone_cp.keeping import Keeping, concerns_held
from zone_cp.order import PushOrder
from zone_cp.view.names import Names
from zone_cp.view.zone_view import Failure, ProxyView, ZoneView
from zone_cp.xds import faults
from zone_cp.xds.compare import Diverged, divergences
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.fleet import Authorities, Fleet, Turn, first_turn, next_turn
from zone_cp.xds.parts import Impaired, Workload
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Snapshot

EVENTS_MAX = 4096
"""Events between two turns that are looked at one by one; beyond them the two states are compared."""
ACK_SECONDS = 30.0
"""How long one wait for an ACK lasts before it is looked at again which view is the newest."""

log = structlog.get_logger(__name__)


class Acking(Protocol):
    """What is needed to know what a proxy holds."""

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> object:
        """Wait until `proxy` answered all of a position. Raises TimeoutError."""


class Delivery(Protocol):
    """What the publisher needs of the ADS server, or of what stands before it."""

    def offer(self, proxy: str, snapshot: Snapshot, leads_to: Snapshot | None = None) -> None:
        """Make this what `proxy` should hold; newest wins. leads_to: what is left of it after a while."""

    def advance(self, position: Position) -> None:
        """What proxies were offered last holds at this moment too."""

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """What this proxy was offered is not kept up to date from now on, or was not since `position`."""

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """Make this the table that the proxy's agent answers from."""


class EgressWatch:
    """Tells when each egress holds the newest view: one task per egress, woken by ACKs."""

    def __init__(self, delivery: Acking, delivered: Callable[[str, ZoneView, tuple[str, ...]], None]) -> None:
        self._delivery = delivery
        self._delivered = delivered
        self._newest: ZoneView | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reached: dict[str, Position] = {}

    def expect(self, view: ZoneView, egresses: Sequence[str]) -> None:
        """These egresses are to hold `view`."""
        self._newest = view
        for proxy in [one for one in self._tasks if one not in egresses]:
            self._tasks.pop(proxy).cancel()
            self._reached.pop(proxy, None)
        for proxy in egresses:
            if proxy not in self._tasks or self._tasks[proxy].done():
                self._tasks[proxy] = asyncio.create_task(self._watch(proxy))

    async def _watch(self, proxy: str) -> None:
        while (view := self._newest) is not None and self._reached.get(proxy) != view.position:
            try:
                await self._delivery.acked(proxy, view.position, ACK_SECONDS)
            except TimeoutError:
                continue
            self._reached[proxy] = view.position
            waiting = tuple(one for one in self._tasks if not _holds(self._reached.get(one), view.position))
            self._delivered(proxy, view, waiting)


def _holds(reached: Position | None, position: Position) -> bool:
    return reached is not None and reached.reaches(position)


class Publisher:
    """Owns the newest Fleet and the task that keeps proxies up to it.

    `authorities` brings issuers of certificates up to date before a view is compiled; `offered` runs as soon as a turn
    is offered to the proxies that it touches, before anything of it is sent, `published` after all of it.
    keeping: tells proxies whose push is held what they must be told nonetheless.
    compare: after each turn, make everything from nothing and raise Diverged where it comes out different.
    """

    def __init__(
        self,
        secrets: SecretSource,
        delivery: Delivery,
        authorities: Authorities,
        published: Callable[[Turn], None],
        *,
        offered: Callable[[Turn], None] = lambda _turn: None,
        keeping: Keeping | None = None,
        compare: bool = False,
    ) -> None:
        self._secrets = secrets
        self._delivery = delivery
        self._authorities = authorities
        self._offered = offered
        self._published = published
        self._compare = compare
        self._keeping = keeping
        self._gate = NameGate()
        self._order = PushOrder()
        self._alarm: asyncio.TimerHandle | None = None
        self._tables: Tables = Map()
        self._newest: ZoneState | None = None
        self._events: list[Event] | None = []
        self._identities: set[Workload] = set()
        self._wake = asyncio.Event()
        self._fleet: Fleet | None = None
        self._before: Fleet | None = None
        self._ahead: tuple[Fleet, Turn] | None = None

    @property
    def view(self) -> ZoneView | None:
        """What proxies are served from; None before the first state."""
        return None if self._fleet is None else self._fleet.view

    @property
    def state(self) -> ZoneState | None:
        """The state that `view` is of."""
        return None if self._fleet is None else self._fleet.state

    @property
    def fleet(self) -> Fleet | None:
        """What proxies should hold; None before the first state."""
        return self._fleet

    def delayed(self, proxy: str) -> str:
        """Why a proxy is not told yet of what there is for it, "" when it is."""
        return "the zone egresses are to have it first" if self._order.holds(proxy) else ""

    def changed(self, state: ZoneState, events: Sequence[Event] | None = None) -> None:
        """A newer state; returns at once. `events` lead to it from the one before; None where they are not known."""
        if events is None or self._events is None or len(self._events) + len(events) > EVENTS_MAX:
            self._events = None
        else:
            self._events += events
        self._newest = state
        self._wake.set()

    def look_ahead(self, state: ZoneState, events: Sequence[Event]) -> None:
        """Make the turn to a state that external services alone lead to and that may not come about. Nothing is offered
        of it; `changed` with this very state uses it, any other forgets it.
        """
        self._ahead = None
        if self._fleet is not None and not (self._wake.is_set() or self._events or self._identities):
            turn = next_turn(self._fleet, state, self._secrets, events=events)
            self._ahead = (self._fleet, turn)
            for snapshot in {id(one): one for _, one in turn.offers}.values():
                read_ahead(snapshot)

    def refresh(self, mesh: str, spiffe_id: str) -> None:
        """A workload's certificate was replaced."""
        self._identities.add((mesh, spiffe_id))
        self._wake.set()

    def acked(self, proxy: str, position: Position) -> None:
        """`proxy` ACKed everything up to `position`."""
        self._offer(self._order.acked(_now(), proxy, position))
        self._offer_names(self._gate.acked(proxy, position))

    def refuse(self, clusters: Collection[str]) -> None:
        """An egress refuses these clusters now."""
        if self.view is not None:
            services = (one for mesh in self.view.meshes.values() for one in mesh.services.values())
            vips = frozenset(one.vip for one in services if one.cluster in clusters) if clusters else frozenset()
            self._offer_names(self._gate.refuse(vips))

    async def run(self) -> None:
        """For ever: wait for a newer state, publish it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._newest is not None:
                await self._publish(self._newest)

    def compile(self, proxy: ProxyView) -> Snapshot | None:
        """What `proxy` should hold now; None before the first state."""
        return None if self.view is None else compile_proxy(self.view, proxy, self._secrets)

    def failures(self) -> Map[ResourceKey, Failure]:
        """Services that online proxies answer 503 for, and why. For conditions; not in the path of a change."""
        return Map() if self._fleet is None else faults.failures(self._fleet)

    def closed(self) -> Map[tuple[ResourceKey, int], Failure]:
        """Listeners of MeshGateways, by their number, that online gateways do not serve, and why."""
        return Map() if self._fleet is None else faults.closed(self._fleet)

    def impaired(self) -> Map[ResourceKey, tuple[Impaired, ...]]:
        """What leads nowhere of the routes of MeshGateways, at online gateways."""
        return Map() if self._fleet is None else faults.impaired(self._fleet)

    def _turn(self, state: ZoneState) -> Turn:
        events, self._events = self._events, []
        identities, self._identities = frozenset(self._identities), set()
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is self._fleet and ahead[1].fleet.state is state and not identities:
            return ahead[1]
        if self._fleet is None:
            return first_turn(state, self._secrets, self._authorities)
        return next_turn(
            self._fleet, state, self._secrets, events=events, identities=identities, authorities=self._authorities
        )

    async def _publish(self, state: ZoneState) -> None:
        before, renewed, turn = self.view, bool(self._identities), self._turn(state)
        self._before, self._fleet = self._fleet, turn.fleet
        fleet = turn.fleet
        for proxy, fault in turn.faults:
            # It keeps what it has; the others are served (decision 28).
            log.error("cannot compile", proxy=proxy, position=str(fleet.view.position), fault=fault)
        for proxy in turn.left:
            self._order.left(proxy)
            self._delivery.leave(proxy)
        what = between(before, fleet.view, turn.difference)
        offers, later = self._order.want(_now(), fleet.view.position, turn.offers, fleet.egresses(), what)
        for proxy in later:
            self._delivery.leave(proxy)
        self._offer(offers, concerned=renewed or concerns_held(turn))
        self._delivery.advance(fleet.view.position)
        self._offered(turn)
        # Names wait for the egresses' ACKs anyway: let the streams write before they are worked out.
        await asyncio.sleep(0)
        self._offer_names(self._gate.want(fleet.view.position, fleet.names, fleet.egresses()), turn.came)
        self._published(turn)
        if self._compare and (found := divergences(fleet, self._secrets)):
            raise Diverged(found)

    def _offer(self, offers: Iterable[tuple[str, Snapshot]], *, concerned: bool = False) -> None:
        for proxy, snapshot in offers:
            self._delivery.offer(proxy, snapshot, self._order.told(proxy))
            if self._order.holds(proxy):
                self._delivery.leave(proxy, snapshot.position)
        if self._keeping is not None and self._fleet is not None:
            self._keeping.look(self._before, self._fleet, concerned=concerned)
        if self._alarm is not None:
            self._alarm.cancel()
        due = self._order.due()
        self._alarm = asyncio.get_running_loop().call_at(due, self._tick) if due is not None else None

    def _tick(self) -> None:
        self._offer(self._order.tick(_now()))

    def _offer_names(self, tables: Tables, came: Collection[str] = ()) -> None:
        before, self._tables = self._tables, tables
        fleet = self._fleet
        if fleet is None:
            return
        for mesh, names in tables.items():
            if before.get(mesh) is not names:
                table = _dns_table(names)
                for proxy in fleet.sidecars(mesh):
                    self._delivery.offer_dns(proxy, table)
        for proxy in came:
            mesh = fleet.mesh_of(proxy)
            if mesh in tables:
                self._delivery.offer_dns(proxy, _dns_table(tables[mesh]))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _dns_table(names: Names) -> DnsTable:
    return DnsTable(names.version, names.table, lineage=names.lineage)
