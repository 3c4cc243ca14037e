"""Builtin gateways among Dataplanes."""

from __future__ import annotations

from shared.model.resource import Dataplane


def is_builtin(resource: Dataplane) -> bool:
    """Whether a Dataplane is a gateway that a MeshGateway configures, and not a sidecar."""
    gateway = resource.networking.gateway
    return gateway is not None and gateway.type == "BUILTIN"
