"""Which Dataplanes a policy or a MeshGatewayRoute means (spec A15). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from shared.events.gateways import carries, effective_tags, listeners_of
from shared.events.selecting import selects, selects_listener
from shared.events.state import Stored
from shared.model.builtin import is_builtin
from shared.model.gateway import GatewayListener, MeshGateway
from shared.model.gateway_route import MeshGatewayRoute
from shared.model.part import Labels
from shared.model.passthrough_policy import MeshPassthrough
from shared.model.policy import ToPolicy
from shared.model.resource import Dataplane
from shared.model.route_policy import MeshHTTPRoute, MeshTCPRoute
from shared.model.target import TargetRef

Selecting: TypeAlias = ToPolicy | MeshPassthrough | MeshGatewayRoute
"""What is meant for some proxies. A MeshTrafficPermission is about who may use a service."""
EVERY_PROXY = TargetRef(kind="Mesh")


def is_meant(zone: str, one: Selecting, dataplane: Dataplane, bound: Stored | None) -> bool:
    """Whether it says something to a Dataplane, of a zone where it holds.

    zone: of origin of the policy, "" for global's; bound: the MeshGateway of a gateway Dataplane.
    """
    if isinstance(one, MeshGatewayRoute):
        wanted = ("HTTP", "HTTPS") if one.conf is not None and one.conf.http is not None else ("TCP", "TLS")
        return any(
            listener.protocol in wanted and any(carries(tags, selector) for selector in one.selectors)
            for listener, tags in _listeners(dataplane, bound)
        )
    top = one.spec.target_ref or EVERY_PROXY
    if top.kind == "MeshGateway":
        found = _listeners(dataplane, bound)
        return bound is not None and any(selects_listener(top, zone, bound.key, tags) for _, tags in found)
    if is_builtin(dataplane) and isinstance(one, MeshPassthrough | MeshHTTPRoute | MeshTCPRoute):
        return False
    return selects(top, dataplane)


def _listeners(dataplane: Dataplane, bound: Stored | None) -> Iterator[tuple[GatewayListener, Labels]]:
    """The listeners of a gateway with their effective tags."""
    gateway = dataplane.networking.gateway
    if gateway is None or bound is None or not isinstance(bound.resource, MeshGateway):
        return
    for one in listeners_of(bound.resource):
        yield one, effective_tags(gateway.tags, bound.resource, one)
