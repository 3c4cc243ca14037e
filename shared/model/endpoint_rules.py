"""What policies on endpoints must satisfy beyond their shape (`spec/4-gateway-and-policies.md` B3.6, B3.9)."""

from __future__ import annotations

import re

from shared.model.endpoint_policy import BalancingConf, HealthConf
from shared.model.material import base64_fault
from shared.model.value_rules import Found, duration, header_name, percent, positive

REQUIRED = "must be defined"
_path = re.compile(r"/[!-~]*")
"""What can stand in the first line of a request."""


def health(conf: HealthConf, path: str) -> Found:
    """What a MeshHealthCheck's `default` must satisfy."""
    if conf.tcp is None and conf.http is None and conf.grpc is None:
        yield path, "at least one of the 'tcp', 'http', 'grpc' must be specified"
    yield from duration(conf.interval, f"{path}.interval", above_zero=True)
    yield from duration(conf.timeout, f"{path}.timeout", above_zero=True)
    yield from duration(conf.initial_jitter, f"{path}.initialJitter", above_zero=True)
    yield from duration(conf.interval_jitter, f"{path}.intervalJitter", above_zero=True)
    yield from duration(conf.no_traffic_interval, f"{path}.noTrafficInterval", above_zero=True)
    yield from positive(conf.unhealthy_threshold, f"{path}.unhealthyThreshold")
    yield from positive(conf.healthy_threshold, f"{path}.healthyThreshold")
    yield from positive(conf.interval_jitter_percent, f"{path}.intervalJitterPercent")
    yield from percent(conf.healthy_panic_threshold, f"{path}.healthyPanicThreshold")
    if conf.http is not None:
        if conf.http.path is not None and not _path.fullmatch(conf.http.path):
            yield f"{path}.http.path", "must be a valid path when defined"
        for index, status in enumerate(conf.http.expected_statuses or ()):
            if not 100 <= status <= 599:
                yield f"{path}.http.expectedStatuses[{index}]", "must be in inclusive range [100, 599]"
        change = conf.http.request_headers_to_add
        for verb, headers in (("set", change and change.set), ("add", change and change.add)):
            for index, one in enumerate(headers or ()):
                where = f"{path}.http.requestHeadersToAdd.{verb}[{index}]"
                yield from header_name(one.name, f"{where}.name")
                if one.name.lower() == "host":  # Envoy refuses the whole cluster
                    yield f"{where}.name", "must not be host"
                if "%" in one.value or not one.value.isprintable():
                    yield f"{where}.value", "must be printable and hold no percent sign"
    if conf.tcp is not None:
        for name, text in (
            ("send", conf.tcp.send),
            *((f"receive[{i}]", r) for i, r in enumerate(conf.tcp.receive or ())),
        ):
            if text is not None and (reason := base64_fault(text)):
                yield f"{path}.tcp.{name}", reason


def balancing(conf: BalancingConf, path: str) -> Found:
    """What a MeshLoadBalancingStrategy's `default` must satisfy."""
    balancer = conf.load_balancer
    if balancer is None:
        yield f"{path}.loadBalancer", REQUIRED
        return
    for kind, name, given in (
        ("RoundRobin", "roundRobin", balancer.round_robin),
        ("LeastRequest", "leastRequest", balancer.least_request),
        ("Random", "random", balancer.random),
    ):
        if given is not None and kind != balancer.type:
            yield f"{path}.loadBalancer.{name}", f"must be empty when type is {balancer.type}"
    if balancer.least_request is not None:
        count = balancer.least_request.choice_count
        if count is not None and not 2 <= count <= 2**32 - 1:
            yield f"{path}.loadBalancer.leastRequest.choiceCount", "must be greater than or equal to 2"
        bias = balancer.least_request.active_request_bias
        yield from percent(bias, f"{path}.loadBalancer.leastRequest.activeRequestBias", 1000)
