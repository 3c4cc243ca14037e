"""Addresses: what a sidecar's Envoy cannot listen at because another process of its host does (decision 26).

Only that proxy is concerned: its condition says what Envoy said, and it is tried again every TRY_SECONDS, one listener
at a time, and all of them as soon as one is taken. Until then what its application sends there reaches the other
process, and leaves as that one. Where that is another sidecar of the zone, the two do not share the VIPs at random:
the one that was refused is given none of them, also none that are new, until the other is gone.

It stands between the publisher and the guard, since what is offered follows from it. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import msgspec
import structlog

from shared.api.store import ServiceStatus, StatusCondition
from shared.events.event import Change, VipsYielded
from shared.events.log import LogUnavailable
from shared.events.state import Position, ProxyStatus, ZoneState
from shared.model.resource import Dataplane, ResourceKey
from shared.nats.status import StatusStream
from shared.pb.agent_pb2 import ListenerLost
from shared.process.writer import event_time
from zone_cp.ads.delivery import NOTHING
from zone_cp.ads.facts import Acked, Nacked
from zone_cp.ads.hub import Hub
from zone_cp.ads.names import DnsTable
from zone_cp.ads.subscription import Subscription
from zone_cp.follow import SYSTEM, Decided
from zone_cp.publish import Delivery
from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.snapshot import LISTENER, Snapshot
from zone_cp.yielding import PREFIX, at_vips, without_vips

TRY_SECONDS = 2.0
TOLD = 3
"""Addresses that a condition names; it says how many more there are."""
KEYS = "dp."
"""What the keys of rows in the zone's status stream begin with."""
CONDITION, TAKEN, CANNOT = "Listening", "AddressTaken", "CannotListen"
OF_THE_HOST = ("cannot bind", "cannot listen", "Address already in use", "Permission denied", "unable to open file")
"""How Envoy says that a listener's address, or the file of its access log, is not to be had on this host."""
_DENIED = ": Permission denied"
_MEND = "; ports below 1024 need root, the capability CAP_NET_BIND_SERVICE, or `zonal proxy redirect`"
_IN_USE = ("in use", "errno=98")

log = structlog.get_logger(__name__)


class Next(Delivery, Protocol):
    """What stands behind (`zone_cp.guard.Guard`)."""

    def forget(self, proxy: str) -> None:
        """Drop what was offered to a proxy that is another now, or gone for good."""


class _Taken(msgspec.Struct):
    version: str
    reason: str
    since: str


class _Trouble(msgspec.Struct):
    """What one sidecar cannot listen at. taken: by listener; lost: listeners that Envoy dropped before their ACK was
    here, and why; rival: who has the VIPs that it yields, "" while it yields none.
    """

    taken: dict[str, _Taken] = msgspec.field(default_factory=dict)
    lost: dict[str, str] = msgspec.field(default_factory=dict)
    rival: str = ""


class Addresses:
    """present: the state and the view that are published, None before the first. stream: where rows go for global.
    record: as `Recorder.record`.
    """

    def __init__(
        self,
        after: Next,
        hub: Hub,
        stream: StatusStream,
        present: Callable[[], tuple[ZoneState, ZoneView] | None],
        record: Callable[[Decided, str], None],
    ) -> None:
        self._after = after
        self._hub = hub
        self._stream = stream
        self._present = present
        self._record = record
        self._offered: dict[str, Snapshot] = {}
        self._left: set[str] = set()
        self._without: set[str] = set()
        self._troubles: dict[str, _Trouble] = {}
        self._written: dict[str, bytes] = {}
        self._wake = asyncio.Event()

    # --- what the publisher says ---------------------------------------------------------------------------------

    def offer(self, proxy: str, snapshot: Snapshot, leads_to: Snapshot | None = None) -> None:
        """See Delivery: without VIPs where the log says that it yields."""
        self._offered[proxy] = snapshot
        self._left.discard(proxy)
        self._without.discard(proxy)
        present = self._present()
        if present is not None and proxy in present[0].own.yields:
            snapshot = leads_to = without_vips(present[1], snapshot)
            self._without.add(proxy)
        self._after.offer(proxy, snapshot, leads_to)

    def advance(self, position: Position) -> None:
        """See Delivery. Who yields since this moment, or yields no more, is offered what it has anew."""
        present = self._present()
        yields = present[0].own.yields if present is not None else ()
        for proxy in self._without.symmetric_difference(yields) if self._without or yields else ():
            # What is not up to date is offered in a moment anyway.
            if proxy in self._offered and proxy not in self._left:
                self.offer(proxy, msgspec.structs.replace(self._offered[proxy], position=position))
                if (trouble := self._troubles.get(proxy)) is not None:
                    self._forgive(proxy, trouble, tuple(trouble.taken))
        self._after.advance(position)

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """See Delivery."""
        self._left.add(proxy)
        self._after.leave(proxy, position)

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """See Delivery."""
        self._after.offer_dns(proxy, table)

    def forget(self, proxy: str) -> None:
        """What comes under its name next is another."""
        self._offered.pop(proxy, None)
        self._left.discard(proxy)
        self._without.discard(proxy)
        self.gone(proxy)
        self._after.forget(proxy)

    # --- what proxies say ----------------------------------------------------------------------------------------

    def refused(self, proxy: str, nack: Nacked) -> bool:
        """Take a NACK in; whether it is about what is to be had on the proxy's host, and so says nothing of others."""
        if nack.type_url != LISTENER or not any(sign in nack.message for sign in OF_THE_HOST):
            return False
        for name, version in nack.rejected:
            self._take(proxy, name, version, nack.message.strip())
        return True

    def lost(self, proxy: str, said: ListenerLost) -> None:
        """The proxy's Envoy accepted a listener, and could not listen when it was ready for it."""
        name, reason = said.name, said.reason
        for subscription in self._subscriptions(proxy):
            if (version := subscription.lose(name, reason)) is not None:
                self._take(proxy, name, version, reason)
            elif name in subscription.known:  # its ACK comes on another stream
                self._troubles.setdefault(proxy, _Trouble()).lost[name] = reason

    def accepted(self, proxy: str, ack: Acked) -> None:
        """Take an ACK in: what is accepted is listened at."""
        trouble = self._troubles.get(proxy)
        if trouble is None or ack.type_url != LISTENER:
            return
        got = [name for name, _ in ack.versions if trouble.taken.pop(name, None) is not None]
        if got:
            log.info("listening again", proxy=proxy, listeners=got)
            self._wake.set()
            self._forgive(proxy, trouble, tuple(trouble.taken))
        for name, _ in ack.versions:
            if (reason := trouble.lost.pop(name, None)) is not None:
                self.lost(proxy, ListenerLost(name=name, reason=reason))

    def gone(self, proxy: str) -> None:
        """The proxy has no stream any more: another may have its place, and it is tried anew when it is back."""
        trouble = self._troubles.pop(proxy, None)
        if trouble is not None or self._troubles:
            self._wake.set()
        if trouble is not None and trouble.rival:
            self._record(self._changes, SYSTEM)

    def _take(self, proxy: str, name: str, version: str, reason: str) -> None:
        taken = self._troubles.setdefault(proxy, _Trouble()).taken
        known = taken.get(name)
        taken[name] = _Taken(version, reason, event_time() if known is None else known.since)
        if known is None:
            log.warning("address taken", proxy=proxy, listener=name, reason=reason)
            self._wake.set()

    # --- what follows --------------------------------------------------------------------------------------------

    def conditions(self, key: ResourceKey) -> tuple[StatusCondition, ...]:
        """What there is to say of a Dataplane."""
        return tuple(self._condition(proxy, trouble) for place, proxy, trouble in self._told() if place == key)

    def _told(self) -> Iterator[tuple[ResourceKey, str, _Trouble]]:
        """The Dataplanes of which there is something to say, and the proxies that they are."""
        present = self._present()
        if present is None:
            return
        for proxy, trouble in self._troubles.items():
            status = present[0].own.proxies.get(proxy)
            if status is not None and trouble.taken:
                yield status.key, proxy, trouble

    def _condition(self, proxy: str, trouble: _Trouble) -> StatusCondition:
        taken, since = trouble.taken, min(one.since for one in trouble.taken.values())
        names = sorted(name for name, one in taken.items() if _in_use(one)) or sorted(taken)
        listed = ", ".join(name.removeprefix(PREFIX) for name in names[:TOLD])
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        said = f"Envoy says: {taken[names[0]].reason}"
        if not _in_use(taken[names[0]]):
            mend = _MEND if _DENIED in said else ""
            told = f"it cannot listen at {listed}{more} as it should, on its host. {said}{mend}"
            return StatusCondition(CONDITION, "False", CANNOT, told, since)
        holder = trouble.rival or self._holder(proxy, names)
        who = f"proxy {holder}" if holder else "another process of its host"
        yields = "; it is given no VIP while that is so" if trouble.rival else ""
        told = (
            f"{who} listens at {listed}{more}, and what its application sends there leaves as that one{yields}: give "
            f"each sidecar a network namespace or outbounds of its own. {said}"
        )
        return StatusCondition(CONDITION, "False", TAKEN, told, since)

    async def run(self) -> None:
        """For ever: look who yields to whom, try again what is taken, and tell global."""
        await self._recall()
        self._record(self._changes, SYSTEM)  # who yielded in an earlier life is refused again, or is not
        while True:
            for proxy, trouble in list(self._troubles.items()):
                self._look(proxy, trouble)
            await self._tell()
            try:
                async with asyncio.timeout(TRY_SECONDS if self._troubles else None):
                    await self._wake.wait()
            except TimeoutError:
                for proxy, trouble in self._troubles.items():
                    if not trouble.rival:
                        self._forgive(proxy, trouble, tuple(trouble.taken)[:1])
            self._wake.clear()

    def _look(self, proxy: str, trouble: _Trouble) -> None:
        """Bring what is said of a proxy up to date, and whether it yields."""
        offered, taken = self._offered.get(proxy), trouble.taken
        listeners = offered.resources.get(LISTENER, NOTHING) if offered is not None else NOTHING
        for name in [name for name in taken if name not in listeners]:
            del taken[name]
        before, trouble.rival = trouble.rival, self._rival(proxy, taken) if taken else ""
        if not (taken or trouble.lost or trouble.rival):
            del self._troubles[proxy]
        if before == trouble.rival:
            return
        if trouble.rival:
            log.warning("proxy is given no VIPs", proxy=proxy, rival=trouble.rival)
        else:
            log.info("proxy is given VIPs again", proxy=proxy)
        self._record(self._changes, SYSTEM)

    def _changes(self, state: ZoneState) -> Sequence[Change]:
        """What the log does not say yet of who yields to whom."""
        recorded = {proxy: one.to for proxy, one in state.own.yields.items()}
        yields = {proxy: trouble.rival for proxy, trouble in self._troubles.items() if trouble.rival}
        wanted = dict.fromkeys(recorded, "") | yields
        return [VipsYielded(proxy=one, to=to) for one, to in sorted(wanted.items()) if recorded.get(one) != to]

    def _rival(self, proxy: str, taken: Iterable[str]) -> str:
        """The sidecar of the same host that has VIPs which this one was refused, "" where there is none.

        Of two that have some of each other's, which happens when both are given them at once, the first by name stays.
        """
        other = self._holder(proxy, self._vips(taken))
        theirs = self._troubles.get(other)
        if theirs is not None and proxy < other and any(self._holds(proxy, one) for one in self._vips(theirs.taken)):
            return ""
        return other

    def _holder(self, proxy: str, names: Iterable[str]) -> str:
        """Another proxy at the same address that holds one of these listeners, "" where there is none."""
        present = self._present()
        if present is None:
            return ""
        own, names = present[0].own, tuple(names)
        mine = own.proxies.get(proxy)
        place = _place(present[0], mine)
        for other, status in sorted(own.proxies.items()):
            if other == proxy or not status.online or not place or _place(present[0], status) != place:
                continue
            if any(self._holds(other, name) for name in names):
                return other
        return ""

    def _holds(self, proxy: str, name: str) -> bool:
        return any(name in one.held for one in self._subscriptions(proxy))

    def _subscriptions(self, proxy: str) -> Iterator[Subscription]:
        for stream in self._hub.streams_of(proxy):
            if (subscription := stream.xds.subscription(LISTENER)) is not None:
                yield subscription

    def _vips(self, listeners: Iterable[str]) -> list[str]:
        present = self._present()
        return [] if present is None else at_vips(present[1], listeners)

    def _forgive(self, proxy: str, trouble: _Trouble, names: tuple[str, ...]) -> None:
        """Let these be sent again; they go to the end of those that wait."""
        for name in names:
            one = trouble.taken[name] = trouble.taken.pop(name)
            for stream in self._hub.streams_of(proxy):
                if (subscription := stream.xds.subscription(LISTENER)) is not None:
                    subscription.forgive(name, one.version)
                    stream.ring()

    # --- telling global ------------------------------------------------------------------------------------------

    async def _recall(self) -> None:
        """What an earlier life wrote says nothing of this one."""
        try:
            self._written = {key: b"?" for key in await self._stream.keys() if key.startswith(KEYS)}
        except LogUnavailable as error:
            log.warning("cannot look up what was said of addresses", error=str(error))

    def _rows(self) -> Iterator[tuple[str, bytes]]:
        for key, proxy, trouble in self._told():
            said = (self._condition(proxy, trouble),)
            row = ServiceStatus(key.zone, key.mesh, key.name, "zone", "", 0, "", (), said, kind="Dataplane")
            yield f"{KEYS}{key.mesh}.{key.zone}.{key.name}", msgspec.json.encode(row)

    async def _tell(self) -> None:
        rows = dict(self._rows())
        for token in {*rows, *self._written}:
            says = rows.get(token, b"")
            if self._written.get(token, b"") == says:
                continue
            try:
                await self._stream.put(token, says)
            except LogUnavailable as error:
                log.warning("cannot record addresses now", error=str(error))
                self._wake.set()
                await asyncio.sleep(TRY_SECONDS)
                return
            if says:
                self._written[token] = says
            else:
                del self._written[token]


def _in_use(one: _Taken) -> bool:
    return any(sign in one.reason for sign in _IN_USE)


def _place(state: ZoneState, status: ProxyStatus | None) -> str:
    """The address that a sidecar says its host has, "" for what is none."""
    stored = state.own.resources.get(status.key) if status is not None else None
    resource = stored.resource if stored is not None else None
    return resource.networking.address if isinstance(resource, Dataplane) else ""
