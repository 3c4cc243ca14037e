"""What a MeshGatewayRoute must satisfy: Kuma's rules and sentences (`spec/4-gateway-and-policies.md` A10)."""

from __future__ import annotations

from shared.model.gateway_route import MeshGatewayRoute
from shared.model.gateway_rules import selector_violations
from shared.model.value_rules import Found


def gateway_route_violations(one: MeshGatewayRoute) -> Found:
    """(path, reason) of every broken rule."""
    yield from selector_violations(one.selectors)
    if one.conf is None:
        yield "conf", "cannot be empty"
