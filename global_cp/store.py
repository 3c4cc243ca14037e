"""What the HTTP API shows and writes on global (`shared.api.store.ResourceStore`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from global_cp.follow import GlobalOwner
from shared.api.plane import Observing, considered, listed, proxy_rows, proxy_statuses, sealed_commands, versions
from shared.api.store import ProxyRow, ProxyStatus, Put, Remove, ServiceStatus, Written
from shared.events.decide import Rejected
from shared.events.proxy_conditions import KINDS as PROXY_KINDS
from shared.events.proxy_conditions import served_in
from shared.events.sealing import Seal
from shared.events.state import Stored, ZoneState
from shared.history.supposed import Considered
from shared.model.resource import ResourceKey
from shared.nats.log import JetStreamLog
from shared.process import events as event_pages


class GlobalStore:
    """Reads every origin that global knows, writes global's own. `statuses_by_zone` is kept by the status followers."""

    def __init__(
        self,
        owner: GlobalOwner,
        seal: Seal,
        logs: Mapping[str, JetStreamLog],
        statuses_by_zone: Mapping[str, Mapping[str, ServiceStatus]],
    ) -> None:
        self._owner = owner
        self._seal = seal
        self._logs = logs
        self._statuses = statuses_by_zone

    async def get(self, key: ResourceKey) -> Stored | None:
        """See ResourceStore."""
        state = self._owner.state
        log = state.hub if not key.zone else state.zones.get(key.zone)
        return None if log is None else log.resources.get(key)

    async def list(self, kind: str, mesh: str | None = None) -> Sequence[Stored]:
        """See ResourceStore."""
        state = self._owner.state
        return listed((state.hub, *state.zones.values()), kind, mesh)

    async def write(self, commands: Sequence[Put | Remove], actor: str) -> Written | Rejected:
        """See ResourceStore."""
        sealed, wraps, warnings = sealed_commands(commands, self._seal)
        decision, written = await self._owner.write(sealed, actor=actor, wraps=wraps)
        if isinstance(decision, Rejected):
            return decision
        return Written(versions(decision.results, written), warnings + decision.warnings, self._owner.state.hub.n)

    async def consider(self, commands: Sequence[Put | Remove]) -> Considered | Rejected:
        """See ResourceStore."""
        sealed, wraps, warnings = sealed_commands(commands, self._seal)
        decision, state = self._owner.judge(sealed, wraps), self._owner.state
        zones = tuple(ZoneState(zone, state.hub, own) for zone, own in sorted(state.zones.items()))
        return considered(state.hub, decision, warnings, zones)

    async def events(self, origin: str, after: int, until: int | None, limit: int) -> tuple[Sequence[bytes], int]:
        """See ResourceStore."""
        return await event_pages.page(self._logs[origin], after, until, limit)

    def follow_events(self, origin: str, after: int) -> AsyncIterator[bytes]:
        """See ResourceStore."""
        return event_pages.follow(self._logs[origin], after)

    async def statuses(self) -> Sequence[ServiceStatus]:
        """See ResourceStore."""
        return [row for zone in sorted(self._statuses) for _, row in sorted(self._statuses[zone].items())]

    async def proxy_statuses(self, kind: str, sees: Callable[[str], bool]) -> Sequence[ProxyStatus]:
        """See ResourceStore."""
        state = self._owner.state
        logs = {zone: log for zone, log in sorted(state.zones.items()) if sees(zone)}
        served = {zone: served_in(log) for zone, log in logs.items()}
        return [
            row
            for zone, log in logs.items()
            for row in proxy_statuses(kind, state.hub, log, zone, served, self._observed(zone))
        ]

    def _observed(self, zone: str) -> Observing:
        """What a zone says of its proxies beside what its log does."""
        rows = self._statuses.get(zone, {}).values()
        said = {(row.kind, row.mesh, row.name): row.conditions for row in rows if row.kind in PROXY_KINDS}
        return lambda key: said.get((key.kind, key.mesh, key.name), ())

    async def proxies(self) -> Sequence[ProxyRow]:
        """See ResourceStore."""
        return [row for zone, log in self._owner.state.zones.items() for row in proxy_rows(zone, log)]

    async def inspect(self, proxy: str) -> Mapping[str, Any] | None:
        """See ResourceStore: what a proxy holds is known in its zone."""
        return None
