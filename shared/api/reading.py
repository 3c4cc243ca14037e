"""What whoever calls may read: the one place at which an API is narrowed to its caller.

`auth.check` says who calls. The store, the inspector and the past that routes are given consult that
(`current_reader`), so no route can forget to; the rule itself is in `shared.events.reading`, the same for the present
and the past.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

from shared.api.store import ProxyRow, ProxyStatus, Put, Remove, ResourceStore, ServiceStatus, Written
from shared.api.xds import InspectionImpossible, XdsInspector, XdsReport
from shared.events.decide import Rejected
from shared.events.event import decode_envelope
from shared.events.progress import Laggard, ZoneTrace
from shared.events.reading import EVERYTHING, Reader, is_withheld, line_for
from shared.events.state import Stored
from shared.history.supposed import Considered
from shared.keys.tokens import Principal
from shared.model.resource import ResourceKey

_reader: ContextVar[Reader] = ContextVar("reader", default=EVERYTHING)


def reader_of(principal: Principal) -> Reader:
    """What a principal may read."""
    return Reader(frozenset(principal.meshes), frozenset(principal.zones))


def reads(reader: Reader) -> None:
    """Say what may be read in this request."""
    _reader.set(reader)


def current_reader() -> Reader:
    """What may be read in this request."""
    return _reader.get()


class ReadersStore:
    """A ResourceStore that shows each caller what they may see, as if there were nothing else."""

    def __init__(self, store: ResourceStore) -> None:
        self._store = store

    async def get(self, key: ResourceKey) -> Stored | None:
        """See ResourceStore."""
        return await self._store.get(key) if current_reader().sees(key) else None

    async def list(self, kind: str, mesh: str | None = None) -> Sequence[Stored]:
        """See ResourceStore."""
        reader, found = current_reader(), await self._store.list(kind, mesh)
        return [stored for stored in found if reader.sees(stored.key)] if reader.is_limited else found

    async def write(self, commands: Sequence[Put | Remove], actor: str) -> Written | Rejected:
        """See ResourceStore. Who may write may read everything."""
        return await self._store.write(commands, actor)

    async def consider(self, commands: Sequence[Put | Remove]) -> Considered | Rejected:
        """See ResourceStore. Only who may write may ask."""
        return await self._store.consider(commands)

    async def events(self, origin: str, after: int, until: int | None, limit: int) -> tuple[Sequence[bytes], int]:
        """See ResourceStore. Events that are not for the caller are left out."""
        reader = current_reader()
        if not reader.sees_zone(origin):
            raise KeyError(origin)
        seen: list[bytes] = []
        while True:
            found, last = await self._store.events(origin, after, until, limit)
            if not reader.is_limited:
                return found, last
            seen += [line for one in found if not is_withheld(line := line_for(reader, one))]
            if len(seen) >= limit or len(found) < limit:
                return seen[:limit], last
            after = decode_envelope(found[-1]).n

    def follow_events(self, origin: str, after: int) -> AsyncIterator[bytes]:
        """See ResourceStore."""
        reader = current_reader()
        if not reader.sees_zone(origin):
            raise KeyError(origin)
        stream = self._store.follow_events(origin, after)
        return _lines_for(reader, stream) if reader.is_limited else stream

    async def statuses(self) -> Sequence[ServiceStatus]:
        """See ResourceStore."""
        reader = current_reader()
        return [
            row for row in await self._store.statuses() if reader.sees_mesh(row.mesh) and reader.sees_zone(row.zone)
        ]

    async def proxy_statuses(self, kind: str, sees: Callable[[str], bool]) -> Sequence[ProxyStatus]:
        """See ResourceStore. What is served where the caller does not look is not told."""
        reader = current_reader()
        rows = await self._store.proxy_statuses(kind, lambda zone: sees(zone) and reader.sees_zone(zone))
        return [row for row in rows if reader.sees_mesh(row.mesh)]

    async def proxies(self) -> Sequence[ProxyRow]:
        """See ResourceStore."""
        reader = current_reader()
        return [row for row in await self._store.proxies() if reader.sees_mesh(row.mesh) and reader.sees_zone(row.zone)]

    async def inspect(self, proxy: str) -> Mapping[str, Any] | None:
        """See ResourceStore."""
        return await self._store.inspect(proxy) if current_reader().inspects(proxy) else None


class ReadersInspector:
    """An XdsInspector that tells each caller of proxies of which they may see everything."""

    def __init__(self, inspector: XdsInspector) -> None:
        self._inspector = inspector

    async def xds(self, proxy: str, *, actual: bool) -> XdsReport:
        """See XdsInspector."""
        if not current_reader().inspects(proxy):
            raise InspectionImpossible(404, f'proxy "{proxy}" is not known here')
        return await self._inspector.xds(proxy, actual=actual)


def narrowed(trace: ZoneTrace) -> ZoneTrace:
    """What a zone's part of a trace tells the caller: proxies of other meshes are only counted."""
    reader = current_reader()
    if not reader.is_limited:
        return trace
    push = trace.push
    if push is not None:
        push = msgspec.structs.replace(push, names=tuple(filter(reader.sees_proxy, push.names)))
    record = trace.recorded
    if record is not None:
        record = msgspec.structs.replace(
            record,
            unrecorded=tuple(filter(reader.sees_proxy, record.unrecorded)),
            delivered=tuple(one for one in record.delivered if reader.sees_proxy(one.proxy)),
        )
    return msgspec.structs.replace(
        trace,
        push=push,
        recorded=record,
        missing=tuple(_laggard(reader, one) for one in trace.missing if reader.sees_proxy(one.proxy)),
        offline_names=tuple(filter(reader.sees_proxy, trace.offline_names)),
    )


def _laggard(reader: Reader, one: Laggard) -> Laggard:
    return one if reader.inspects(one.proxy) else msgspec.structs.replace(one, why="")


async def _lines_for(reader: Reader, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for event in stream:
        line = line_for(reader, event)
        if not is_withheld(line):
            yield line
