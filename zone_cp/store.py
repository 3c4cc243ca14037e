"""What the HTTP API shows and writes in a zone (`shared.api.store.ResourceStore`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shared.api.plane import Observing, considered, listed, proxy_rows, proxy_statuses, sealed_commands, versions
from shared.api.store import ProxyRow, ProxyStatus, Put, Remove, ServiceStatus, Written
from shared.events.cross_mesh_conditions import unmet_outbounds
from shared.events.decide import Command, Decision, Rejected, decide_write
from shared.events.event import Change, DataKeyWrapped
from shared.events.sealing import Seal
from shared.events.state import Stored, ZoneState
from shared.history.supposed import Considered
from shared.model.builtin import is_builtin
from shared.model.resource import Dataplane, ResourceKey
from shared.nats.log import JetStreamLog
from shared.process import events as event_pages
from shared.process.writer import event_time
from zone_cp.follow import ZoneOwner
from zone_cp.publish import Publisher
from zone_cp.view.project import proxy_view
from zone_cp.view.workloads import outbound_note
from zone_cp.view.zone_view import ProxyView
from zone_cp.xds.abroad import abroad_notes
from zone_cp.xds.gateway import gateway_notes
from zone_cp.xds.inspect import plain
from zone_cp.xds.outbound import within
from zone_cp.xds.proxyless import PROXYLESS


class _Refused(Exception):
    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.title)
        self.rejected = rejected


class ZoneStore:
    """Reads global's resources and the zone's own, writes the zone's own."""

    def __init__(
        self,
        owner: ZoneOwner,
        publisher: Publisher,
        seal: Seal,
        *,
        logs: Mapping[str, JetStreamLog],
        statuses: Callable[[], Mapping[str, ServiceStatus]],
        addresses: Observing,
        acked: Callable[[str], str],
        waits: Callable[[str], str],
        allowed: tuple[str, ...],
        reserved: tuple[str, ...],
    ) -> None:
        self._owner = owner
        self._publisher = publisher
        self._seal = seal
        self._logs = logs
        self._statuses = statuses
        self._addresses = addresses
        self._acked = acked
        self._waits = waits
        self._allowed = allowed
        self._reserved = reserved

    async def get(self, key: ResourceKey) -> Stored | None:
        """See ResourceStore."""
        state = self._owner.state
        if key.zone not in ("", state.zone):
            return None
        return state.resource(key)

    async def list(self, kind: str, mesh: str | None = None) -> Sequence[Stored]:
        """See ResourceStore."""
        state = self._owner.state
        return listed((state.hub, state.own), kind, mesh)

    async def write(self, commands: Sequence[Put | Remove], actor: str) -> Written | Rejected:
        """See ResourceStore."""
        sealed, wraps, warnings = sealed_commands(commands, self._seal)
        decisions: list[Decision] = []

        def decided(state: ZoneState) -> Sequence[Change]:
            decision = self._judge(state, sealed, wraps)
            if isinstance(decision, Rejected):
                raise _Refused(decision)
            decisions[:] = [decision]
            return decision.changes

        try:
            written = await self._owner.write(decided, actor=actor, causes=lambda: decisions[0].causes)
        except _Refused as refused:
            return refused.rejected
        decision = decisions[0]
        return Written(versions(decision.results, written), warnings + decision.warnings, self._owner.state.own.n)

    async def consider(self, commands: Sequence[Put | Remove]) -> Considered | Rejected:
        """See ResourceStore."""
        sealed, wraps, warnings = sealed_commands(commands, self._seal)
        state = self._owner.state
        return considered(state.own, self._judge(state, sealed, wraps), warnings, (state,))

    def _judge(
        self, state: ZoneState, commands: Sequence[Command], wraps: Sequence[DataKeyWrapped]
    ) -> Decision | Rejected:
        allowed, reserved = self._allowed, self._reserved
        return decide_write(
            commands,
            state.own,
            state.hub,
            state.zone,
            allowed=allowed,
            reserved=reserved,
            wraps=wraps,
            now=event_time(),
        )

    async def events(self, origin: str, after: int, until: int | None, limit: int) -> tuple[Sequence[bytes], int]:
        """See ResourceStore."""
        return await event_pages.page(self._logs[origin], after, until, limit)

    def follow_events(self, origin: str, after: int) -> AsyncIterator[bytes]:
        """See ResourceStore."""
        return event_pages.follow(self._logs[origin], after)

    async def statuses(self) -> Sequence[ServiceStatus]:
        """See ResourceStore."""
        return [row for _, row in sorted(self._statuses().items())]

    async def proxy_statuses(self, kind: str, sees: Callable[[str], bool]) -> Sequence[ProxyStatus]:
        """See ResourceStore."""
        state = self._owner.state
        if not sees(state.zone):
            return []
        return proxy_statuses(kind, state.hub, state.own, state.zone, observed=self._addresses)

    async def proxies(self) -> Sequence[ProxyRow]:
        """See ResourceStore."""
        state = self._owner.state
        rows = proxy_rows(state.zone, state.own)
        return [
            msgspec.structs.replace(row, acked=self._acked(row.proxy), waits=self._waits(row.proxy) or row.waits)
            for row in rows
        ]

    async def inspect(self, proxy: str) -> Mapping[str, Any] | None:
        """See ResourceStore."""
        known = proxy_view(self._owner.state, proxy)
        snapshot = None if known is None else self._publisher.compile(known)
        if known is None or snapshot is None:
            return None
        notes = list(self._notes(known))
        return {**({"Notes": notes} if notes else {}), **plain(snapshot)}

    def _notes(self, proxy: ProxyView) -> Iterator[str]:
        """What a reader of a sidecar's configuration should know: where its outbounds lead nowhere, and why."""
        view = self._publisher.view
        if view is None or not isinstance(proxy.resource, Dataplane):
            return
        mesh = view.meshes.get(proxy.resource.mesh)
        if mesh is not None and is_builtin(proxy.resource):
            yield from gateway_notes(mesh, proxy.resource, self._publisher.closed())
        if mesh is not None and mesh.mtls and not mesh.permissive and PROXYLESS in proxy.features:
            yield f"mesh {mesh.name} is STRICT: its inbounds refuse a proxyless client, which speaks plaintext"
        if mesh is not None and not is_builtin(proxy.resource) and PROXYLESS not in proxy.features:
            yield from unmet_outbounds(self._owner.state, proxy.resource)
            yield from abroad_notes(mesh, view.zone)
        for outbound in proxy.resource.networking.outbound if mesh is not None else ():
            if mesh is None or not within(mesh, outbound):
                continue
            if note := outbound_note(mesh.workloads, view.zone, outbound, mtls=mesh.mtls):
                yield note
