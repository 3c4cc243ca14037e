"""What policies say to one listener of a builtin gateway (spec 4 A9, B). Pure.

A policy may mean the whole gateway, as it means a sidecar, or by `kind: MeshGateway` those of its listeners that carry
some tags.
"""

from __future__ import annotations

from shared.events.selecting import selects, selects_listener
from shared.model.part import Labels
from shared.model.resource import Dataplane, ResourceKey
from zone_cp.view.policies import MeshPolicies, Rule, is_route


def for_listener(policies: MeshPolicies, proxy: Dataplane, gateway: ResourceKey, tags: Labels) -> tuple[Rule, ...]:
    """The rules for a listener with these effective tags, by ascending precedence; without the routes on it."""
    return tuple(rule for rule in policies.rules if _meant(rule, proxy, gateway, tags))


def routes_on(policies: MeshPolicies, gateway: ResourceKey, tags: Labels) -> tuple[Rule, ...]:
    """The rules of MeshHTTPRoutes and MeshTCPRoutes on a listener, by ascending precedence."""
    return tuple(
        rule for rule in policies.rules if is_route(rule) and selects_listener(rule.top, rule.zone, gateway, tags)
    )


def _meant(rule: Rule, proxy: Dataplane, gateway: ResourceKey, tags: Labels) -> bool:
    if rule.top.kind == "MeshGateway":
        return not is_route(rule) and selects_listener(rule.top, rule.zone, gateway, tags)
    return selects(rule.top, proxy)
