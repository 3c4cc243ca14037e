"""What an extension is and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from zone_cp.view.zone_view import ExternalServiceView, Failure

Config: TypeAlias = Mapping[str, Any]
"""`spec.extension.config`, frozen: Map for objects, tuple for lists."""

CONFIG = "spec.extension.config"


class Generated(msgspec.Struct, frozen=True):
    """routes: bytes of `route.Route`, for class http: tried in this order for requests to this service and no other.

    cluster: bytes of the fields of a Cluster beside its name, None when nothing is dialled.
    """

    routes: tuple[bytes, ...] = ()
    cluster: bytes | None = None


class Extension(msgspec.Struct, frozen=True):
    """One type of `spec.extension`."""

    type: str
    validate: Callable[[ExternalServiceView, Config], Failure | None]
    generate: Callable[[ExternalServiceView, Config], Generated]


def refused(message: str, path: str = "", *, field: str = "") -> Failure:
    """What is wrong with a config; `path` is below `spec.extension.config`, `field` a path of the whole resource."""
    return Failure("InvalidExtension", message, field or (f"{CONFIG}.{path}" if path else CONFIG))
