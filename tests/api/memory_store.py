"""A plane in memory: the product's decisions and fold on a MemoryLog, with real sealing. For API tests only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.api.plane import considered, sealed_commands, versions
from shared.api.store import ProxyRow, ProxyStatus, Put, Remove, ServiceStatus, StatusCondition, Written
from shared.events.decide import Command, Decision, Rejected, decide_write
from shared.events.event import GLOBAL, DataKeyWrapped, encode_event
from shared.events.log import LogUnavailable, MemoryLog
from shared.events.state import LogState, Stored, ZoneState
from shared.history.supposed import Considered
from shared.keys.seal import Keyring, Sealer
from shared.keys.tokens import Principal
from shared.model.resource import ResourceKey
from shared.nats.pull import RawEvent
from shared.process.writer import LogWriter, event_time

ADMIN = {"Authorization": "Bearer admin-token"}
READER = {"Authorization": "Bearer reader-token"}
PROXY = {"Authorization": "Bearer proxy-token"}


class Tokens:
    """Three known tokens."""

    def authenticate(self, token: str) -> Principal | None:
        known = {
            "admin-token": Principal("user", "alice", ("admin",)),
            "reader-token": Principal("user", "bob", ()),
            "proxy-token": Principal("dataplane", "dataplane/default", mesh="default"),
        }
        return known.get(token)


class RawMemory:
    """A MemoryLog as a plane's past reads it."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def last(self) -> int:
        return await self._log.last()

    async def read_raw(self, after: int = 0, until: int | None = None) -> AsyncGenerator[RawEvent, None]:
        async for event in self._log.read(max(after, 0), until):
            yield RawEvent(event.n, event.subject, encode_event(event))


class MemoryStore:
    """A ResourceStore on a MemoryLog; `hub` is what a zone knows of global."""

    def __init__(self, zone: str = "", hub: LogState | None = None) -> None:
        self.zone = zone
        self.hub = hub
        self.log = MemoryLog()
        self.zones: dict[str, LogState] = {}
        self.writer = LogWriter(self.log, LogState(origin=zone or GLOBAL))
        keyring = Keyring(GLOBAL, X25519PrivateKey.generate())
        self.sealer = Sealer({GLOBAL: keyring.public}, digest_key=keyring.digest_key)
        self.available = True
        self._lock = asyncio.Lock()

    async def get(self, key: ResourceKey) -> Stored | None:
        state = self.writer.state if key.zone == self.zone else self.hub
        return state.resources.get(key) if state else None

    async def list(self, kind: str, mesh: str | None = None) -> Sequence[Stored]:
        states = [self.writer.state, *([self.hub] if self.hub else [])]
        return [
            stored
            for state in states
            for key, stored in state.resources.items()
            if key.kind == kind and mesh in (None, key.mesh)
        ]

    async def consider(self, commands: Sequence[Put | Remove]) -> Considered | Rejected:
        ready, wraps, warnings = sealed_commands(commands, self.sealer.seal)
        state = self.writer.state
        decision = self._judge(ready, wraps)
        own = [ZoneState(self.zone, self.hub, state)] if self.zone and self.hub else []
        zones = own or [ZoneState(zone, state, log) for zone, log in self.zones.items()]
        return considered(state, decision, warnings, tuple(zones))

    def _judge(self, commands: Sequence[Command], wraps: Sequence[DataKeyWrapped]) -> Decision | Rejected:
        state, now = self.writer.state, event_time()
        return decide_write(commands, state, self.hub, self.zone, wraps=wraps, zones=self.zones, now=now)

    async def write(self, commands: Sequence[Put | Remove], actor: str) -> Written | Rejected:
        if not self.available:
            raise LogUnavailable("away", ambiguous=True)
        ready, wraps, warnings = sealed_commands(commands, self.sealer.seal)
        async with self._lock:
            decision = decide_write(
                ready, self.writer.state, self.hub, self.zone, wraps=wraps, zones=self.zones, now=event_time()
            )
            if isinstance(decision, Rejected):
                return decision
            events = self.writer.prepare(decision.changes, actor=actor, cause=decision.causes)
            await self.writer.commit(events)
        return Written(versions(decision.results, events), warnings + decision.warnings, self.writer.state.n)

    async def events(self, origin: str, after: int, until: int | None, limit: int) -> tuple[Sequence[bytes], int]:
        if origin != (self.zone or GLOBAL):
            raise KeyError(origin)
        end = len(self.log.events) if until is None else min(until, len(self.log.events))
        return [encode_event(event) for event in self.log.events[after:end][:limit]], len(self.log.events)

    def follow_events(self, origin: str, after: int) -> AsyncIterator[bytes]:
        if origin != (self.zone or GLOBAL):
            raise KeyError(origin)
        return self._follow(after)

    async def _follow(self, after: int) -> AsyncIterator[bytes]:
        async for batch in self.log.follow(after):
            for event in batch:
                yield encode_event(event)

    async def statuses(self) -> Sequence[ServiceStatus]:
        ready = StatusCondition("Ready", "True", "Ready")
        return [ServiceStatus("east", "default", "web", "global", "http", 80, "242.0.0.1", ("web.ext.mesh",), (ready,))]

    async def proxy_statuses(self, kind: str, sees: Callable[[str], bool]) -> Sequence[ProxyStatus]:
        said = StatusCondition("Connected", "False", "NeverConnected", "its proxy has not connected yet")
        return (
            [ProxyStatus("east", "default", "app", "Dataplane", (said,))]
            if kind == "Dataplane" and sees("east")
            else []
        )

    async def proxies(self) -> Sequence[ProxyRow]:
        return [ProxyRow("east", "east/app", "Dataplane", "default", "app", online=True)]

    async def inspect(self, proxy: str) -> Mapping[str, Any] | None:
        return {"proxy": proxy} if proxy == "app" else None
