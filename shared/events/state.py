"""State: what a log amounts to. One `LogState` per log; a moment of a zone is a pair of them (decision 29).

Everything here is a value: persistent maps, so that a fold shares all that it did not touch and every past
state can be kept at little cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from immutables import Map

from shared.events.event import EventRef, ZoneSettingsChanged
from shared.model.policy import SpiffeMatch, is_meant
from shared.model.resource import ProtocolClass, Resource, ResourceKey, Sealed

K = TypeVar("K")


class Stored(msgspec.Struct, frozen=True):
    """A resource with the event that created it and the event that last changed it (its version is `last.n`)."""

    key: ResourceKey
    resource: Resource
    created: EventRef
    last: EventRef


class Lease(msgspec.Struct, frozen=True):
    """A VIP held by `key`; while `until` is set it is quarantined until then."""

    ip: str
    key: ResourceKey
    protocol_class: ProtocolClass
    event: EventRef
    until: str | None = None


class Claim(msgspec.Struct, frozen=True):
    """A hostname held by `key`; while `until` is set it is quarantined until then."""

    mesh: str
    hostname: str
    key: ResourceKey
    generator: ResourceKey
    event: EventRef
    until: str | None = None


class ProxyStatus(msgspec.Struct, frozen=True):
    """Last known state of a proxy, as recorded by its zone."""

    proxy: str
    key: ResourceKey
    online: bool
    connection: str
    features: tuple[str, ...]
    system_ca_path: str
    event: EventRef


class Hold(msgspec.Struct, frozen=True):
    """Why a proxy keeps what it was given at `kept` (None: not known when). released: an operator has let the push
    go, and what the proxy says it holds is not held against it before it has taken that.
    """

    proxy: str
    kept: Position | None
    reason: str
    event: EventRef
    released: bool = False


class Yield(msgspec.Struct, frozen=True):
    """A proxy that is given no VIPs, since another one of its host listens there."""

    proxy: str
    to: str
    event: EventRef


class Quarantine(msgspec.Struct, frozen=True):
    """A version of an xDS resource that is not sent; what it was at `kept` stands in its place (None: nothing)."""

    type_url: str
    name: str
    version: str
    kept: Position | None
    proxy: str
    reason: str
    event: EventRef


class Authority(msgspec.Struct, frozen=True):
    """A root or an intermediate: certificate chain in PEM (own first) and its sealed key."""

    mesh: str
    backend: str
    zone: str
    certificate: str
    key: Sealed
    event: EventRef


class Narrowed(msgspec.Struct, frozen=True):
    """Workloads that lost access to an external service together: those that `who` means, without the `spared`."""

    who: SpiffeMatch
    spared: tuple[SpiffeMatch, ...] = ()

    def covers(self, spiffe_id: str) -> bool:
        """Whether a workload is one of them."""
        return is_meant(spiffe_id, self.who) and not any(is_meant(spiffe_id, one) for one in self.spared)


class LogState(msgspec.Struct, frozen=True):
    """The fold of one origin's log up to its event `n`.

    head is the hash of event n. leases is by holder, quarantined ones apart; vips is every address that is
    not free. claims is every hostname that is not free, by (mesh, hostname); names is the active ones by
    holder. roots is by mesh, intermediates by (mesh, zone), data_keys by kid then recipient.

    seen is the highest `seen` of its events: a zone has decided everything up to that g, so a restart folds the
    copy of global's log up to it and goes on event by event. kinds is `resources` by kind. retired is the
    quarantined leases by holder then address. expiring is what is quarantined, by whose event time ends it
    ("" = global's, else the zone) and the second of the end; its items are ("", ip) and (mesh, hostname). narrowed is,
    per mesh, who lost access to external services and the newest event that took it. holds and yields are by proxy,
    quarantined by type URL, name and version. skipped is by origin and sequence, events of other logs included. unread
    is by sequence the events of this log that could not be read although nothing lets them pass (`stop`).
    """

    origin: str
    n: int = 0
    head: str = ""
    incarnation: str = ""
    time: str = ""
    resources: Map[ResourceKey, Stored] = Map()
    leases: Map[ResourceKey, Lease] = Map()
    vips: Map[str, Lease] = Map()
    claims: Map[tuple[str, str], Claim] = Map()
    names: Map[ResourceKey, Map[str, Claim]] = Map()
    proxies: Map[str, ProxyStatus] = Map()
    settings: ZoneSettingsChanged | None = None
    roots: Map[str, Authority] = Map()
    intermediates: Map[tuple[str, str], Authority] = Map()
    data_keys: Map[str, Map[str, str]] = Map()
    skipped: Map[tuple[str, int], str] = Map()
    unread: Map[int, str] = Map()
    seen: int = 0
    kinds: Map[str, Map[ResourceKey, Stored]] = Map()
    retired: Map[ResourceKey, Map[str, Lease]] = Map()
    expiring: Map[tuple[str, str], Map[tuple[str, str], str]] = Map()
    narrowed: Map[str, Map[Narrowed, EventRef]] = Map()
    holds: Map[str, Hold] = Map()
    quarantined: Map[tuple[str, str, str], Quarantine] = Map()
    yields: Map[str, Yield] = Map()


class Position(msgspec.Struct, frozen=True, order=True, gc=False):
    """A moment of a zone: global's sequence g and the zone's own sequence z."""

    g: int
    z: int

    def __str__(self) -> str:
        return f"g{self.g}.z{self.z}"

    def reaches(self, other: Position) -> bool:
        """Whether it is not before the other one in either log."""
        return self.g >= other.g and self.z >= other.z


class ZoneState(msgspec.Struct, frozen=True):
    """All that a zone decides and serves from: the folds of global's log and of its own."""

    zone: str
    hub: LogState
    own: LogState

    @property
    def position(self) -> Position:
        """The moment."""
        return Position(self.hub.n, self.own.n)

    def resource(self, key: ResourceKey) -> Stored | None:
        """Look a resource up in the log that its origin says."""
        return (self.own if key.zone else self.hub).resources.get(key)


class GlobalState(msgspec.Struct, frozen=True):
    """All that global decides from and shows: the folds of its own log and of every zone's."""

    hub: LogState
    zones: Map[str, LogState] = Map()


def moved(before: Mapping[K, object], after: Mapping[K, object]) -> set[K]:
    """The keys under which two maps do not hold the very same; costs nothing for one and the same map."""
    if before is after:
        return set()
    return {key for key, value in after.items() if before.get(key) is not value} | {k for k in before if k not in after}
