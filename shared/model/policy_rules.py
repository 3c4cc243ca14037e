"""What a policy must satisfy beyond its shape: Kuma's rules and sentences (`spec/4-gateway-and-policies.md` B0, B3)."""

from __future__ import annotations

from typing import assert_never

from shared.model.endpoint_policy import BalancingConf, HealthConf, MeshHealthCheck, MeshLoadBalancingStrategy
from shared.model.endpoint_rules import balancing, health
from shared.model.log_policy import LogConf, MeshAccessLog
from shared.model.passthrough_policy import MeshPassthrough
from shared.model.passthrough_rules import passthrough
from shared.model.policy import (
    BackOff,
    BreakerConf,
    ConnectionLimits,
    Detectors,
    GrpcRetry,
    HttpRetry,
    MeshCircuitBreaker,
    MeshRetry,
    MeshTimeout,
    MeshTrafficPermission,
    OutlierConf,
    PermissionConf,
    Policy,
    RetryConf,
    TimeoutConf,
    ToConf,
    ToItem,
    ToPolicy,
    items_of,
)
from shared.model.route_policy import (
    HttpRouteConf,
    HttpRouteItem,
    MeshHTTPRoute,
    MeshTCPRoute,
    TcpRouteConf,
    TcpRouteItem,
)
from shared.model.route_rules import hostnames, http_rules, route_part, tcp_rules
from shared.model.target_rules import (
    GUARDED_KINDS,
    SERVICE_KINDS,
    TO_KINDS,
    TO_OR_ROUTE_KINDS,
    WHOLE_MESH,
    WHOLE_PROXY_KINDS,
    from_violations,
    to_violations,
    top_violations,
)
from shared.model.value_rules import (
    NOT_EMPTY,
    NOT_NEGATIVE,
    REQUIRED,
    Found,
    duration,
    header_matches,
    log_format,
    percent,
    positive,
)

SHARED_AT_EGRESS = (
    "kind MeshExternalService is only allowed with targetRef.kind: Mesh as it is configured on the Zone Egress and "
    "shared by all clients in the mesh"
)
"""Kuma 2.9's sentence; 2.14 lets such a policy leak to all clients (B2), which is worse than refusing it."""

HTTP_RETRY_ON = {
    "5xx": "5xx",
    "GatewayError": "gateway-error",
    "Reset": "reset",
    "Retriable4xx": "retriable-4xx",
    "ConnectFailure": "connect-failure",
    "EnvoyRatelimited": "envoy-ratelimited",
    "RefusedStream": "refused-stream",
    "Http3PostConnectFailure": "http3-post-connect-failure",
}
"""Kuma's words and Envoy's; besides, methods (`HttpMethodGet`) and status codes."""
HTTP_METHODS = frozenset({"Connect", "Delete", "Get", "Head", "Options", "Patch", "Post", "Put", "Trace"})
METHOD_PREFIX = "HttpMethod"
GRPC_RETRY_ON = {
    "Canceled": "cancelled",
    "DeadlineExceeded": "deadline-exceeded",
    "Internal": "internal",
    "ResourceExhausted": "resource-exhausted",
    "Unavailable": "unavailable",
}


def policy_violations(policy: Policy) -> Found:
    """(path, reason) of every broken rule."""
    match policy:
        case MeshTrafficPermission():
            yield from _permission(policy)
        case MeshPassthrough():
            yield from top_violations(policy.spec.target_ref, WHOLE_PROXY_KINDS)
            yield from passthrough(policy.spec.default, "spec.default")
        case (
            MeshTimeout()
            | MeshRetry()
            | MeshCircuitBreaker()
            | MeshHealthCheck()
            | MeshLoadBalancingStrategy()
            | MeshAccessLog()
            | MeshHTTPRoute()
            | MeshTCPRoute()
        ):
            yield from top_violations(policy.spec.target_ref)
            if not policy.spec.to:
                yield "spec.to", "at least one of 'from', 'to' or 'rules' has to be defined"
            for index, item in enumerate(items_of(policy)):
                yield from _item(policy, item, f"spec.to[{index}]")
        case _:
            assert_never(policy)


def _item(policy: ToPolicy, item: ToItem, path: str) -> Found:
    on_gateway = _on_gateway(policy)
    yield from to_violations(item.target_ref, f"{path}.targetRef", _kinds(policy))
    if _is_shared(policy) and item.target_ref.kind == "MeshExternalService" and not _whole_mesh(policy):
        yield f"{path}.targetRef.kind", SHARED_AT_EGRESS
    if isinstance(item, HttpRouteItem):
        yield from hostnames(item.hostnames, f"{path}.hostnames", on_gateway=on_gateway)
    if isinstance(item, TcpRouteItem) and len(item.rules) != 1:
        yield f"{path}.rules", "must hold exactly one rule"
    if item.target_ref.kind == "MeshHTTPRoute":
        yield from route_part(item.default, f"{path}.default")
    yield from _conf(item.default, path, on_gateway=on_gateway)


def _kinds(policy: ToPolicy) -> frozenset[str]:
    on_gateway = _on_gateway(policy)
    match policy:
        case MeshHTTPRoute() | MeshTCPRoute():
            return WHOLE_MESH if on_gateway else SERVICE_KINDS
        case MeshAccessLog() if on_gateway:
            return WHOLE_MESH
        case MeshTimeout() | MeshRetry() if not on_gateway:
            return TO_OR_ROUTE_KINDS
        case _:
            return TO_KINDS


def _is_shared(policy: Policy) -> bool:
    return isinstance(policy, MeshCircuitBreaker | MeshHealthCheck | MeshLoadBalancingStrategy)


def _whole_mesh(policy: ToPolicy) -> bool:
    return policy.spec.target_ref is None or policy.spec.target_ref.kind == "Mesh"


def _on_gateway(policy: ToPolicy) -> bool:
    return policy.spec.target_ref is not None and policy.spec.target_ref.kind == "MeshGateway"


def _conf(conf: ToConf, item: str, *, on_gateway: bool) -> Found:
    path = f"{item}.default"
    match conf:
        case TimeoutConf():
            yield from _timeout(conf, path)
        case RetryConf():
            yield from _retry(conf, path)
        case BreakerConf():
            yield from _breaker(conf, path)
        case HealthConf():
            yield from health(conf, path)
        case BalancingConf():
            yield from balancing(conf, path)
        case LogConf():
            yield from _logs(conf, path)
        case HttpRouteConf():
            yield from http_rules(conf.rules, f"{item}.rules", on_gateway=on_gateway)
        case TcpRouteConf():
            yield from tcp_rules(conf, f"{item}.rules[0]", on_gateway=on_gateway)
        case _:
            assert_never(conf)


# --- the kinds -----------------------------------------------------------------------------------------------------


def _timeout(conf: TimeoutConf, path: str) -> Found:
    if conf == TimeoutConf():
        yield path, "at least one timeout should be configured"
    yield from duration(conf.connection_timeout, f"{path}.connectionTimeout", above_zero=True)
    yield from duration(conf.idle_timeout, f"{path}.idleTimeout")
    http = conf.http
    if http is None:
        return
    given = {
        "requestTimeout": http.request_timeout,
        "streamIdleTimeout": http.stream_idle_timeout,
        "maxStreamDuration": http.max_stream_duration,
        "maxConnectionDuration": http.max_connection_duration,
        "requestHeadersTimeout": http.request_headers_timeout,
    }
    if not any(value is not None for value in given.values()):
        yield f"{path}.http", "at least one timeout in this section should be configured"
    for name, value in given.items():
        yield from duration(value, f"{path}.http.{name}")


def _retry(conf: RetryConf, path: str) -> Found:
    if conf.tcp is None and conf.http is None and conf.grpc is None:
        yield path, "at least one of the 'tcp', 'http', 'grpc' must be specified"
    if conf.tcp is not None:
        if conf.tcp.max_connect_attempt is None:
            yield f"{path}.tcp", NOT_EMPTY
        yield from positive(conf.tcp.max_connect_attempt, f"{path}.tcp.maxConnectAttempt")
    for name, section in (("http", conf.http), ("grpc", conf.grpc)):
        if section is not None:
            yield from _retry_section(section, f"{path}.{name}")
    if conf.http is not None:
        for item in conf.http.retry_on or ():
            if not _http_condition(item):
                yield f"{path}.http.retryOn", f"unknown item '{item}'"
        yield from header_matches(conf.http.retriable_response_headers, f"{path}.http.retriableResponseHeaders")
        yield from header_matches(conf.http.retriable_request_headers, f"{path}.http.retriableRequestHeaders")
    if conf.grpc is not None:
        for item in conf.grpc.retry_on or ():
            if item not in GRPC_RETRY_ON:
                yield f"{path}.grpc.retryOn", f"unknown item '{item}'"


def _http_condition(item: str) -> bool:
    if item.startswith(METHOD_PREFIX):
        return item.removeprefix(METHOD_PREFIX) in HTTP_METHODS
    return item in HTTP_RETRY_ON or (item.isascii() and item.isdigit() and 100 <= int(item) <= 599)


def _retry_section(section: HttpRetry | GrpcRetry, path: str) -> Found:
    if section == type(section)():
        yield path, NOT_EMPTY
    if section.num_retries is not None and not 0 <= section.num_retries < 2**32:
        yield f"{path}.numRetries", NOT_NEGATIVE
    yield from duration(section.per_try_timeout, f"{path}.perTryTimeout")
    if section.back_off is not None:
        if section.back_off == BackOff():
            yield f"{path}.backOff", NOT_EMPTY
        yield from duration(section.back_off.base_interval, f"{path}.backOff.baseInterval", above_zero=True)
        yield from duration(section.back_off.max_interval, f"{path}.backOff.maxInterval", above_zero=True)
    limited = section.rate_limited_back_off
    if limited is not None:
        if not limited.reset_headers:
            yield f"{path}.rateLimitedBackOff.resetHeaders", NOT_EMPTY
        yield from duration(limited.max_interval, f"{path}.rateLimitedBackOff.maxInterval", above_zero=True)


def _breaker(conf: BreakerConf, path: str) -> Found:
    if conf == BreakerConf():
        yield path, "at least one of: 'connectionLimits' or 'outlierDetection' should be configured"
    limits = conf.connection_limits
    if limits is not None:
        if limits == ConnectionLimits():
            yield f"{path}.connectionLimits", NOT_EMPTY
        for name, value in (
            ("maxConnections", limits.max_connections),
            ("maxConnectionPools", limits.max_connection_pools),
            ("maxPendingRequests", limits.max_pending_requests),
            ("maxRetries", limits.max_retries),
            ("maxRequests", limits.max_requests),
        ):
            yield from positive(value, f"{path}.connectionLimits.{name}")
    if conf.outlier_detection is not None:
        yield from _outlier(conf.outlier_detection, f"{path}.outlierDetection")


def _outlier(conf: OutlierConf, path: str) -> Found:
    yield from duration(conf.interval, f"{path}.interval", above_zero=True)
    yield from duration(conf.base_ejection_time, f"{path}.baseEjectionTime", above_zero=True)
    if conf.max_ejection_percent is not None and not 0 <= conf.max_ejection_percent <= 100:
        yield f"{path}.maxEjectionPercent", "must be in inclusive range [0, 100]"
    yield from percent(conf.healthy_panic_threshold, f"{path}.healthyPanicThreshold")
    if not conf.disabled and conf.detectors is None and conf == OutlierConf():
        yield path, NOT_EMPTY
    if conf.detectors is not None:
        yield from _detectors(conf.detectors, f"{path}.detectors")


def _detectors(found: Detectors, path: str) -> Found:
    if found == Detectors():
        yield path, REQUIRED
    for name, one in (
        ("totalFailures", found.total_failures),
        ("gatewayFailures", found.gateway_failures),
        ("localOriginFailures", found.local_origin_failures),
    ):
        if one is not None:
            yield from positive(one.consecutive, f"{path}.{name}.consecutive")
    rate, share = found.success_rate, found.failure_percentage
    if rate is not None:
        yield from positive(rate.minimum_hosts, f"{path}.successRate.minimumHosts")
        yield from positive(rate.request_volume, f"{path}.successRate.requestVolume")
        yield from percent(rate.standard_deviation_factor, f"{path}.successRate.standardDeviationFactor", 1000)
    if share is not None:
        yield from positive(share.minimum_hosts, f"{path}.failurePercentage.minimumHosts")
        yield from positive(share.request_volume, f"{path}.failurePercentage.requestVolume")
        yield from positive(share.threshold, f"{path}.failurePercentage.threshold", 100)


def _logs(conf: LogConf, path: str) -> Found:
    if conf.backends is None:
        yield f"{path}.backends", REQUIRED
    for index, backend in enumerate(conf.backends or ()):
        where = f"{path}.backends[{index}].file"
        if backend.file is None:
            yield where, REQUIRED
            continue
        if not backend.file.path.startswith("/"):
            yield f"{where}.path", "file backend requires a valid path"
        form = backend.file.format
        if form is None:
            continue
        if form.type == "Plain" and not form.plain:
            yield f"{where}.format.plain", NOT_EMPTY
        yield from log_format(form.plain or "", f"{where}.format.plain")
        if form.type == "Json" and not form.json:
            yield f"{where}.format.json", NOT_EMPTY
        for number, field in enumerate(form.json or ()):
            if not field.key:
                yield f"{where}.format.json[{number}].key", "key cannot be empty"
            if not field.value:
                yield f"{where}.format.json[{number}].value", "value cannot be empty"
            yield from log_format(field.value, f"{where}.format.json[{number}].value")


def _permission(policy: MeshTrafficPermission) -> Found:
    ref = policy.spec.target_ref
    # Kuma's permissions on inbound traffic are another matter: decision 20 is about external services alone.
    yield from to_violations(ref, "spec.targetRef", GUARDED_KINDS)
    if ref.kind == "MeshService" and not ref.name:
        yield "spec.targetRef.name", "must be set when kind is MeshService"
    if not policy.spec.rules and not policy.spec.from_:
        yield "spec", "at least one of 'from' or 'rules' has to be defined"
    if policy.spec.rules and policy.spec.from_:
        yield "spec.from", "field 'from' must be empty when 'rules' is defined"
    for index, item in enumerate(policy.spec.from_):
        yield from from_violations(item.target_ref, f"spec.from[{index}].targetRef")
    for index, rule in enumerate(policy.spec.rules):
        yield from _entries(rule.default, f"spec.rules[{index}].default")


def _entries(conf: PermissionConf, path: str) -> Found:
    if not conf.deny and not conf.allow:
        yield path, "at least one of 'allow', 'allowWithShadowDeny', 'deny' has to be defined"
    for name, entries in (("deny", conf.deny), ("allow", conf.allow)):
        for index, entry in enumerate(entries or ()):
            value = entry.spiffe_id.value
            where = f"{path}.{name}[{index}].spiffeID.value"
            if not value.startswith("spiffe://") or len(value) > 2048 or not value.isprintable():
                yield where, f"must be a valid Spiffe ID: {value}"
