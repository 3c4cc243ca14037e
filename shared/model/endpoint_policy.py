"""Policies on the endpoints of a destination: which are healthy, and which one is chosen.

They hold where the outside is dialled. Localities mean nothing outside the mesh, so they are not here.
"""

from __future__ import annotations

from typing import Literal

from shared.model.part import NO_LABELS, Labels, Part
from shared.model.target import IntOrString, TargetRef

# --- MeshHealthCheck --------------------------------------------------------------------------------------


class HeaderValue(Part, frozen=True, kw_only=True):
    """A header and its value."""

    name: str
    value: str


class HeaderChange(Part, frozen=True, kw_only=True):
    """`set` overwrites, `add` appends."""

    set: tuple[HeaderValue, ...] | None = None
    add: tuple[HeaderValue, ...] | None = None


class TcpCheck(Part, frozen=True, kw_only=True):
    """`send` and `receive` are base64; without them a connection is enough."""

    disabled: bool | None = None
    send: str | None = None
    receive: tuple[str, ...] | None = None


class HttpCheck(Part, frozen=True, kw_only=True):
    """A GET of `path` ("/") that must answer one of `expected_statuses` (200)."""

    disabled: bool | None = None
    path: str | None = None
    request_headers_to_add: HeaderChange | None = None
    expected_statuses: tuple[int, ...] | None = None


class GrpcCheck(Part, frozen=True, kw_only=True):
    """The standard gRPC health service."""

    disabled: bool | None = None
    service_name: str | None = None
    authority: str | None = None


class HealthConf(Part, frozen=True, kw_only=True):
    """The destination's protocol picks the section (http2 reads `http`); `tcp` stands in where it is absent."""

    interval: str | None = None
    timeout: str | None = None
    unhealthy_threshold: int | None = None
    healthy_threshold: int | None = None
    initial_jitter: str | None = None
    interval_jitter: str | None = None
    interval_jitter_percent: int | None = None
    healthy_panic_threshold: IntOrString | None = None
    fail_traffic_on_panic: bool | None = None
    no_traffic_interval: str | None = None
    reuse_connection: bool | None = None
    tcp: TcpCheck | None = None
    http: HttpCheck | None = None
    grpc: GrpcCheck | None = None


class HealthItem(Part, frozen=True, kw_only=True):
    """What holds towards some destinations."""

    target_ref: TargetRef
    default: HealthConf


class HealthSpec(Part, frozen=True, kw_only=True):
    """See `HealthConf`."""

    target_ref: TargetRef | None = None
    to: tuple[HealthItem, ...] = ()


class MeshHealthCheck(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshHealthCheck"):
    """Asks every endpoint from time to time whether it is well."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: HealthSpec


# --- MeshLoadBalancingStrategy ----------------------------------------------------------------------------


class LeastRequest(Part, frozen=True, kw_only=True):
    """Of `choice_count` endpoints (2), the one with the fewest requests."""

    choice_count: int | None = None
    active_request_bias: IntOrString | None = None


class RoundRobin(Part, frozen=True, kw_only=True):
    """One after the other."""


class Random(Part, frozen=True, kw_only=True):
    """Any of them."""


class LoadBalancer(Part, frozen=True, kw_only=True):
    """`type` picks; hashing strategies are not here, since nothing to hash survives the way to the egress."""

    type: Literal["RoundRobin", "LeastRequest", "Random"]
    round_robin: RoundRobin | None = None
    least_request: LeastRequest | None = None
    random: Random | None = None


class BalancingConf(Part, frozen=True, kw_only=True):
    """How an endpoint is chosen."""

    load_balancer: LoadBalancer | None = None


class BalancingItem(Part, frozen=True, kw_only=True):
    """What holds towards some destinations."""

    target_ref: TargetRef
    default: BalancingConf


class BalancingSpec(Part, frozen=True, kw_only=True):
    """See `BalancingConf`."""

    target_ref: TargetRef | None = None
    to: tuple[BalancingItem, ...] = ()


class MeshLoadBalancingStrategy(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshLoadBalancingStrategy"):
    """Which endpoint a request goes to."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: BalancingSpec
