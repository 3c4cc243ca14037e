"""MeshTimeout's and MeshCircuitBreaker's part in a cluster: they hold where the outside is dialled."""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.type import v3 as kinds

from shared.model.duration import parse_duration
from shared.model.policy import BreakerConf, Detectors, OutlierConf, TimeoutConf
from shared.model.target import IntOrString
from zone_cp.view.policies import NOTHING_SAID, Effective
from zone_cp.xds import defaults

DEVIATION_FACTOR = 1000
"""Envoy's standard deviation factor is a thousand times Kuma's."""


def cluster_part(said: Effective) -> Effective:
    """What is said, without what no cluster holds: equal parts are encoded once."""
    if said is NOTHING_SAID:
        return said
    timeout = said.timeout
    longest = timeout.http.max_connection_duration if timeout.http is not None else None
    return Effective(
        timeout=TimeoutConf(
            connection_timeout=timeout.connection_timeout,
            idle_timeout=timeout.idle_timeout,
            http=type(timeout.http)(max_connection_duration=longest) if timeout.http and longest else None,
        ),
        breaker=said.breaker,
        health=said.health,
        balancing=said.balancing,
    )


def connect_timeout(said: Effective) -> timedelta:
    """How long a connection to the outside may take to come about."""
    return _duration(said.timeout.connection_timeout) or defaults.CONNECT_TIMEOUT


def connections(said: Effective) -> core.HttpProtocolOptions:
    """Limits of pooled HTTP connections."""
    idle = _duration(said.timeout.idle_timeout)
    longest = _duration(said.timeout.http.max_connection_duration) if said.timeout.http is not None else None
    return core.HttpProtocolOptions(
        idle_timeout=defaults.CONNECTION_IDLE_TIMEOUT if idle is None else idle,
        max_connection_duration=longest or defaults.NO_TIMEOUT,
        max_stream_duration=defaults.NO_TIMEOUT,
    )


def limits(conf: BreakerConf) -> cluster.CircuitBreakers:
    """Limits of one service: what nobody sets is Kuma's default."""
    said = conf.connection_limits
    retries = defaults.SERVICE_RETRY_LIMIT if said is None else said.max_retries or defaults.POLICY_RETRY_LIMIT
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                priority=priority,
                max_connections=(said and said.max_connections) or defaults.SERVICE_LIMIT,
                max_pending_requests=(said and said.max_pending_requests) or defaults.SERVICE_LIMIT,
                max_requests=(said and said.max_requests) or defaults.SERVICE_LIMIT,
                max_retries=retries,
                max_connection_pools=said.max_connection_pools if said else None,
                track_remaining=True,
            )
            for priority in (core.RoutingPriority.DEFAULT, core.RoutingPriority.HIGH)
        ]
    )


def outlier_detection(conf: OutlierConf) -> cluster.OutlierDetection | None:
    """What ejects an endpoint: the detectors that are given, and no other; None when it is disabled."""
    if conf.disabled:
        return None
    found = conf.detectors or Detectors()
    made = cluster.OutlierDetection(
        interval=_duration(conf.interval),
        base_ejection_time=_duration(conf.base_ejection_time),
        max_ejection_percent=conf.max_ejection_percent,
        split_external_local_origin_errors=bool(conf.split_external_and_local_errors),
        enforcing_consecutive_5xx=100 if found.total_failures else 0,
        enforcing_consecutive_gateway_failure=100 if found.gateway_failures else 0,
        enforcing_consecutive_local_origin_failure=100 if found.local_origin_failures else 0,
        enforcing_success_rate=100 if found.success_rate else 0,
        enforcing_local_origin_success_rate=100 if found.success_rate else 0,
        enforcing_failure_percentage=100 if found.failure_percentage else 0,
        enforcing_failure_percentage_local_origin=100 if found.failure_percentage else 0,
    )
    if found.total_failures is not None:
        made.consecutive_5xx = found.total_failures.consecutive
    if found.gateway_failures is not None:
        made.consecutive_gateway_failure = found.gateway_failures.consecutive
    if found.local_origin_failures is not None:
        made.consecutive_local_origin_failure = found.local_origin_failures.consecutive
    _statistics(made, found)
    return made


def _statistics(made: cluster.OutlierDetection, found: Detectors) -> None:
    rate, share = found.success_rate, found.failure_percentage
    if rate is not None:
        made.success_rate_minimum_hosts = rate.minimum_hosts
        made.success_rate_request_volume = rate.request_volume
        if rate.standard_deviation_factor is not None:
            made.success_rate_stdev_factor = round(float(rate.standard_deviation_factor) * DEVIATION_FACTOR)
    if share is not None:
        made.failure_percentage_minimum_hosts = share.minimum_hosts
        made.failure_percentage_request_volume = share.request_volume
        made.failure_percentage_threshold = share.threshold


def panic(said: Effective) -> cluster.ClusterCommonLbConfig | None:
    """When so few endpoints are healthy that all of them are used, or none; None: Envoy's defaults."""
    outliers = said.breaker.outlier_detection
    threshold: IntOrString | None = said.health.healthy_panic_threshold
    if outliers is not None and not outliers.disabled and outliers.healthy_panic_threshold is not None:
        threshold = outliers.healthy_panic_threshold
    if threshold is None and said.health.fail_traffic_on_panic is None:
        return None
    made = cluster.ClusterCommonLbConfig()
    if threshold is not None:
        made.healthy_panic_threshold = kinds.Percent(value=float(threshold))
    if said.health.fail_traffic_on_panic:
        made.zone_aware_lb_config = cluster.ClusterCommonLbConfigZoneAwareLbConfig(fail_traffic_on_panic=True)
    return made


def _duration(text: str | None) -> timedelta | None:
    return parse_duration(text) if text is not None else None
