"""Who calls: a bearer token for everything but health, from loopback too."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.datastructures import State

from shared.api.problem import Problem
from shared.api.reading import reader_of, reads
from shared.api.store import Authenticator
from shared.keys.tokens import ADMIN, Principal

OPEN = frozenset({"/healthy", "/ready"})
METRICS = "/metrics"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SCHEME = "bearer "


def check(request: Request[Any, Any, State], authenticator: Authenticator, zone: str = "") -> None:
    """Put the principal on the request, or end it: 401 without an accepted token, 403 without the right.

    zone: whose plane this is, "" on global. What a limited token may read is decided in `reading`.
    """
    if request.scope["path"] in OPEN:
        return
    header = request.headers.get("authorization", "")
    token = header[len(_SCHEME) :].strip() if header.lower().startswith(_SCHEME) else ""
    found = authenticator.authenticate(token) if token else None
    if found is None:
        reason = "the token is not accepted" if token else "a bearer token is needed"
        raise Problem(
            401, "Invalid authentication data", f"Unauthenticated: {reason}", headers={"WWW-Authenticate": "Bearer"}
        )
    if found.kind != "user":
        raise Problem(403, "Access Denied", "a proxy's token opens no API")
    if request.method not in _SAFE and ADMIN not in found.roles:
        raise Problem(403, "Access Denied", f"writing needs the role {ADMIN}")
    reader = reader_of(found)
    if not reader.sees_zone(zone):
        raise Problem(403, "Access Denied", f"the token reads {', '.join(sorted(reader.zones))}, not zone {zone}")
    if reader.is_limited and request.scope["path"] == METRICS:
        raise Problem(403, "Access Denied", "metrics are of all meshes and zones, the token is not")
    reads(reader)
    request.scope["principal"] = found  # type: ignore[typeddict-unknown-key]


def principal(request: Request[Any, Any, State]) -> Principal:
    """Who was let in by `check`."""
    found: Principal = request.scope["principal"]  # type: ignore[typeddict-item]
    return found


def actor(request: Request[Any, Any, State]) -> str:
    """The subject that events of this request name."""
    return principal(request).subject
