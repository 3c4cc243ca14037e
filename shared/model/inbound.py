"""A port of an application behind a sidecar, and whether it may be given traffic."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias

import msgspec

from shared.model.addresses import is_ip
from shared.model.part import Labels, Part

SERVICE_TAG = "kuma.io/service"
PROTOCOL_TAG = "kuma.io/protocol"
ProtocolWord: TypeAlias = Literal["tcp", "http", "http2", "grpc", "kafka"]
PROTOCOL_WORDS = ("grpc", "http", "http2", "kafka", "tcp")
"""As Kuma lists them; kafka is carried as tcp."""


PROBE_INTERVAL, PROBE_TIMEOUT = timedelta(seconds=1), timedelta(seconds=2)


class InboundHealth(Part, frozen=True, kw_only=True):
    """Kuma's older word for `state`; both must agree that the inbound is ready."""

    ready: bool = True


class TcpProbe(Part, frozen=True, kw_only=True):
    """A connection that the application accepts. It has no fields, as in Kuma."""


class ServiceProbe(Part, frozen=True, kw_only=True):
    """How the proxy's agent finds out whether the application is there.

    Durations, and how many outcomes of a kind in a row count. Absent they are Kuma's: every second, within 2 s, one.
    """

    interval: str | None = None
    timeout: str | None = None
    unhealthy_threshold: int | None = None
    healthy_threshold: int | None = None
    tcp: TcpProbe | None = None


class Inbound(Part, frozen=True, kw_only=True):
    """A port of the application. `tags["kuma.io/service"]` is the workload's service name.

    state: `NotReady` takes it out of the endpoints of its service; `Ignored` serves it to nobody, without a listener.
    With a service_probe the zone sets it, to what the proxy's agent finds out.
    protocol: what the application speaks; absent, the tag `kuma.io/protocol` says it, and without that it is tcp.
    """

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    service_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    service_address: str | None = None
    address: str | None = None
    tags: Labels
    name: str | None = None
    state: Literal["Ready", "NotReady", "Ignored"] = "Ready"
    health: InboundHealth = InboundHealth()
    protocol: ProtocolWord | None = None
    service_probe: ServiceProbe | None = None

    @property
    def ready(self) -> bool:
        """Whether it declares itself fit for traffic."""
        return self.state == "Ready" and self.health.ready


def is_probed(inbound: Inbound) -> bool:
    """Whether the proxy's agent finds out if it is fit for traffic; an inbound that nobody is served is not asked."""
    return inbound.service_probe is not None and inbound.service_probe.tcp is not None and inbound.state != "Ignored"


def application(inbound: Inbound) -> tuple[str, int]:
    """Where the application itself listens."""
    return inbound.service_address or "127.0.0.1", inbound.service_port or inbound.port


def listener_host(workload: str, inbound: Inbound) -> str:
    """Where the sidecar of a workload at address `workload` listens for an inbound.

    "" where it does not: the application itself holds the address, or the address is no IP to bind.
    """
    host = inbound.address or workload
    return host if (host, inbound.port) != application(inbound) and inbound.state != "Ignored" and is_ip(host) else ""
