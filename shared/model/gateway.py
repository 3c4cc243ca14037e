"""MeshGateway: what a builtin gateway listens on (seed 004, `spec/4-gateway-and-policies.md` A1).

A gateway Dataplane is bound to at most one MeshGateway by its tags. Its listeners are logical: those of one port share
a socket and stay apart by hostname, each with tags of its own for routes and policies to select.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from shared.model.part import NO_LABELS, Labels, Part
from shared.model.source import DataSource

GatewayProtocol: TypeAlias = Literal["TCP", "TLS", "HTTP", "HTTPS"]
TlsMode: TypeAlias = Literal["TERMINATE", "PASSTHROUGH"]
ListenerPort: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
"""Any number that Kuma's field holds: which ones are ports, its validator says."""


class TagSelector(Part, frozen=True, kw_only=True):
    """All tags of `match` must be there; the value `*` is any."""

    match: Labels = NO_LABELS


class GatewayTlsOptions(Part, frozen=True, kw_only=True):
    """Reserved: it has no fields, as in Kuma."""


class GatewayTls(Part, frozen=True, kw_only=True):
    """How TLS of clients ends."""

    mode: Literal["NONE", "TERMINATE", "PASSTHROUGH"] = "NONE"
    certificates: tuple[DataSource, ...] = ()
    options: GatewayTlsOptions | None = None


class ListenerResources(Part, frozen=True, kw_only=True):
    """`connection_limit` is the most connections of clients at once on the port; 0 is no limit."""

    connection_limit: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0


class GatewayListener(Part, frozen=True, kw_only=True):
    """One logical listener. `hostname` is exact, `*.suffix`, `*` or "", which is any."""

    port: ListenerPort = 0
    protocol: Literal["NONE", "TCP", "TLS", "HTTP", "HTTPS"] = "NONE"
    hostname: str = ""
    tls: GatewayTls | None = None
    tags: Labels = NO_LABELS
    cross_mesh: bool = False
    resources: ListenerResources = ListenerResources()


class GatewayConf(Part, frozen=True, kw_only=True):
    """What the gateway listens on."""

    listeners: tuple[GatewayListener, ...] = ()


class MeshGateway(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshGateway"):
    """The listeners of the gateway Dataplanes that `selectors` select."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    selectors: tuple[TagSelector, ...] = ()
    tags: Labels = NO_LABELS
    conf: GatewayConf | None = None
