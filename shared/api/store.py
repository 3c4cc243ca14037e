"""What the HTTP API needs of a plane: read resources and events, write commands, show statuses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from shared.events.decide import Rejected, Result
from shared.events.state import Stored
from shared.history.supposed import Considered
from shared.keys.tokens import Principal
from shared.model.resource import Resource, ResourceKey


class Authenticator(Protocol):
    """Tells whom a bearer token stands for (`shared.keys.tokens.TokenVerifier`)."""

    def authenticate(self, token: str) -> Principal | None:
        """The principal, or None when the token is not accepted for whatever reason."""


class Put(msgspec.Struct, frozen=True):
    """Ask to create or replace a resource, still in clear: the store seals. The rest is as in Apply."""

    resource: Resource
    expected_version: int | None = None
    cause: str = ""


class Remove(msgspec.Struct, frozen=True):
    """Ask to delete what stands at `key`. The rest is as in Delete."""

    key: ResourceKey
    expected_version: int | None = None
    cause: str = ""


class Written(msgspec.Struct, frozen=True):
    """A batch is durable. `sequence` is the last event of the log that it was written to."""

    results: tuple[Result, ...]
    warnings: tuple[str, ...]
    sequence: int


class StatusCondition(msgspec.Struct, frozen=True, rename="camel"):
    """One condition of a resource in one zone, in Kubernetes' words. `time` is RFC 3339, "" when derived.

    position: the moment (g, z) it was computed at, the first at which this run of the zone said it; "" when unknown.
    """

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    time: str = ""
    position: str = ""


class ServiceStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How one MeshExternalService, ExternalService or MeshGateway stands in one zone.

    `origin` is "global" or a zone; `position` is the moment.
    """

    zone: str
    mesh: str
    name: str
    origin: str
    protocol: str
    port: int
    vip: str
    hostnames: tuple[str, ...]
    conditions: tuple[StatusCondition, ...] = ()
    position: str = ""
    kind: str = msgspec.field(default="MeshExternalService", name="type")


class ProxyRow(msgspec.Struct, frozen=True, rename="camel"):
    """One proxy as its zone knows it. `acked` is the moment every type was ACKed at, "" when unknown.

    waits: why it is not given what there is for it, "" when it is; global knows of holds only.
    """

    zone: str
    proxy: str
    kind: str
    mesh: str
    name: str
    online: bool
    connection: str = ""
    acked: str = ""
    waits: str = ""


class ProxyStatus(msgspec.Struct, frozen=True, rename="camel"):
    """How one Dataplane or ZoneEgress stands in its zone, connected or not; `position` is the zone's sequence."""

    zone: str
    mesh: str
    name: str
    kind: str = msgspec.field(name="type")
    conditions: tuple[StatusCondition, ...] = ()
    position: str = ""


class ResourceStore(Protocol):
    """One plane's resources. Keys carry the zone of origin; a plane shows more origins than it may write."""

    async def get(self, key: ResourceKey) -> Stored | None:
        """What stands at exactly `key`."""
        ...

    async def list(self, kind: str, mesh: str | None = None) -> Sequence[Stored]:
        """All of one kind and every visible origin; of one mesh, or of all when `mesh` is None."""
        ...

    async def write(self, commands: Sequence[Put | Remove], actor: str) -> Written | Rejected:
        """All or nothing, durable on return. Raises LogUnavailable."""
        ...

    async def consider(self, commands: Sequence[Put | Remove]) -> Considered | Rejected:
        """Judge as `write` does, and write nothing."""
        ...

    async def events(self, origin: str, after: int, until: int | None, limit: int) -> tuple[Sequence[bytes], int]:
        """Up to `limit` events (JSON) with after < n <= until, and the log's last n. KeyError: unknown origin."""
        ...

    def follow_events(self, origin: str, after: int) -> AsyncIterator[bytes]:
        """Events with n > after, for ever. Raises KeyError when the origin is not known here."""
        ...

    async def statuses(self) -> Sequence[ServiceStatus]:
        """MeshExternalServices as they stand in each zone this plane knows."""
        ...

    async def proxy_statuses(self, kind: str, sees: Callable[[str], bool]) -> Sequence[ProxyStatus]:
        """Dataplanes or ZoneEgresses of the zones this plane knows that are to be seen."""
        ...

    async def proxies(self) -> Sequence[ProxyRow]:
        """Proxies of every zone this plane knows."""
        ...

    async def inspect(self, proxy: str) -> Mapping[str, Any] | None:
        """What `proxy` is served, as plain JSON without secrets; None when this plane cannot tell."""
        ...
