"""The zone's word on each service: derived conditions and observed ones, recorded at their transitions.

Rows go to the zone's status stream, never to the resource log (decision 30). They are computed behind the
proxies' back: after a change was published, and never more than a fifth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import msgspec
import structlog
from immutables import Map

from shared.api.store import ServiceStatus, StatusCondition
from shared.events.conditions import Delivery, Observed, ServiceRow, service_rows
from shared.events.external_hosts import with_doors
from shared.events.legacy_conditions import legacy_rows
from shared.events.log import LogUnavailable
from shared.events.state import ZoneState
from shared.model.kinds import is_door, is_legacy
from shared.model.resource import ResourceKey
from shared.nats.status import StatusStream
from shared.process.lull import Pause, at_once
from zone_cp.gateway_conditions import Closed, Degraded, GatewayRows
from zone_cp.view.zone_view import Difference, ExternalServiceView, Failure, ZoneView
from zone_cp.xds.parts import OF_SOME

PAUSE_FACTOR = 4
"""Pause after each computation, as a multiple of what it took."""
RETRY_SECONDS = 0.5
PIECE = 32
"""Services whose rows are computed in one turn of the loop (some milliseconds, in which no change is served), and rows
that are recorded between two lulls."""
SETTLE_SECONDS = 0.05
"""How long conditions may lag behind what proxies hold."""
SERVICES, LEGACY, GATEWAYS = "mes", "es", "mgw"
"""What the keys of rows begin with; others in the stream are not the board's."""
_KINDS = (SERVICES, LEGACY, GATEWAYS)
UNKNOWN = b"?"
"""What an earlier run wrote: differs from every row."""

log = structlog.get_logger(__name__)


class StatusBoard:
    """Knows what the zone's conditions are and records what changed. Belongs to one event loop.

    Only rows are computed anew that an event, ACK, NACK or observation touches, and those of which a condition does not
    hold: that may follow from what another service, a generator or an address range does.
    """

    def __init__(
        self,
        zone: str,
        stream: StatusStream,
        present: Callable[[], tuple[ZoneState, ZoneView] | None],
        failures: Callable[[], Mapping[ResourceKey, Failure]],
        closed: Callable[[], Closed] = Map,
        *,
        impaired: Callable[[], Degraded] = Map,
        pause: Pause = at_once,
    ) -> None:
        self._zone = zone
        self._stream = stream
        self._present = present
        self._failures = failures
        self._closed_listeners, self._impaired, self._pause = closed, impaired, pause
        self._gateways = GatewayRows()
        self._acked: ZoneView | None = None
        self._acked_at = ""
        self._since: dict[ResourceKey, tuple[ExternalServiceView, str]] = {}
        self._waiting: tuple[str, ...] = ()
        self._nacks: dict[str, str] = {}
        self._observed: dict[str, dict[str, Observed]] = {}
        self._written: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self._everything = True
        self._touched: set[ResourceKey] = set()
        self._meshes: set[str] = set()
        self._unacked: set[ResourceKey] = set()
        self._unsettled: set[ResourceKey] = set()
        self._closed: Mapping[ResourceKey, Failure] = {}
        self._clusters: dict[str, ResourceKey] = {}
        self._unwritten: set[str] = set()
        self._position = ""
        self.rows: dict[str, ServiceStatus] = {}

    # --- facts come in -------------------------------------------------------------------------------------

    def changed(self, difference: Difference | None = None) -> None:
        """The state moved; None: nobody knows what differs."""
        if difference is None or difference.generators or difference.settings or difference.egresses:
            self._everything = True
        else:
            self._touched.update(difference.declared)
            self._meshes.update(name for name, fields in difference.meshes.items() if not fields <= OF_SOME)
            for keys in difference.services.values():
                self._touched.update(keys)
        self._gateways.changed(difference)
        self._wake.set()

    def delivered(self, view: ZoneView | None, waiting: tuple[str, ...], at: str) -> None:
        """Every egress has ACKed `view`; `waiting` are those that have not ACKed the newest one."""
        self._acked, self._waiting, self._acked_at = view, waiting, at
        self._touched |= self._unacked
        self._wake.set()

    def nacked(self, cluster: str, message: str) -> None:
        """An egress refused a service's cluster; "" takes it back."""
        if message:
            self._nacks[cluster] = message
        else:
            self._nacks.pop(cluster, None)
        self._touch(cluster)

    def observed(self, proxy: str, cluster: str, seen: Observed) -> None:
        """A proxy saw a destination fail, or work again."""
        self._observed.setdefault(cluster, {})[proxy] = seen
        self._touch(cluster)

    def _touch(self, cluster: str) -> None:
        key = self._clusters.get(cluster)
        if key is not None:  # else its row is computed when there is one
            self._touched.add(key)
        self._wake.set()

    # --- rows go out ---------------------------------------------------------------------------------------

    def statuses(self) -> dict[str, ServiceStatus]:
        """All rows, each at the newest moment."""
        return {token: msgspec.structs.replace(row, position=self._position) for token, row in self.rows.items()}

    async def recall(self) -> None:
        """Learn what an earlier run recorded, so that rows of what is gone are cleared. Raises LogUnavailable."""
        keys = await self._stream.keys()
        self._written = dict.fromkeys((key for key in keys if key.partition(".")[0] in _KINDS), UNKNOWN)

    async def run(self) -> None:
        """For ever: after each change compute the rows and record those that differ."""
        while True:
            await self._wake.wait()
            # Proxies first: what a change makes of the conditions is looked at when it has reached them.
            await asyncio.sleep(SETTLE_SECONDS)
            await self._pause()
            self._wake.clear()
            tokens, spent = set[str](), 0.0
            started = time.perf_counter()
            for part in self._pieces():
                spent += time.perf_counter() - started
                tokens |= part
                await asyncio.sleep(0)  # an egress that comes or goes is news of all services
                started = time.perf_counter()
            await self._record(tokens)
            await asyncio.sleep(spent * PAUSE_FACTOR)

    def compute(self) -> set[str]:
        """Bring the rows up to date that may differ; returns which they are."""
        return set[str]().union(*self._pieces())

    def _pieces(self) -> Iterator[set[str]]:
        """`compute`, a piece at a time. What comes in between is looked at the next time."""
        present = self._present()
        if present is None:
            return
        state, view = present
        closed, before = self._failures(), self._closed
        keys = with_doors(state.hub, self._due(state, view))
        keys.update(key for key in {*closed, *before} if closed.get(key) != before.get(key))
        self._closed, position = closed, str(state.position)
        delivery: dict[ResourceKey, Delivery] = {}
        observed: dict[ResourceKey, Observed] = {}
        pieces = [set(piece) for piece in _cut(keys)]
        for piece in pieces:
            for key in piece:
                self._look(key, view, delivery, observed)
            yield set()
        said = (state.hub, state.own, self._zone)
        for piece in pieces:
            found = (
                *service_rows(*said, delivery=delivery, observed=observed, keys=piece),
                *legacy_rows(*said, delivery=delivery, observed=observed, keys=piece),
            )
            yield self._take({key for key in piece if not is_door(key)}, found, position)
        gateways, rows = self._gateways.due(state, view, self._closed_listeners(), self._impaired())
        yield self._take(gateways, rows, position)
        self._position = position

    def _look(
        self,
        key: ResourceKey,
        view: ZoneView,
        delivery: dict[ResourceKey, Delivery],
        observed: dict[ResourceKey, Observed],
    ) -> None:
        """How far a service has come, and what proxies see of it."""
        mesh = view.meshes.get(key.mesh)
        service = mesh.services.get(key) if mesh is not None else None
        self._hold(key, service)
        if service is not None:
            delivery[key] = self._delivery(service, self._closed.get(key))
            if service.cluster in self._observed:
                observed[key] = _latest(self._observed[service.cluster].values())

    def _due(self, state: ZoneState, view: ZoneView) -> set[ResourceKey]:
        """The services whose rows are to be computed now."""
        everything, self._everything = self._everything, False
        touched, self._touched = self._touched, set()
        meshes, self._meshes = self._meshes, set()
        if everything:
            kinds = ("MeshExternalService", "ExternalService")
            known = [set(log.kinds.get(kind, Map())) for log in (state.hub, state.own) for kind in kinds]
            return touched.union(*known, self._unsettled, self._since, self._clusters.values())
        for name in meshes & set(view.meshes):
            touched.update(view.meshes[name].services)
        return touched | self._unsettled

    def _hold(self, key: ResourceKey, service: ExternalServiceView | None) -> None:
        """Whether every egress holds a service as it is, and since when: an ACK of another one is no news of it."""
        acked = self._acked.meshes.get(key.mesh) if self._acked is not None else None
        known, at = self._since.pop(key, (None, ""))
        if known is not None and self._clusters.get(known.cluster) == key:
            del self._clusters[known.cluster]
        self._unacked.discard(key)
        if service is None:
            return
        self._clusters[service.cluster] = key
        if acked is not None and acked.services.get(key) == service:
            self._since[key] = (service, at if known == service else self._acked_at)
        else:
            self._unacked.add(key)

    def _delivery(self, service: ExternalServiceView, failure: Failure | None) -> Delivery:
        acked = service.key in self._since
        _, at = self._since.get(service.key, (None, ""))
        waiting = () if acked else self._waiting
        if failure is not None:
            said = f"{failure.field}: {failure.message}" if failure.field else failure.message
            return Delivery(acked, waiting, said, at, failure.reason)
        return Delivery(acked, waiting, self._nacks.get(service.cluster, ""), at)

    def _take(self, keys: set[ResourceKey], found: Iterable[ServiceRow], position: str) -> set[str]:
        computed: set[str] = set()
        for row in found:
            key = ResourceKey(row.kind, row.mesh, row.name, self._zone if row.origin == "zone" else "")
            token = _token(key)
            computed.add(token)
            self.rows[token] = _shown(row, position, self.rows.get(token))
            if key.kind == "MeshGateway" or all(one.status == "True" for one in row.conditions):
                self._unsettled.discard(key)
            else:
                self._unsettled.add(key)
        for key in keys:
            if (token := _token(key)) not in computed:
                self.rows.pop(token, None)
                self._unsettled.discard(key)
        return {_token(key) for key in keys}

    async def _record(self, tokens: set[str]) -> None:
        gone = (token for token, said in self._written.items() if said is UNKNOWN and token not in self.rows)
        waiting = sorted({*tokens, *self._unwritten, *gone})
        self._unwritten = set(waiting)
        for number, token in enumerate(waiting, start=1):
            if number % PIECE == 0:
                await self._pause()
            row = self.rows.get(token)
            # Positions move with every event; a row is news only when it says something else.
            says = b"" if row is None else msgspec.json.encode(_without_positions(row))
            if self._written.get(token, b"") != says:
                try:
                    await self._stream.put(token, b"" if row is None else msgspec.json.encode(row))
                except LogUnavailable as error:
                    log.warning("cannot record status now", error=str(error))
                    await asyncio.sleep(RETRY_SECONDS)
                    self._wake.set()
                    return
            if row is None:
                self._written.pop(token, None)
            else:
                self._written[token] = says
            self._unwritten.discard(token)


def _cut(keys: Iterable[ResourceKey]) -> Iterator[tuple[ResourceKey, ...]]:
    left = iter(keys)
    while piece := tuple(islice(left, PIECE)):
        yield piece


def _latest(seen: Iterable[Observed]) -> Observed:
    """The failure that any proxy sees, or else that the last one to look saw it work."""
    return max(seen, key=lambda one: (one.failing, one.at))


def _token(key: ResourceKey) -> str:
    kind = GATEWAYS if key.kind == "MeshGateway" else LEGACY if is_legacy(key) else SERVICES
    return f"{kind}.{key.mesh}.{key.zone or '_'}.{key.name}"


def _shown(row: ServiceRow, position: str, before: ServiceStatus | None) -> ServiceStatus:
    known = {_said(one): one.position for one in before.conditions} if before is not None else {}
    conditions = []
    for one in row.conditions:
        made = StatusCondition(one.type, one.status, one.reason, one.message, one.at)
        # A condition that says what it said before was computed then; the row's own position is always the newest.
        conditions.append(msgspec.structs.replace(made, position=known.get(_said(made), position)))
    return ServiceStatus(
        zone=row.zone,
        mesh=row.mesh,
        name=row.name,
        origin=row.origin,
        protocol=row.protocol,
        port=row.port,
        vip=row.vip,
        hostnames=row.hostnames,
        conditions=tuple(conditions),
        position=position,
        kind=row.kind,
    )


def _said(one: StatusCondition) -> tuple[str, ...]:
    return one.type, one.status, one.reason, one.message


def _without_positions(row: ServiceStatus) -> ServiceStatus:
    conditions = tuple(msgspec.structs.replace(one, position="") for one in row.conditions)
    return msgspec.structs.replace(row, position="", conditions=conditions)
