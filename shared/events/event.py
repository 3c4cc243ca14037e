"""Verbs: what happened. One envelope (decision 31) around one member of the tagged union `Change`.

The hash of an event covers its header (every envelope field except `change` and `sig`) and, through
`payload_hash`, its change. `prev` is the hash of the origin's previous event, so each origin's log is a
chain; a bundle whose changes were redacted still verifies, because headers hold the payload's hash.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal, TypeAlias

import msgspec

from shared.events.upcast import CURRENT, Schema, is_skippable
from shared.model import codec
from shared.model.resource import ProtocolClass, Resource, ResourceKey, Sealed

GLOBAL = "global"
"""Name of the global origin; every other origin is a zone's name."""

NO_HASH = ""


class _Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", tag_field="type"):
    """Base of all changes. The JSON tag `type` is the class name."""


class ResourceApplied(_Change, frozen=True, tag="ResourceApplied"):
    """A resource was created or replaced, whole. Labels are the computed ones (decision 18)."""

    resource: Resource


class ResourceDeleted(_Change, frozen=True, tag="ResourceDeleted"):
    """A resource was deleted."""

    key: ResourceKey


class RootCaCreated(_Change, frozen=True, tag="RootCaCreated"):
    """A builtin root of `mesh` was made. `certificate` is PEM; `key` is readable by global only."""

    mesh: str
    backend: str
    certificate: str
    key: Sealed


class IntermediateIssued(_Change, frozen=True, tag="IntermediateIssued"):
    """Global signed an intermediate for one zone and mesh. `key` is readable by global and that zone."""

    mesh: str
    backend: str
    zone: str
    certificate: str
    key: Sealed


class DataKeyWrapped(_Change, frozen=True, tag="DataKeyWrapped"):
    """The data key `kid` was wrapped for `recipient` ("global" or a zone). `wrapped` is base64."""

    kid: str
    recipient: str
    wrapped: str


class LogRestored(_Change, frozen=True, tag="LogRestored"):
    """The log was restored from a copy: a new incarnation begins, (lost_from, lost_to] may be lost."""

    lost_from: int
    lost_to: int


class ZoneSettingsChanged(_Change, frozen=True, tag="ZoneSettingsChanged"):
    """The settings of a zone that change what proxies are served. CIDR as text, quarantine in seconds.

    egress_on_demand_above: with more services than that, zone egresses load each when it is first used. legacy_cidr:
    where the VIPs of ExternalServices come from. Unset in events of before there was such a setting: their hash covers
    what they said.
    """

    cidr: str
    quarantine_seconds: int
    compiler: str
    allowed_addresses: tuple[str, ...] = ()
    egress_on_demand_above: int | msgspec.UnsetType = msgspec.UNSET
    legacy_cidr: str | msgspec.UnsetType = msgspec.UNSET


class VipLeased(_Change, frozen=True, tag="VipLeased"):
    """`key` holds `ip` from now on (decision 15)."""

    key: ResourceKey
    protocol_class: ProtocolClass
    ip: str


class VipQuarantined(_Change, frozen=True, tag="VipQuarantined"):
    """`ip` serves nothing and is given to nobody else before `until` (RFC 3339, event time)."""

    key: ResourceKey
    ip: str
    until: str


class VipReleased(_Change, frozen=True, tag="VipReleased"):
    """`ip` is free again."""

    ip: str


class HostnameClaimed(_Change, frozen=True, tag="HostnameClaimed"):
    """`key` holds `hostname` within `mesh`, produced by `generator` (decision 16)."""

    mesh: str
    hostname: str
    key: ResourceKey
    generator: ResourceKey


class HostnameQuarantined(_Change, frozen=True, tag="HostnameQuarantined"):
    """`hostname` is published for nobody and can be claimed back only by `key` before `until`."""

    mesh: str
    hostname: str
    key: ResourceKey
    until: str


class HostnameReleased(_Change, frozen=True, tag="HostnameReleased"):
    """`hostname` is free again."""

    mesh: str
    hostname: str


class ProxyConnected(_Change, frozen=True, tag="ProxyConnected"):
    """The proxy of `key` (Dataplane or ZoneEgress) opened its ADS stream: it is online.

    `connection` orders streams of one proxy: the later connection wins. `features` and `system_ca_path` are
    node metadata that the compiler reads, so they are part of the log (decision 30).
    """

    proxy: str
    key: ResourceKey
    connection: str
    features: tuple[str, ...] = ()
    system_ca_path: str = ""


class ProxyDisconnected(_Change, frozen=True, tag="ProxyDisconnected"):
    """The ADS stream `connection` of `proxy` ended: the proxy is offline, unless a later one is open."""

    proxy: str
    connection: str
    reason: Literal["closed", "drained", "superseded", "lost"] = "closed"


class PushHeld(_Change, frozen=True, tag="PushHeld"):
    """`proxies` keep what they were given last: the next push would take away too much of it.

    kept_g and kept_z are the moment at which they were given it, 0 where this is not known.
    """

    proxies: tuple[str, ...]
    kept_g: int
    kept_z: int
    reason: str


class PushReleased(_Change, frozen=True, tag="PushReleased"):
    """`proxies` are given what is there for them again. by "operator": although it takes away much, or is older than
    what they have; "itself": it takes away too much no more.
    """

    proxies: tuple[str, ...]
    by: Literal["operator", "itself"]


class VipsYielded(_Change, frozen=True, tag="VipsYielded"):
    """`proxy` is given no listeners at VIPs from now on, since on its host `to` listens there; "" as `to`: it is given
    them again. Whoever does not know this change may pass over it.
    """

    proxy: str
    to: str
    skippable: bool = True


class ResourceQuarantined(_Change, frozen=True, tag="ResourceQuarantined"):
    """An Envoy refused this version of an xDS resource; no proxy of the zone is sent it (decision 28).

    In its place each gets what the resource was at the moment (kept_g, kept_z), or nothing where both are 0. proxy is
    the one that refused it, reason what it said.
    """

    type_url: str
    name: str
    version: str
    kept_g: int
    kept_z: int
    proxy: str
    reason: str


class QuarantineEnded(_Change, frozen=True, tag="QuarantineEnded"):
    """A quarantined version may be sent again, or is not there any more. by as in PushReleased."""

    type_url: str
    name: str
    version: str
    by: Literal["operator", "itself"]


class EventSkipped(_Change, frozen=True, tag="EventSkipped"):
    """Event `g` of the log of `origin` (global's when unset) is folded as nothing by whoever cannot read it: because an
    operator says so, or because it said itself that it may be passed over.
    """

    g: int
    reason: str
    origin: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def skips(self) -> tuple[str, int]:
        """Whose event, and which."""
        return GLOBAL if self.origin is msgspec.UNSET else self.origin, self.g


class LogSigned(_Change, frozen=True, tag="LogSigned"):
    """From here on the origin signs with this key (base64), and vouches for all before: written where events had no
    signature yet, or one of another key. Whoever does not know this change may pass over it.
    """

    key: str
    skippable: bool = True


class Unreadable(_Change, frozen=True, tag="Unreadable"):
    """Stands where a reader met a change it does not understand (of a newer program, or nonsense): it changes
    nothing, the chain goes on behind it, and the reader says so. Never written to a log. skippable: it says of itself
    that whoever does not know it may pass over it.
    """

    reason: str
    skippable: bool = False


Change: TypeAlias = (
    ResourceApplied
    | ResourceDeleted
    | RootCaCreated
    | IntermediateIssued
    | DataKeyWrapped
    | LogRestored
    | ZoneSettingsChanged
    | VipLeased
    | VipQuarantined
    | VipReleased
    | HostnameClaimed
    | HostnameQuarantined
    | HostnameReleased
    | ProxyConnected
    | ProxyDisconnected
    | PushHeld
    | PushReleased
    | VipsYielded
    | ResourceQuarantined
    | QuarantineEnded
    | EventSkipped
    | LogSigned
    | Unreadable
)


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One event. Field order is the order of the JSON.

    id: unique, also the message id. v: schema. origin: "global" or a zone. n: the origin's gapless counter
    from 1, equal to the sequence in its own stream. incarnation: of the origin's log. seen: for zone events,
    the g after which it is folded (0 on global). time: RFC 3339 UTC with microseconds. actor: a token's
    subject or `system:<component>`. subject: the NATS subject. cause: id of the event that made the system
    write this one, or that it undoes; else "". prev, payload_hash: see the module. kid names the key that the origin
    signs with, sig is its signature, on the last event of an append (`shared.events.signing`).
    """

    id: str
    v: int
    origin: str
    n: int
    incarnation: str
    seen: int
    time: str
    actor: str
    subject: str
    change: Change
    cause: str
    prev: str
    payload_hash: str
    kid: str = ""
    sig: str = ""


_HEADER = tuple(name for name in Event.__struct_fields__ if name not in {"change", "sig"})
_Header = msgspec.defstruct("_Header", _HEADER, frozen=True, kw_only=True, rename="camel")


class EventRef(msgspec.Struct, frozen=True, order=True):
    """Enough of an event to cite it: who, when, which."""

    origin: str
    n: int
    id: str = ""
    time: str = ""
    actor: str = ""

    def __str__(self) -> str:
        return str(self.n) if self.origin == GLOBAL else f"{self.origin}:{self.n}"


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An Event whose change is not looked at: all that the chain is made of."""

    id: str
    v: int
    origin: str
    n: int
    incarnation: str
    seen: int
    time: str
    actor: str
    subject: str
    change: msgspec.Raw
    cause: str
    prev: str
    payload_hash: str
    kid: str = ""
    sig: str = ""


_event_decoder = codec.decoder(Event)
_envelope_decoder = codec.decoder(Envelope)


def payload_hash(change: Change) -> str:
    """SHA-256, hex, of the change's canonical JSON."""
    return sha256(codec.encode(change)).hexdigest()


def event_hash(event: Event | Envelope) -> str:
    """SHA-256, hex, of the header's canonical JSON: what the next event's `prev` holds."""
    header = _Header(**{name: getattr(event, name) for name in _HEADER})
    return sha256(codec.encode(header)).hexdigest()


def ref(event: Event) -> EventRef:
    """The citation of an event."""
    return EventRef(event.origin, event.n, event.id, event.time, event.actor)


def encode_event(event: Event) -> bytes:
    """The bytes that stand in the log: readable JSON."""
    return codec.encode(event)


def decode_envelope(data: bytes) -> Envelope:
    """Read an event without its change. Raises `msgspec.DecodeError` when it is none."""
    try:
        envelope: Envelope = _envelope_decoder.decode(data)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None
    return envelope


def decode_event(data: bytes, schema: Schema = CURRENT) -> Event:
    """Read an event back. A change of an older schema is upcast, one that cannot be read becomes `Unreadable`.

    Raises `msgspec.DecodeError` when not even the envelope is one.
    """
    reason = ""
    try:
        event: Event = _event_decoder.decode(data)
        if event.v == schema.version:
            return event
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        reason = str(error)
    envelope = decode_envelope(data)
    known = {name: getattr(envelope, name) for name in Event.__struct_fields__}
    return Event(**{**known, "change": _change(envelope, schema, reason)})


def _change(envelope: Envelope, schema: Schema, reason: str) -> Change:
    """The change of an event that is not simply one of today's. reason: why that of today's schema cannot be read."""
    try:
        change: Change = codec.convert(schema.of_another(envelope.change, envelope.v, reason), Change)
    except Exception as error:  # noqa: BLE001 - nothing that stands in a log may end its reader
        return Unreadable(reason=str(error), skippable=is_skippable(envelope.change))
    return change
