"""The zone's word on each service: derived conditions and observed ones, recorded at their transitions.

Rows go to the zone's status stream, never to the resource log (decision 30). They are computed behind the
proxies' back: after a change was published, and never more than a fifth of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import structlog

from shared.api.store import ServiceStatus, StatusCondition
from shared.events.conditions import Delivery, Observed, ServiceRow, service_rows
from shared.events.log import LogUnavailable
from shared.events.state import ZoneState
from shared.model.resource import ResourceKey
from shared.nats.status import StatusStream
from zone_cp.view.zone_view import ExternalServiceView, Failure, ZoneView

PAUSE_FACTOR = 4
"""Pause after each computation, as a multiple of what it took."""
RETRY_SECONDS = 0.5
SETTLE_SECONDS = 0.05
"""How long conditions may lag behind what proxies hold."""
UNKNOWN = b"?"
"""What an earlier run wrote: differs from every row."""

log = structlog.get_logger(__name__)


class StatusBoard:
    """Knows what the zone's conditions are and records what changed. Belongs to one event loop."""

    def __init__(
        self,
        zone: str,
        stream: StatusStream,
        present: Callable[[], tuple[ZoneState, ZoneView] | None],
        failures: Callable[[], Mapping[ResourceKey, Failure]],
    ) -> None:
        self._zone = zone
        self._stream = stream
        self._present = present
        self._failures = failures
        self._acked: ZoneView | None = None
        self._acked_at = ""
        self._since: dict[ResourceKey, tuple[ExternalServiceView, str]] = {}
        self._waiting: tuple[str, ...] = ()
        self._nacks: dict[str, str] = {}
        self._observed: dict[tuple[str, str], Observed] = {}
        self._written: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self.rows: dict[str, ServiceStatus] = {}

    # --- facts come in -------------------------------------------------------------------------------------

    def changed(self) -> None:
        """The state moved."""
        self._wake.set()

    def delivered(self, view: ZoneView | None, waiting: tuple[str, ...], at: str) -> None:
        """Every egress has ACKed `view`; `waiting` are those that have not ACKed the newest one."""
        self._acked, self._waiting, self._acked_at = view, waiting, at
        self._wake.set()

    def nacked(self, cluster: str, message: str) -> None:
        """An egress refused a service's cluster; "" takes it back."""
        if message:
            self._nacks[cluster] = message
        else:
            self._nacks.pop(cluster, None)
        self._wake.set()

    def observed(self, proxy: str, cluster: str, seen: Observed) -> None:
        """A proxy saw a destination fail, or work again."""
        self._observed[proxy, cluster] = seen
        self._wake.set()

    # --- rows go out ---------------------------------------------------------------------------------------

    async def recall(self) -> None:
        """Learn what an earlier run recorded, so that rows of what is gone are cleared. Raises LogUnavailable."""
        self._written = dict.fromkeys(await self._stream.keys(), UNKNOWN)

    async def run(self) -> None:
        """For ever: after each change compute the rows and record those that differ."""
        while True:
            await self._wake.wait()
            # Proxies first: what a change makes of the conditions is looked at when it has reached them.
            await asyncio.sleep(SETTLE_SECONDS)
            self._wake.clear()
            started = time.perf_counter()
            present = self._present()
            if present is None:
                continue
            rows = self._compute(*present)
            spent = time.perf_counter() - started
            await self._record(rows)
            await asyncio.sleep(spent * PAUSE_FACTOR)

    def _compute(self, state: ZoneState, view: ZoneView) -> dict[str, ServiceStatus]:
        services = {key: one for mesh in view.meshes.values() for key, one in mesh.services.items()}
        closed = self._failures()
        self._since = dict(self._acked_services(services))
        delivery = {key: self._delivery(one, closed.get(key)) for key, one in services.items()}
        latest = self._latest()
        observed = {key: latest[one.cluster] for key, one in services.items() if one.cluster in latest}
        rows = service_rows(state.hub, state.own, self._zone, delivery=delivery, observed=observed)
        found = {}
        for row in rows:
            key = ResourceKey("MeshExternalService", row.mesh, row.name, self._zone if row.origin == "zone" else "")
            token = _token(key)
            found[token] = _shown(row, str(state.position), self.rows.get(token))
        return found

    def _acked_services(
        self, services: Mapping[ResourceKey, ExternalServiceView]
    ) -> Iterator[tuple[ResourceKey, tuple[ExternalServiceView, str]]]:
        """Those that every egress holds as they are, and since when: an ACK of another service is no news of theirs."""
        for key, service in services.items():
            mesh = self._acked.meshes.get(service.mesh) if self._acked is not None else None
            if mesh is None or mesh.services.get(key) != service:
                continue
            known, at = self._since.get(key, (None, ""))
            yield key, (service, at if known == service else self._acked_at)

    def _delivery(self, service: ExternalServiceView, failure: Failure | None) -> Delivery:
        acked = service.key in self._since
        _, at = self._since.get(service.key, (None, ""))
        waiting = () if acked else self._waiting
        if failure is not None:
            said = f"{failure.field}: {failure.message}" if failure.field else failure.message
            return Delivery(acked, waiting, said, at, failure.reason)
        return Delivery(acked, waiting, self._nacks.get(service.cluster, ""), at)

    def _latest(self) -> dict[str, Observed]:
        """Per cluster: the failure that any proxy sees, or else that the last one to look saw it work."""
        found: dict[str, Observed] = {}
        for (_, cluster), seen in self._observed.items():
            known = found.get(cluster)
            if known is None or (seen.failing, seen.at) > (known.failing, known.at):
                found[cluster] = seen
        return found

    async def _record(self, rows: dict[str, ServiceStatus]) -> None:
        self.rows = rows
        for token in [*rows, *(one for one in self._written if one not in rows)]:
            row = rows.get(token)
            data = b"" if row is None else msgspec.json.encode(row)
            # Positions move with every event; a row is news only when it says something else.
            says = b"" if row is None else msgspec.json.encode(_without_positions(row))
            if self._written.get(token) == says:
                continue
            try:
                await self._stream.put(token, data)
            except LogUnavailable as error:
                log.warning("cannot record status now", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()
                return
            if row is None:
                self._written.pop(token, None)
            else:
                self._written[token] = says


def _token(key: ResourceKey) -> str:
    return f"mes.{key.mesh}.{key.zone or '_'}.{key.name}"


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
    )


def _said(one: StatusCondition) -> tuple[str, ...]:
    return one.type, one.status, one.reason, one.message


def _without_positions(row: ServiceStatus) -> ServiceStatus:
    conditions = tuple(msgspec.structs.replace(one, position="") for one in row.conditions)
    return msgspec.structs.replace(row, position="", conditions=conditions)
