"""Routes about one service, merged: rules by their `matches`, in the order in which a proxy tries them. Pure.

Exact path before prefix (longer first) before pattern (longer first) before none; then with a method; then more
headers; then more parameters (spec 4 B3.1); then the more specific policy's; then as they were written.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shared.events.event import EventRef
from shared.model.part import NO_LABELS, Labels
from shared.model.policy import RetryConf, TimeoutConf
from shared.model.resource import ResourceKey
from shared.model.route_policy import BackendRef, HttpRouteConf, HttpRuleConf, Match, RouteFilter, TcpRouteConf

_PATH_RANK = {"Exact": 0, "PathPrefix": 1, "RegularExpression": 2}


class Origin(msgspec.Struct, frozen=True):
    """The policy that says something: its key, labels, last event."""

    key: ResourceKey
    source: EventRef
    labels: Labels = NO_LABELS


class HttpRouting(msgspec.Struct, frozen=True):
    """What happens to requests that `match` takes. No backends: they go where they were meant to go.

    origin is the last policy that says something about the rule, backend_origin the one that names the backends;
    timeout and retry are what policies about that route say, None where none is about it. strips_query: a redirect
    drops the query of what was asked for.
    """

    match: Match
    filters: tuple[RouteFilter, ...]
    backends: tuple[BackendRef, ...]
    origin: Origin
    backend_origin: Origin
    timeout: TimeoutConf | None = None
    retry: RetryConf | None = None
    strips_query: bool = False


class TcpRouting(msgspec.Struct, frozen=True):
    """How connections are shared out."""

    backends: tuple[BackendRef, ...]
    origin: Origin


def http_routing(said: Iterable[tuple[HttpRouteConf, Origin]]) -> tuple[HttpRouting, ...]:
    """The merged rules, one per match, in order; `said` by ascending precedence."""
    spoken = tuple(said)
    found: dict[tuple[Match, ...], tuple[HttpRuleConf, Origin, Origin]] = {}
    for conf, origin in spoken:
        for rule in conf.rules:
            before = found.get(rule.matches)
            if before is None:
                found[rule.matches] = rule.default, origin, origin
            else:
                found[rule.matches] = _patched(*before, rule.default, origin)
    flat: list[HttpRouting] = []
    for matches in dict.fromkeys(rule.matches for conf, _ in reversed(spoken) for rule in conf.rules):
        patched, origin, backend_origin = found[matches]
        flat += (
            HttpRouting(match, patched.filters or (), patched.backend_refs or (), origin, backend_origin)
            for match in matches
        )
    return tuple(sorted(flat, key=lambda one: match_rank(one.match)))


def tcp_routing(said: Iterable[tuple[TcpRouteConf, Origin]]) -> TcpRouting | None:
    """The backends that are said last; None when none are."""
    found = None
    for conf, origin in said:
        if conf.backend_refs:
            found = TcpRouting(conf.backend_refs, origin)
    return found


def _patched(
    before: HttpRuleConf, origin: Origin, backend_origin: Origin, patch: HttpRuleConf, by: Origin
) -> tuple[HttpRuleConf, Origin, Origin]:
    # RFC 7396: lists are replaced.
    after = HttpRuleConf(
        filters=before.filters if patch.filters is None else patch.filters,
        backend_refs=before.backend_refs if patch.backend_refs is None else patch.backend_refs,
    )
    return after, by if patch != HttpRuleConf() else origin, backend_origin if patch.backend_refs is None else by


def match_rank(match: Match) -> tuple[int, ...]:
    """The order in which matches are tried, the lowest first."""
    path = match.path
    kind = 3 if path is None else _PATH_RANK[path.type]
    length = len(path.value) if path is not None and path.type != "Exact" else 0
    return kind, -length, int(match.method is None), -len(match.headers), -len(match.query_params)
