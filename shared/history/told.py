"""What an event says, in a few words for people. Pure; sealed values are told by their fingerprints."""

from __future__ import annotations

from typing import Any, TypeAlias, assert_never

import msgspec
from msgspec import UNSET

from shared.events.event import (
    DataKeyWrapped,
    Event,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    HostnameReleased,
    IntermediateIssued,
    LogRestored,
    LogSigned,
    ProxyConnected,
    ProxyDisconnected,
    PushHeld,
    PushReleased,
    QuarantineEnded,
    ResourceApplied,
    ResourceDeleted,
    ResourceQuarantined,
    RootCaCreated,
    Unreadable,
    VipLeased,
    VipQuarantined,
    VipReleased,
    VipsYielded,
    ZoneSettingsChanged,
)
from shared.events.redaction import shown
from shared.history.difference import fields_between
from shared.model import codec
from shared.model.resource import ResourceKey, key_of

FIELDS_LIMIT = 3
"""So many fields are told in one line."""
VALUE_CHARACTERS = 48

Fields: TypeAlias = tuple[dict[str, Any], ...]
"""What differs: `path`, and `before` and `after` as far as there is something there."""


class Told(msgspec.Struct, frozen=True):
    """What an event is about, and what became of it."""

    about: str
    what: str


def told(event: Event, before: Event | None) -> Told:
    """An event beside the last one about the same thing, None where there was none."""
    change = event.change
    match change:
        case ResourceApplied(resource=resource):
            was = None if before is None else before.change
            if not isinstance(was, ResourceApplied):
                return Told(path_of(key_of(resource)), "created")
            fields = changed_fields(codec.to_plain(was.resource), codec.to_plain(resource))
            return Told(path_of(key_of(resource)), in_words(fields) or "applied again, unchanged")
        case ResourceDeleted(key=key):
            return Told(path_of(key), "deleted")
        case RootCaCreated():
            return Told(f"Mesh {change.mesh}", f"root CA {change.backend} made")
        case IntermediateIssued():
            return Told(f"Mesh {change.mesh}", f"intermediate CA of {change.backend} issued to zone {change.zone}")
        case DataKeyWrapped():
            return Told(f"DataKey {change.kid}", f"wrapped for {change.recipient}")
        case LogSigned():
            return Told("Log", "signed from here on, and vouched for up to here")
        case LogRestored():
            return Told("Log", f"restored from a copy; events {change.lost_from + 1} to {change.lost_to} may be lost")
        case ZoneSettingsChanged():
            return Told("Settings", f"CIDR {change.cidr}, quarantine {change.quarantine_seconds} s")
        case _:
            return Told(*_fact(change))


def whole_difference(event: Event, before: Event | None) -> Fields:
    """What a write changed, field by field; a resource that came or went is one field, with "" as path."""
    was = before.change if before is not None else None
    resources = [one.resource if isinstance(one, ResourceApplied) else None for one in (was, event.change)]
    if not isinstance(event.change, ResourceApplied | ResourceDeleted):
        return ()
    return changed_fields(*(UNSET if one is None else codec.to_plain(one) for one in resources))


def _fact(change: Any) -> tuple[str, str]:
    match change:
        case VipLeased():
            return path_of(change.key), f"VIP {change.ip}"
        case VipQuarantined():
            return path_of(change.key), f"VIP {change.ip} given up, kept for it until {change.until}"
        case VipReleased():
            return f"VIP {change.ip}", "free again"
        case HostnameClaimed():
            return path_of(change.key), f"name {change.hostname}"
        case HostnameQuarantined():
            return path_of(change.key), f"name {change.hostname} given up, kept for it until {change.until}"
        case HostnameReleased():
            return f"Mesh {change.mesh}", f"name {change.hostname} free again"
        case ProxyConnected():
            return f"Proxy {change.proxy}", "connected"
        case ProxyDisconnected():
            return f"Proxy {change.proxy}", f"disconnected ({change.reason})"
        case PushHeld():
            return _proxies(change.proxies), f"push held: {change.reason}"
        case PushReleased():
            return _proxies(change.proxies), f"push released by {change.by}"
        case VipsYielded(to=""):
            return f"Proxy {change.proxy}", "given VIPs again"
        case VipsYielded():
            return f"Proxy {change.proxy}", f"given no VIPs: {change.to} of its host listens there"
        case ResourceQuarantined():
            return change.name, f"quarantined, {change.proxy} refused it: {change.reason}"
        case QuarantineEnded():
            return change.name, f"quarantine ended by {change.by}"
        case EventSkipped():
            return f"Event {change.g}", f"skipped: {change.reason}"
        case Unreadable():
            return "Event", f"cannot be read by this program: {change.reason}"
        case _:
            return assert_never(change)


def path_of(key: ResourceKey) -> str:
    """`MeshExternalService default/payments`."""
    return f"{key.kind} {'/'.join(part for part in (key.mesh, key.name) if part)}"


def changed_fields(before: Any, after: Any) -> Fields:
    """Fields of plain data that differ, as they may be shown. UNSET: not there."""
    sides = (one if one is UNSET else shown(one) for one in (before, after))
    return tuple(one.plain() for one in fields_between(*sides))


def in_words(fields: Fields) -> str:
    """`spec.endpoints[0].port 443→8443`, and how many more."""
    words = [_field(one) for one in fields[:FIELDS_LIMIT]]
    if len(fields) > FIELDS_LIMIT:
        words.append(f"{len(fields) - FIELDS_LIMIT} more")
    return ", ".join(words)


def _field(one: dict[str, Any]) -> str:
    if "before" not in one:
        return f"+{one['path']} {brief(one['after'])}"
    if "after" not in one:
        return f"-{one['path']}"
    return f"{one['path']} {brief(one['before'])}→{brief(one['after'])}"


def brief(value: Any) -> str:
    """A value in one short line."""
    if value is UNSET:
        return "-"
    if isinstance(value, dict) and "fingerprint" in value:
        return str(value["fingerprint"])
    text = value if isinstance(value, str) and value else codec.encode(value).decode()
    line = " ".join(text.split())
    return line if len(line) <= VALUE_CHARACTERS else f"{line[: VALUE_CHARACTERS - 1]}…"


def _proxies(names: tuple[str, ...]) -> str:
    return f"Proxy {names[0]}" if len(names) == 1 else f"{len(names)} proxies"
