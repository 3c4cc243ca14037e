"""Long work about the past that a plane is asked for over HTTP: what can be ordered, and what its process says."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any, TypeAlias

import msgspec

from shared.history.probe import Probe

NO_COMMANDS = (
    "a check command is not taken over HTTP: whoever held a token could run any program on this host. Give a probe or "
    "a predicate, or run `zonal bisect --check` where the store or a bundle is"
)
PROBE_SECONDS_MAX = 60.0
ENDPOINTS_MAX = 100
PORTS = 1 << 16

Endpoint: TypeAlias = tuple[str, int]


def mapped(old: str, new: str) -> tuple[Endpoint, Endpoint]:
    """An external endpoint `host:port`, and the `ip:port` to dial instead. Raises ValueError."""
    try:
        (old_host, _, old_port), (new_host, _, new_port) = old.rpartition(":"), new.rpartition(":")
        ip_address(new_host)
        found = (old_host, int(old_port)), (new_host, int(new_port))
    except ValueError:
        found = ("", 0), ("", 0)
    if not found[0][0] or not all(0 < port < PORTS for _, port in found):
        raise ValueError(f"endpoints: {old}={new} is not host:port=ip:port")
    return found


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Base of all orders. The tag `do` names them."""


class Verify(_Order, frozen=True, tag_field="do", tag="verify"):
    """Every event of these logs, all when empty, as the nats-server gives them now."""

    origins: tuple[str, ...] = ()


class Bisect(_Order, frozen=True, tag_field="do", tag="bisect"):
    """Which event made the difference: by a predicate, or by a probe at real Envoys. bad: the last moment when unset.

    timeout_seconds: for one probe. fresh: a new Envoy for every moment. endpoints: by `host:port` of an external
    endpoint the `ip:port` that is dialled instead. check: told why it is not taken.
    """

    good: str
    bad: str | None = None
    zone: str | None = None
    proxy: str | None = None
    predicate: str | None = None
    probe: Probe | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=PROBE_SECONDS_MAX)] = 15.0
    fresh: bool = False
    endpoints: Annotated[dict[str, str], msgspec.Meta(max_length=ENDPOINTS_MAX)] = {}
    check: Any = None

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.check is not None:
            raise ValueError(NO_COMMANDS)
        if (self.predicate is None) == (self.probe is None):
            raise ValueError("give either a predicate or a probe")
        if self.probe is not None and self.proxy is None:
            raise ValueError("a probe needs a proxy to call: proxy")
        if self.endpoints and self.probe is None:
            raise ValueError("endpoints: only a probe dials any")
        self.endpoint_map()

    def endpoint_map(self) -> dict[Endpoint, Endpoint]:
        """What is dialled instead of what. Raises ValueError."""
        return dict(mapped(old, new) for old, new in self.endpoints.items())


class Repair(_Order, frozen=True, tag_field="do", tag="repair"):
    """A new store for the hub, of what this zone's server holds. known: up to which event of global's log anybody else
    has seen it.
    """

    known: Annotated[int, msgspec.Meta(ge=0)] = 0


Order: TypeAlias = Verify | Bisect | Repair


class Plane(msgspec.Struct, frozen=True):
    """The plane on whose behalf work is done: its nats-server, its keys, "" for zone on global."""

    zone: str
    nats_url: str
    nats_credentials: str
    nats_ca: str
    keys_dir: str


class Job(msgspec.Struct, frozen=True):
    """What the process is given on its input, on one line. target: a file it may make."""

    plane: Plane
    order: Order
    target: str


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that the process says: how far it is, a remark, and at the end the result or why there is none."""

    progress: tuple[str, int, int] | None = None
    remark: str = ""
    result: Any = None
    fault: str = ""
