"""Long work about the past that a plane is asked for over HTTP: what can be ordered, and what its process says."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec

from shared.history.probe import Probe

NO_COMMANDS = (
    "a check command is not taken over HTTP: whoever held a token could run any program on this host. Give a probe or "
    "a predicate, or run `zonal bisect --check` where the store or a bundle is"
)
PROBE_SECONDS_MAX = 60.0


class _Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """Base of all orders. The tag `do` names them."""


class Verify(_Order, frozen=True, tag_field="do", tag="verify"):
    """Every event of these logs, all when empty, as the nats-server gives them now."""

    origins: tuple[str, ...] = ()


class Bisect(_Order, frozen=True, tag_field="do", tag="bisect"):
    """Which event made the difference: by a predicate, or by a probe at real Envoys. bad: the last moment when unset.

    timeout_seconds: for one probe. fresh: a new Envoy for every moment. check: told why it is not taken.
    """

    good: str
    bad: str | None = None
    zone: str | None = None
    proxy: str | None = None
    predicate: str | None = None
    probe: Probe | None = None
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=PROBE_SECONDS_MAX)] = 15.0
    fresh: bool = False
    check: Any = None

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.check is not None:
            raise ValueError(NO_COMMANDS)
        if (self.predicate is None) == (self.probe is None):
            raise ValueError("give either a predicate or a probe")
        if self.probe is not None and self.proxy is None:
            raise ValueError("a probe needs a proxy to call: proxy")


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
