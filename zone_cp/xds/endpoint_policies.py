"""MeshHealthCheck's and MeshLoadBalancingStrategy's part in a cluster: they hold where the outside is dialled."""

from __future__ import annotations

from base64 import b64decode
from datetime import timedelta

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.type import v3 as kinds

from shared.model.duration import parse_duration
from shared.model.endpoint_policy import BalancingConf, GrpcCheck, HealthConf, HttpCheck, TcpCheck
from shared.model.resource import Protocol
from zone_cp.xds import defaults


def health_check(said: HealthConf, protocol: Protocol, host: str) -> core.HealthCheck | None:
    """The check of a destination's endpoints; None when nobody asks for one. `host` is what HTTP checks ask for.

    The protocol picks the section; where it is absent or disabled, an enabled `tcp` section stands in.
    """
    made = core.HealthCheck(
        interval=_duration(said.interval, defaults.HEALTH_INTERVAL),
        timeout=_duration(said.timeout, defaults.HEALTH_TIMEOUT),
        unhealthy_threshold=said.unhealthy_threshold or defaults.UNHEALTHY_THRESHOLD,
        healthy_threshold=said.healthy_threshold or defaults.HEALTHY_THRESHOLD,
        initial_jitter=parse_duration(said.initial_jitter) if said.initial_jitter else None,
        interval_jitter=parse_duration(said.interval_jitter) if said.interval_jitter else None,
        interval_jitter_percent=said.interval_jitter_percent or 0,
        no_traffic_interval=parse_duration(said.no_traffic_interval) if said.no_traffic_interval else None,
        reuse_connection=said.reuse_connection,
    )
    if protocol == "grpc" and said.grpc is not None and not said.grpc.disabled:
        made.grpc_health_check = _grpc(said.grpc, host)
    elif protocol in ("http", "http2") and said.http is not None and not said.http.disabled:
        made.http_health_check = _http(said.http, host, framed=protocol == "http2")
    elif said.tcp is not None and not said.tcp.disabled:
        made.tcp_health_check = _tcp(said.tcp)
    else:
        return None
    return made


def _http(said: HttpCheck, host: str, *, framed: bool) -> core.HealthCheckHttpHealthCheck:
    actions = core.HeaderValueOptionHeaderAppendAction
    change = said.request_headers_to_add
    headers = [(one, actions.OVERWRITE_IF_EXISTS_OR_ADD) for one in (change and change.set) or ()]
    headers += [(one, actions.APPEND_IF_EXISTS_OR_ADD) for one in (change and change.add) or ()]
    return core.HealthCheckHttpHealthCheck(
        host=host,
        path=said.path or "/",
        request_headers_to_add=[
            core.HeaderValueOption(header=core.HeaderValue(key=one.name, value=one.value), append_action=action)
            for one, action in headers
        ],
        expected_statuses=[
            kinds.Int64Range(start=status, end=status + 1) for status in said.expected_statuses or (200,)
        ],
        codec_client_type=kinds.CodecClientType.HTTP2 if framed else kinds.CodecClientType.HTTP1,
    )


def _grpc(said: GrpcCheck, host: str) -> core.HealthCheckGrpcHealthCheck:
    return core.HealthCheckGrpcHealthCheck(service_name=said.service_name or "", authority=said.authority or host)


def _tcp(said: TcpCheck) -> core.HealthCheckTcpHealthCheck:
    return core.HealthCheckTcpHealthCheck(
        send=_payload(said.send) if said.send else None, receive=[_payload(text) for text in said.receive or ()]
    )


def _payload(text: str) -> core.HealthCheckPayload:
    # The field is called text, and holds hexadecimal digits.
    return core.HealthCheckPayload(text=b64decode(text).hex())


def balance(made: cluster.Cluster, said: BalancingConf) -> None:
    """Set on a cluster how it chooses an endpoint."""
    chosen = said.load_balancer
    if chosen is None:
        return
    match chosen.type:
        case "RoundRobin":
            made.lb_policy = cluster.ClusterLbPolicy.ROUND_ROBIN
        case "Random":
            made.lb_policy = cluster.ClusterLbPolicy.RANDOM
        case "LeastRequest":
            made.lb_policy = cluster.ClusterLbPolicy.LEAST_REQUEST
            tuned = chosen.least_request
            if tuned is not None:
                bias = tuned.active_request_bias
                made.least_request_lb_config = cluster.ClusterLeastRequestLbConfig(
                    choice_count=tuned.choice_count,
                    active_request_bias=core.RuntimeDouble(default_value=float(bias), runtime_key="zonal.none")
                    if bias is not None
                    else None,
                )


def _duration(text: str | None, default: timedelta) -> timedelta:
    said = parse_duration(text) if text is not None else None
    return default if said is None else said
