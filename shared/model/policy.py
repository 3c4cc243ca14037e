"""Policies on external traffic: nouns in the shape of Kuma 2.14 (`spec/4-gateway-and-policies.md` part B).

A policy selects proxies by `spec.targetRef` and destinations by `spec.to[].targetRef`; what it says stands under
`default`, where every field is optional: policies are merged field by field (RFC 7396), the more specific one
wins, and what nobody says is the control plane's own default. Fields that could not change anything about
external traffic are not here, so that they are refused instead of accepted without effect.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

from shared.model.endpoint_policy import (
    BalancingConf,
    BalancingItem,
    HealthConf,
    HealthItem,
    MeshHealthCheck,
    MeshLoadBalancingStrategy,
)
from shared.model.header import HeaderMatch
from shared.model.inbound import SERVICE_TAG
from shared.model.log_policy import LogConf, LogItem, MeshAccessLog
from shared.model.part import NO_LABELS, Labels, Part
from shared.model.passthrough_policy import MeshPassthrough
from shared.model.route_policy import (
    HttpRouteConf,
    HttpRouteItem,
    MeshHTTPRoute,
    MeshTCPRoute,
    TcpRouteConf,
    TcpRouteItem,
)
from shared.model.target import IntOrString, TargetRef

EFFECT_LABEL = "kuma.io/effect"
SHADOW = "shadow"
"""Value of the label `kuma.io/effect` of a policy that is to have no effect."""
ROLE_LABEL = "kuma.io/policy-role"
SYSTEM = "system"
"""The role of every policy outside of Kubernetes namespaces."""


# --- MeshTimeout ------------------------------------------------------------------------------------------


class HttpTimeouts(Part, frozen=True, kw_only=True):
    """Durations; `0s` switches a limit off."""

    request_timeout: str | None = None
    stream_idle_timeout: str | None = None
    max_stream_duration: str | None = None
    max_connection_duration: str | None = None
    request_headers_timeout: str | None = None


class TimeoutConf(Part, frozen=True, kw_only=True):
    """`connectionTimeout` and `maxConnectionDuration` hold where the outside is dialled, the rest at the client."""

    connection_timeout: str | None = None
    idle_timeout: str | None = None
    http: HttpTimeouts | None = None


class TimeoutItem(Part, frozen=True, kw_only=True):
    """What holds towards some destinations."""

    target_ref: TargetRef
    default: TimeoutConf


class TimeoutSpec(Part, frozen=True, kw_only=True):
    """See `TimeoutConf`."""

    target_ref: TargetRef | None = None
    to: tuple[TimeoutItem, ...] = ()


class MeshTimeout(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshTimeout"):
    """How long connections and requests may take."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: TimeoutSpec


# --- MeshRetry --------------------------------------------------------------------------------------------


class BackOff(Part, frozen=True, kw_only=True):
    """Pause between attempts: random, growing from `base_interval` to `max_interval`."""

    base_interval: str | None = None
    max_interval: str | None = None


class ResetHeader(Part, frozen=True, kw_only=True):
    """A response header that says when to try again."""

    name: str
    format: Literal["Seconds", "UnixTimestamp"]


class RateLimitedBackOff(Part, frozen=True, kw_only=True):
    """Pause between attempts that the destination asks for."""

    reset_headers: tuple[ResetHeader, ...] | None = None
    max_interval: str | None = None


class TcpRetry(Part, frozen=True, kw_only=True):
    """Attempts to connect, the first one included."""

    max_connect_attempt: int | None = None


class HttpRetry(Part, frozen=True, kw_only=True):
    """`retry_on` holds conditions, methods (`HttpMethodGet`) and status codes; `num_retries` 0 is none."""

    num_retries: int | None = None
    per_try_timeout: str | None = None
    back_off: BackOff | None = None
    rate_limited_back_off: RateLimitedBackOff | None = None
    retry_on: tuple[str, ...] | None = None
    retriable_response_headers: tuple[HeaderMatch, ...] | None = None
    retriable_request_headers: tuple[HeaderMatch, ...] | None = None


class GrpcRetry(Part, frozen=True, kw_only=True):
    """The same for gRPC, by status."""

    num_retries: int | None = None
    per_try_timeout: str | None = None
    back_off: BackOff | None = None
    rate_limited_back_off: RateLimitedBackOff | None = None
    retry_on: tuple[str, ...] | None = None


class RetryConf(Part, frozen=True, kw_only=True):
    """The destination's protocol picks the section: http2 reads `http`."""

    tcp: TcpRetry | None = None
    http: HttpRetry | None = None
    grpc: GrpcRetry | None = None


class RetryItem(Part, frozen=True, kw_only=True):
    """What holds towards some destinations."""

    target_ref: TargetRef
    default: RetryConf


class RetrySpec(Part, frozen=True, kw_only=True):
    """See `RetryConf`."""

    target_ref: TargetRef | None = None
    to: tuple[RetryItem, ...] = ()


class MeshRetry(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshRetry"):
    """What the client's proxy tries again. Never at the zone egress: that would square the attempts."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: RetrySpec


# --- MeshCircuitBreaker -----------------------------------------------------------------------------------


class ConnectionLimits(Part, frozen=True, kw_only=True):
    """Limits of one destination at one proxy; each above 0."""

    max_connections: int | None = None
    max_connection_pools: int | None = None
    max_pending_requests: int | None = None
    max_retries: int | None = None
    max_requests: int | None = None


class Consecutive(Part, frozen=True, kw_only=True):
    """Failures in a row that eject an endpoint."""

    consecutive: int | None = None


class SuccessRate(Part, frozen=True, kw_only=True):
    """Ejects endpoints whose success rate lies this many standard deviations below the mean."""

    minimum_hosts: int | None = None
    request_volume: int | None = None
    standard_deviation_factor: IntOrString | None = None


class FailurePercentage(Part, frozen=True, kw_only=True):
    """Ejects endpoints whose share of failures (percent) reaches `threshold`."""

    minimum_hosts: int | None = None
    request_volume: int | None = None
    threshold: int | None = None


class Detectors(Part, frozen=True, kw_only=True):
    """What ejects; a detector that is not given is off."""

    total_failures: Consecutive | None = None
    gateway_failures: Consecutive | None = None
    local_origin_failures: Consecutive | None = None
    success_rate: SuccessRate | None = None
    failure_percentage: FailurePercentage | None = None


class OutlierConf(Part, frozen=True, kw_only=True):
    """When an endpoint is left alone, and for how long."""

    disabled: bool | None = None
    interval: str | None = None
    base_ejection_time: str | None = None
    max_ejection_percent: int | None = None
    split_external_and_local_errors: bool | None = None
    healthy_panic_threshold: IntOrString | None = None
    detectors: Detectors | None = None


class BreakerConf(Part, frozen=True, kw_only=True):
    """Holds where the outside is dialled: shared by all clients behind a zone egress."""

    connection_limits: ConnectionLimits | None = None
    outlier_detection: OutlierConf | None = None


class BreakerItem(Part, frozen=True, kw_only=True):
    """What holds towards some destinations."""

    target_ref: TargetRef
    default: BreakerConf


class BreakerSpec(Part, frozen=True, kw_only=True):
    """See `BreakerConf`."""

    target_ref: TargetRef | None = None
    to: tuple[BreakerItem, ...] = ()


class MeshCircuitBreaker(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshCircuitBreaker"):
    """Limits and outlier detection per destination."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: BreakerSpec


# --- MeshTrafficPermission --------------------------------------------------------------------------------


class SpiffeMatch(Part, frozen=True, kw_only=True):
    """A SPIFFE id of a client's certificate."""

    type: Literal["Exact", "Prefix"]
    value: str


def is_meant(spiffe_id: str, one: SpiffeMatch) -> bool:
    """Whether the holder of a SPIFFE id is meant."""
    return spiffe_id.startswith(one.value) if one.type == "Prefix" else spiffe_id == one.value


class PermissionMatch(Part, frozen=True, kw_only=True):
    """Who is meant."""

    spiffe_id: SpiffeMatch = msgspec.field(name="spiffeID")


class PermissionConf(Part, frozen=True, kw_only=True):
    """deny wins over allow, of whatever policy; who is in neither is denied."""

    deny: tuple[PermissionMatch, ...] | None = None
    allow: tuple[PermissionMatch, ...] | None = None


class PermissionRule(Part, frozen=True, kw_only=True):
    """One group of entries."""

    default: PermissionConf


class FromConf(Part, frozen=True, kw_only=True):
    """What clients may."""

    action: Literal["Allow", "Deny"]


class FromItem(Part, frozen=True, kw_only=True):
    """Clients, by what their certificates prove: their mesh, and in it their `kuma.io/service`."""

    target_ref: TargetRef
    default: FromConf

    @property
    def service(self) -> str:
        """The `kuma.io/service` that is meant, "" for the whole mesh."""
        return self.target_ref.name or self.target_ref.tags.get(SERVICE_TAG) or ""


class PermissionSpec(Part, frozen=True, kw_only=True):
    """`target_ref` is the service that is guarded (decision 20); `from_` is Kuma's older form of `rules`."""

    target_ref: TargetRef
    rules: tuple[PermissionRule, ...] = ()
    from_: tuple[FromItem, ...] = msgspec.field(name="from", default=())


class MeshTrafficPermission(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshTrafficPermission"):
    """Who may use an external service, by source identity; enforced where the outside is dialled."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: PermissionSpec


# --- all of them ------------------------------------------------------------------------------------------

ToPolicy: TypeAlias = (
    MeshTimeout
    | MeshRetry
    | MeshCircuitBreaker
    | MeshHealthCheck
    | MeshLoadBalancingStrategy
    | MeshAccessLog
    | MeshHTTPRoute
    | MeshTCPRoute
)
"""Policies whose destinations stand in `to`."""
Policy: TypeAlias = ToPolicy | MeshTrafficPermission | MeshPassthrough
POLICY_KINDS = frozenset(one.__name__ for one in get_args(Policy))
ToItem: TypeAlias = (
    TimeoutItem | RetryItem | BreakerItem | HealthItem | BalancingItem | LogItem | HttpRouteItem | TcpRouteItem
)
ToConf: TypeAlias = (
    TimeoutConf | RetryConf | BreakerConf | HealthConf | BalancingConf | LogConf | HttpRouteConf | TcpRouteConf
)


def items_of(policy: ToPolicy) -> tuple[ToItem, ...]:
    """What a policy says, destination by destination."""
    return policy.spec.to
