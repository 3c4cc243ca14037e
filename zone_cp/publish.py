"""From each new state to what every connected proxy should hold.

One task: it takes the newest state whenever there is one (a burst of events costs one compilation), projects
it, compiles for each online proxy and hands the snapshots to ADS. Hostnames follow only once the egresses have
ACKed the clusters behind them (decision 27).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Protocol, TypeAlias

import msgspec
import structlog
from immutables import Map

from shared.events.state import Position, ZoneState
from shared.model.resource import ResourceKey, ZoneEgress
from zone_cp.ads.hub import DnsTable
from zone_cp.view.project import dns_table, project, project_next, proxy_view
from zone_cp.view.zone_view import Failure, ProxyView, ZoneView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.compile import failures as compile_failures
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Snapshot

Tables: TypeAlias = Map[str, Map[str, str]]
"""Per mesh: hostname to VIP."""

PENDING_LIMIT = 256
"""Tables that wait for ACKs; further ones wait together."""
ACK_SECONDS = 30.0
"""How long one wait for an ACK lasts before it is looked at again which view is the newest."""

log = structlog.get_logger(__name__)


class Delivery(Protocol):
    """What the publisher needs of the ADS server."""

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        """Make this what `proxy` should hold; newest wins."""

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """Make this the table that the proxy's agent answers from."""

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> object:
        """Wait until `proxy` answered all of a position. Raises TimeoutError."""


class _Wanted(msgspec.Struct):
    position: Position
    tables: Tables
    waiting: set[str]


class NameGate:
    """Decides which hostnames may be answered: removals at once, additions when every egress has ACKed.

    Sans-IO: `want` and `acked` return the tables to publish now.
    """

    def __init__(self) -> None:
        self._pending: deque[_Wanted] = deque()
        self._answered: Tables = Map()
        self._published: Tables = Map()
        self._wanted: Tables = Map()
        self._refused: frozenset[str] = frozenset()

    def want(self, position: Position, tables: Tables, egresses: Iterable[str]) -> Tables:
        """New tables at `position`, to be ACKed by `egresses` first (none: no egress can delay them)."""
        self._wanted = tables
        online = set(egresses)
        for earlier in self._pending:
            earlier.waiting &= online  # nothing waits for an egress that went offline
        if len(self._pending) >= PENDING_LIMIT:
            self._pending.popleft()  # the next one has all its names, and waits for no more than it did
        self._pending.append(_Wanted(position, tables, online))
        return self._settle()

    def acked(self, proxy: str, position: Position) -> Tables:
        """An egress holds everything up to `position`."""
        for wanted in self._pending:
            if wanted.position.g <= position.g and wanted.position.z <= position.z:
                wanted.waiting.discard(proxy)
        return self._settle()

    def refuse(self, vips: frozenset[str]) -> Tables:
        """An egress NACKed what is behind these VIPs: an answer, but nothing to give a new name to."""
        self._refused = vips
        return self._settle()

    def _settle(self) -> Tables:
        while self._pending and not self._pending[0].waiting:
            self._answered = self._pending.popleft().tables
        self._published = Map({mesh: self._kept(mesh, table) for mesh, table in self._answered.items()})
        return self._published

    def _kept(self, mesh: str, table: Map[str, str]) -> Map[str, str]:
        # A name whose VIP changed goes first and comes back with the next ACK. A refused service that is published
        # already serves its last good configuration and keeps its name (decision 28).
        wanted, published = self._wanted.get(mesh, Map()), self._published.get(mesh, Map())
        return Map({
            name: vip
            for name, vip in table.items()
            if wanted.get(name) == vip and (vip not in self._refused or published.get(name) == vip)
        })  # fmt: skip


class EgressWatch:
    """Tells when each egress holds the newest view: one task per egress, woken by ACKs."""

    def __init__(self, delivery: Delivery, delivered: Callable[[str, ZoneView, tuple[str, ...]], None]) -> None:
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
    return reached is not None and reached.g >= position.g and reached.z >= position.z


class Publisher:
    """Owns the newest ZoneView and the task that keeps proxies up to it.

    `before(view)` runs before a view is compiled (to bring issuers of certificates up to date), `published` after,
    with the egresses that are online.
    """

    def __init__(
        self,
        secrets: SecretSource,
        delivery: Delivery,
        before: Callable[[ZoneView], None],
        published: Callable[[ZoneState, ZoneView, Sequence[str]], None],
    ) -> None:
        self._secrets = secrets
        self._delivery = delivery
        self._before = before
        self._published = published
        self._gate = NameGate()
        self._sidecars: dict[str, str] = {}
        self._newest: ZoneState | None = None
        self._wake = asyncio.Event()
        self.view: ZoneView | None = None
        self.state: ZoneState | None = None

    def changed(self, state: ZoneState) -> None:
        """A newer state; returns at once."""
        self._newest = state
        self._wake.set()

    def refresh(self) -> None:
        """Material that is not in the state changed (a certificate was rotated): compile again."""
        self._wake.set()

    def acked(self, proxy: str, position: Position) -> None:
        """`proxy` ACKed everything up to `position`."""
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
        closed: Map[ResourceKey, Failure] = Map()
        if self.view is None or self.state is None:
            return closed
        # Proxies of a kind and mesh that trust the same CAs fail alike.
        alike: dict[tuple[str, str, str], ProxyView] = {}
        for status in self.state.own.proxies.values():
            if status.online and (proxy := proxy_view(self.state, status.proxy)) is not None:
                alike.setdefault((status.key.kind, status.key.mesh, proxy.system_ca_path), proxy)
        for proxy in alike.values():
            closed = closed.update(compile_failures(self.view, proxy, self._secrets))
        return closed

    def _project(self, state: ZoneState) -> ZoneView:
        if self.view is None or self.state is None:
            return project(state)
        return self.view if self.state is state else project_next(self.view, self.state, state)

    async def _publish(self, state: ZoneState) -> None:
        view = self._project(state)
        self.view, self.state = view, state
        self._before(view)
        egresses: list[str] = []
        sidecars: dict[str, str] = {}
        for status in state.own.proxies.values():
            if not status.online or (proxy := proxy_view(state, status.proxy)) is None:
                continue
            if isinstance(proxy.resource, ZoneEgress):
                egresses.append(status.proxy)
            else:
                sidecars[status.proxy] = proxy.resource.mesh
            try:
                snapshot = compile_proxy(view, proxy, self._secrets)
            except Exception:
                # One proxy that cannot be compiled keeps what it has; the others are served (decision 28).
                log.exception("cannot compile", proxy=status.proxy, position=str(view.position))
                continue
            self._delivery.offer(status.proxy, snapshot)
        self._sidecars = sidecars
        # Names wait for the egresses' ACKs anyway: let the streams write before they are worked out.
        await asyncio.sleep(0)
        tables: Tables = Map({mesh: dns_table(view, mesh) for mesh in view.meshes})
        self._offer_names(self._gate.want(view.position, tables, egresses))
        self._published(state, view, egresses)

    def _offer_names(self, tables: Tables) -> None:
        wanted = {mesh: tables[mesh] for mesh in self._sidecars.values() if mesh in tables}
        made = {mesh: DnsTable(_version(table), table) for mesh, table in wanted.items()}
        for proxy, mesh in self._sidecars.items():
            if mesh in made:
                self._delivery.offer_dns(proxy, made[mesh])


def _version(table: Map[str, str]) -> str:
    text = "\n".join(f"{name} {vip}" for name, vip in sorted(table.items()))
    return blake2b(text.encode(), digest_size=8).hexdigest()
