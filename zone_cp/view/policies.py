"""Policies of a mesh → what holds for one proxy and one external service. Pure; the order is that of spec 4 B1.

Ascending, a later rule overrides an earlier one field by field (RFC 7396; lists are replaced):
top-level kind, for a Dataplane no selector < labels < name, global < zone origin, `to` kind, display name
descending (so the smallest name wins), position within the policy. The order in which events arrived says
nothing. Deviations: a policy of a zone that names a service means the zone's own and global's of that name.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

from shared.events.event import EventRef
from shared.events.selecting import selects
from shared.events.state import Stored
from shared.events.traffic_permission import allowed_by
from shared.model import codec
from shared.model.endpoint_policy import BalancingConf, HealthConf
from shared.model.log_policy import LogConf
from shared.model.part import NO_LABELS, Labels
from shared.model.passthrough_policy import MeshPassthrough, PassthroughConf
from shared.model.policy import (
    EFFECT_LABEL,
    SHADOW,
    BreakerConf,
    MeshTrafficPermission,
    Policy,
    RetryConf,
    SpiffeMatch,
    TimeoutConf,
    ToConf,
    is_meant,
    items_of,
)
from shared.model.resource import Dataplane, ResourceKey
from shared.model.route_policy import HttpRouteConf, HttpRouteItem, TcpRouteConf
from shared.model.target import TargetRef
from shared.model.traffic_permission import TrafficPermission
from zone_cp.view.callers import callers
from zone_cp.view.routing import HttpRouting, Origin, TcpRouting, http_routing, tcp_routing
from zone_cp.view.sources import joined

_KIND_RANK = {
    "Mesh": 1,
    "Dataplane": 2,
    "MeshSubset": 3,
    "MeshGateway": 4,
    "MeshService": 5,
    "MeshExternalService": 6,
    "MeshServiceSubset": 8,
    "MeshHTTPRoute": 9,
}
_WHOLE_MESH = TargetRef(kind="Mesh")

C = TypeVar("C", TimeoutConf, RetryConf, BreakerConf, HealthConf, BalancingConf, LogConf)


class Rule(msgspec.Struct, frozen=True):
    """One `to` item: for the proxies of `top`, towards the services of `to`, `conf` holds. zone is the origin.

    key and labels are the policy's own, which another policy may target when it is a route. hostnames are those that a
    route on a gateway is for, () for any.
    """

    top: TargetRef
    to: TargetRef
    zone: str
    conf: ToConf
    source: EventRef
    key: ResourceKey
    labels: Labels = NO_LABELS
    hostnames: tuple[str, ...] = ()


class Guard(msgspec.Struct, frozen=True):
    """One MeshTrafficPermission."""

    to: TargetRef
    zone: str
    deny: frozenset[SpiffeMatch]
    allow: frozenset[SpiffeMatch]
    source: EventRef


class Passing(msgspec.Struct, frozen=True):
    """One MeshPassthrough, or what several say together: which undeclared destinations the proxies of `top` reach."""

    top: TargetRef
    zone: str
    conf: PassthroughConf
    sources: tuple[EventRef, ...]


class Traffic(msgspec.Struct, frozen=True):
    """One TrafficPermission: created is when it was, in the order of global's log."""

    created: int
    permission: TrafficPermission
    source: EventRef


class MeshPolicies(msgspec.Struct, frozen=True):
    """All policies of a mesh in a zone: rules and passing by ascending precedence, guards by name, traffic by age."""

    rules: tuple[Rule, ...] = ()
    guards: tuple[Guard, ...] = ()
    passing: tuple[Passing, ...] = ()
    traffic: tuple[Traffic, ...] = ()

    @property
    def tells_apart(self) -> bool:
        """Whether a policy selects proxies by more than what they do: by name, labels, tags."""
        tops = (*(one.top for one in self.rules), *(one.top for one in self.passing))
        # The listeners of a MeshGateway follow from what its Dataplanes are tagged with.
        return any(top.kind not in ("Mesh", "MeshGateway") for top in tops)


class Effective(msgspec.Struct, frozen=True, cache_hash=True):
    """What holds for one proxy and one service: None where nobody says anything, so that defaults hold.

    origins names, for every field that is set (`timeout.http.requestTimeout`), the event it follows from.
    """

    timeout: TimeoutConf = TimeoutConf()
    retry: RetryConf = RetryConf()
    breaker: BreakerConf = BreakerConf()
    health: HealthConf = HealthConf()
    balancing: BalancingConf = BalancingConf()
    log: LogConf = LogConf()
    http: tuple[HttpRouting, ...] = ()
    tcp: TcpRouting | None = None
    origins: tuple[tuple[str, EventRef], ...] = ()

    @property
    def sources(self) -> tuple[EventRef, ...]:
        """The events that a field which is set follows from, each once."""
        return joined((), [event for _, event in self.origins])


class Permission(msgspec.Struct, frozen=True):
    """Who may use a service that is guarded: deny wins, who is in neither list is denied.

    by: the kinds of permission that say so; on: the kind of service that they are about.
    """

    deny: tuple[SpiffeMatch, ...]
    allow: tuple[SpiffeMatch, ...]
    sources: tuple[EventRef, ...] = ()
    by: tuple[str, ...] = ()
    on: str = ""

    def allows(self, spiffe_id: str) -> bool:
        """Whether the holder of a SPIFFE id may use the service."""
        denied = any(is_meant(spiffe_id, one) for one in self.deny)
        return not denied and any(is_meant(spiffe_id, one) for one in self.allow)


NO_POLICIES = MeshPolicies()
NOTHING_SAID = Effective()


def mesh_policies(policies: Iterable[tuple[Policy, Stored]], traffic: Iterable[Stored] = ()) -> MeshPolicies:
    """The policies of one mesh in order. Those in shadow have no effect."""
    rules: list[tuple[tuple[int, ...], Rule]] = []
    guards: list[Guard] = []
    passing: list[Passing] = []
    # By name descending first: the sort below is stable, so that order decides last.
    for policy, stored in sorted(policies, key=lambda one: (one[1].key.name, one[1].key), reverse=True):
        if policy.labels.get(EFFECT_LABEL) == SHADOW:
            continue
        if isinstance(policy, MeshTrafficPermission):
            guards.append(_guard(policy, stored))
            continue
        top = policy.spec.target_ref or _WHOLE_MESH
        if isinstance(policy, MeshPassthrough):
            passing.append(Passing(top, stored.key.zone, policy.spec.default, (stored.last,)))
            continue
        for item in items_of(policy):
            names = item.hostnames if isinstance(item, HttpRouteItem) else ()
            rule = Rule(
                top, item.target_ref, stored.key.zone, item.default, stored.last, stored.key, policy.labels, names
            )
            rules.append((_rank(rule), rule))
    rules.sort(key=lambda one: one[0])
    passing.sort(key=lambda one: _top_rank(one.top, one.zone))
    older = [
        Traffic(stored.created.n, stored.resource, stored.last)
        for stored in sorted(traffic, key=lambda one: one.created.n)
        if isinstance(stored.resource, TrafficPermission)
    ]
    return MeshPolicies(tuple(rule for _, rule in rules), tuple(guards), tuple(passing), tuple(older))


def for_proxy(policies: MeshPolicies, proxy: Dataplane) -> tuple[Rule, ...]:
    """The rules whose top level selects a sidecar, or all of a gateway."""
    return tuple(rule for rule in policies.rules if selects(rule.top, proxy))


def for_egress(policies: MeshPolicies) -> tuple[Rule, ...]:
    """The rules that hold for all clients alike, and so at the zone egress (spec 4 §6.8)."""
    return tuple(rule for rule in policies.rules if is_for_all(rule.top) and not is_route(rule))


def passing(policies: MeshPolicies, proxy: Dataplane) -> Passing | None:
    """What all MeshPassthroughs for a proxy say together: lists are added up, the last mode holds; None: none is."""
    found = [one for one in policies.passing if selects(one.top, proxy)]
    if not found:
        return None
    mode = next((one.conf.passthrough_mode for one in reversed(found) if one.conf.passthrough_mode is not None), None)
    matches = tuple(match for one in found for match in one.conf.append_match or ())
    conf = PassthroughConf(passthrough_mode=mode, append_match=tuple(dict.fromkeys(matches)))
    return Passing(found[-1].top, found[-1].zone, conf, joined((), *(one.sources for one in found)))


def is_for_all(top: TargetRef) -> bool:
    """Whether a top-level targetRef selects every sidecar of the mesh."""
    return top.kind == "Mesh" and (not top.proxy_types or "Sidecar" in top.proxy_types)


def effective(rules: tuple[Rule, ...], key: ResourceKey, labels: Labels) -> Effective:
    """What the selected rules say about a service, merged."""
    matched = tuple(rule for rule in rules if targets(rule.to, rule.zone, key, labels))
    if not matched:
        return NOTHING_SAID
    said = merged(matched)
    return said if not said.http else with_routes(said, matched, rules)


def at_large(rules: tuple[Rule, ...]) -> Effective:
    """What the selected rules say about every service of the mesh."""
    return merged(tuple(rule for rule in rules if rule.to.kind == "Mesh"))


def particular(rules: tuple[Rule, ...]) -> bool:
    """Whether a rule singles services out."""
    return any(rule.to.kind != "Mesh" for rule in rules)


def permission(policies: MeshPolicies, key: ResourceKey, labels: Labels, service: str = "") -> Permission | None:
    """Who may use a service; None while no permission guards it. service: the `kuma.io/service` of a legacy one."""
    found = [guard for guard in policies.guards if _guards(guard, key, labels, service)]
    if not found:
        return _legacy_permission(policies.traffic, service)
    deny = sorted({one for guard in found for one in guard.deny}, key=spelled)
    allow = sorted({one for guard in found for one in guard.allow}, key=spelled)
    on = "ExternalService" if service else key.kind
    sources = tuple(guard.source for guard in found)
    return Permission(tuple(deny), tuple(allow), sources, ("MeshTrafficPermission",), on)


def _legacy_permission(traffic: tuple[Traffic, ...], service: str) -> Permission | None:
    """What TrafficPermissions say of a legacy service that no MeshTrafficPermission guards."""
    allowed = allowed_by(((one.created, one.permission) for one in traffic), service) if service else None
    if allowed is None:
        return None
    # Each of them could be the one that decides.
    sources = tuple(one.source for one in traffic)
    return Permission((), tuple(sorted(allowed, key=spelled)), sources, ("TrafficPermission",), "ExternalService")


def _guards(guard: Guard, key: ResourceKey, labels: Labels, service: str) -> bool:
    if service or guard.to.kind == "MeshService":
        return guard.to.kind == "MeshService" and guard.to.name == service
    return targets(guard.to, guard.zone, key, labels)


def targets(ref: TargetRef, zone: str, key: ResourceKey, labels: Labels) -> bool:
    """Whether `ref`, in a policy that originates in `zone`, means a service."""
    if ref.kind == "Mesh":
        return True
    if ref.kind != key.kind:
        return False
    if ref.name:
        return ref.name == key.name and key.zone in ("", zone)
    return all(labels.get(label) == value for label, value in ref.labels.items())


# --- order and merging --------------------------------------------------------------------------------------------


def _rank(rule: Rule) -> tuple[int, ...]:
    return (*_top_rank(rule.top, rule.zone), _KIND_RANK[rule.to.kind])


def _top_rank(top: TargetRef, zone: str) -> tuple[int, ...]:
    selector = (2 if top.name else 1 if top.labels else 0) if top.kind == "Dataplane" else 0
    tags = len(top.tags) if top.kind == "MeshGateway" else 0
    return (_KIND_RANK[top.kind], selector, int(bool(zone)), tags)


def is_route(rule: Rule) -> bool:
    """Whether a rule says where a client's requests go, or something about such a route: no matter of a zone egress."""
    return isinstance(rule.conf, HttpRouteConf | TcpRouteConf) or rule.to.kind == "MeshHTTPRoute"


def _guard(policy: MeshTrafficPermission, stored: Stored) -> Guard:
    deny, allow = callers(policy)
    return Guard(to=policy.spec.target_ref, zone=stored.key.zone, deny=deny, allow=allow, source=stored.last)


def spelled(one: SpiffeMatch) -> tuple[str, str]:
    """What matches are sorted by."""
    return one.type, one.value


@lru_cache(maxsize=4096)
def merged(rules: tuple[Rule, ...]) -> Effective:
    """What rules say together, whatever each of them is about."""
    timeout, said = _family(rules, TimeoutConf, "timeout")
    retry, more = _family(rules, RetryConf, "retry")
    breaker, most = _family(rules, BreakerConf, "breaker")
    health, checks = _family(rules, HealthConf, "health")
    balancing, choices = _family(rules, BalancingConf, "balancing")
    log, lines = _family(rules, LogConf, "log")
    routes = [(one.conf, origin_of(one)) for one in rules]
    http = http_routing((conf, origin) for conf, origin in routes if isinstance(conf, HttpRouteConf))
    tcp = tcp_routing((conf, origin) for conf, origin in routes if isinstance(conf, TcpRouteConf))
    origins = sorted((said | more | most | checks | choices | lines | _route_origins(http, tcp)).items())
    return Effective(timeout, retry, breaker, health, balancing, log, http, tcp, tuple(origins))


def origin_of(rule: Rule) -> Origin:
    """The policy of a rule."""
    return Origin(rule.key, rule.source, rule.labels)


def _route_origins(http: tuple[HttpRouting, ...], tcp: TcpRouting | None) -> dict[str, EventRef]:
    found = {"tcpRoute.backendRefs": tcp.origin.source} if tcp is not None else {}
    for index, one in enumerate(http):
        found[f"httpRoute[{index}]"] = one.origin.source
        found[f"httpRoute[{index}].backendRefs"] = one.backend_origin.source
    return found


def with_routes(said: Effective, matched: tuple[Rule, ...], rules: tuple[Rule, ...]) -> Effective:
    """What is said about a service, and about the routes that hold for it in particular."""
    if not any(rule.to.kind == "MeshHTTPRoute" for rule in rules):
        return said
    http: list[HttpRouting] = []
    origins = dict(said.origins)
    holding = set(matched)
    for index, one in enumerate(said.http):
        route = one.origin
        about = {rule for rule in rules if targets(rule.to, rule.zone, route.key, route.labels)} - holding
        if not any(rule.to.kind == "MeshHTTPRoute" for rule in about):
            http.append(one)
            continue
        both = merged(tuple(rule for rule in rules if rule in holding or rule in about))
        http.append(msgspec.structs.replace(one, timeout=both.timeout, retry=both.retry))
        origins |= {
            f"httpRoute[{index}].{field}": source
            for field, source in both.origins
            if field.startswith(("timeout.", "retry."))
        }
    return msgspec.structs.replace(said, http=tuple(http), origins=tuple(sorted(origins.items())))


def _family(rules: tuple[Rule, ...], wanted: type[C], prefix: str) -> tuple[C, dict[str, EventRef]]:
    whole: dict[str, Any] = {}
    origins: dict[str, EventRef] = {}
    for rule in rules:
        if isinstance(rule.conf, wanted):
            _patch(whole, codec.to_plain(rule.conf), prefix, rule.source, origins)
    return cast("C", codec.convert(whole, wanted)), origins


def _patch(
    whole: dict[str, Any], patch: dict[str, Any], path: str, source: EventRef, origins: dict[str, EventRef]
) -> None:
    """RFC 7396 without nulls, which no policy can hold: objects are merged, all else is replaced."""
    for name, value in patch.items():
        where = f"{path}.{name}"
        if isinstance(value, dict):
            inner = whole.setdefault(name, {})
            _patch(inner, value, where, source, origins)
        else:
            whole[name] = value
            origins[where] = source
