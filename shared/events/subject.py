"""Subjects: where in NATS an event stands. One subject per thing that events are about.

    mesh.v1.<mesh>.<Kind>.<name>            global's log
    zone.v1.<zone>.<mesh>.<Kind>.<name>     a zone's log

Tokens are escaped reversibly: letters, digits, `-` and `_` stand for themselves, every other byte of UTF-8 is
`=XX`, and the empty token is `_`.
"""

from __future__ import annotations

import re
from typing import assert_never

from shared.events.event import (
    GLOBAL,
    Change,
    DataKeyWrapped,
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
from shared.model.resource import key_of

GLOBAL_PREFIX = "mesh.v1"
ZONE_PREFIX = "zone.v1"
EMPTY = "_"

_unsafe = re.compile(r"[^A-Za-z0-9_-]")
_escaped = re.compile(r"(?:=[0-9A-F]{2})+")


def escape(token: str) -> str:
    """A text as one subject token."""
    if not token:
        return EMPTY
    if token == EMPTY:
        return "=5F"
    return _unsafe.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), token)


def unescape(token: str) -> str:
    """The text that `escape` was given."""
    if token == EMPTY:
        return ""
    return _escaped.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(), token)


def prefix_for(origin: str) -> str:
    """What every subject of an origin begins with, without the final dot."""
    return GLOBAL_PREFIX if origin == GLOBAL else f"{ZONE_PREFIX}.{escape(origin)}"


def subject_for(origin: str, change: Change) -> str:
    """The subject of a change that `origin` records."""
    mesh, kind, name = _place(change)
    return f"{prefix_for(origin)}.{escape(mesh)}.{kind}.{escape(name)}"


def place_of(subject: str) -> tuple[str, str, str]:
    """Mesh, kind and name that a subject was made of; what is no subject of ours has none of them."""
    tokens = subject.rsplit(".", 3)[1:]
    if len(tokens) != 3:
        return "", "", ""
    mesh, kind, name = tokens
    return unescape(mesh), kind, unescape(name)


def _place(change: Change) -> tuple[str, str, str]:
    match change:
        case ResourceApplied(resource=resource):
            key = key_of(resource)
            return key.mesh, key.kind, key.name
        case ResourceDeleted(key=key):
            return key.mesh, key.kind, key.name
        case RootCaCreated():
            return change.mesh, "RootCa", change.backend
        case IntermediateIssued():
            return change.mesh, "Intermediate", f"{change.zone}/{change.backend}"
        case DataKeyWrapped():
            return "", "DataKey", f"{change.kid}/{change.recipient}"
        case LogRestored():
            return "", "Log", "restored"
        case LogSigned():
            return "", "Log", "signed"
        case ZoneSettingsChanged():
            return "", "Settings", "zone"
        case VipLeased() | VipQuarantined() | VipReleased():
            return "", "Vip", change.ip
        case HostnameClaimed() | HostnameQuarantined() | HostnameReleased():
            return change.mesh, "Hostname", change.hostname
        case ProxyConnected() | ProxyDisconnected():
            return "", "Proxy", change.proxy
        case PushHeld() | PushReleased():
            return "", "Push", change.proxies[0] if len(change.proxies) == 1 else ""
        case VipsYielded():
            return "", "Yield", change.proxy
        case ResourceQuarantined() | QuarantineEnded():
            return "", "Quarantine", change.name
        case EventSkipped():
            return "", "Skipped", str(change.g)
        case Unreadable():
            raise ValueError("what could not be read is not written again")
        case _:
            assert_never(change)
