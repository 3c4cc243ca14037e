"""What a service probe must satisfy beyond its shape."""

from __future__ import annotations

from datetime import timedelta

from shared.model.duration import parse_duration
from shared.model.inbound import ServiceProbe
from shared.model.value_rules import REQUIRED, Found, duration, positive

INTERVAL_MIN = timedelta(milliseconds=100)
"""More often an application is asked by nobody."""


def service_probe_violations(one: ServiceProbe, path: str) -> Found:
    """(path, reason) of every broken rule of the probe at `path`."""
    if one.tcp is None:
        yield f"{path}.tcp", REQUIRED
    yield from duration(one.interval, f"{path}.interval", above_zero=True)
    interval = parse_duration(one.interval) if one.interval is not None else None
    if interval is not None and timedelta(0) < interval < INTERVAL_MIN:
        yield f"{path}.interval", "must be at least 100ms"
    yield from duration(one.timeout, f"{path}.timeout", above_zero=True)
    yield from positive(one.unhealthy_threshold, f"{path}.unhealthyThreshold")
    yield from positive(one.healthy_threshold, f"{path}.healthyThreshold")
