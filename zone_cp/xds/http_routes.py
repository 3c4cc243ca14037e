"""MeshHTTPRoute → Envoy routes of one service, tried in order; what none takes goes where it was meant to go.

Through an egress a backend is an SNI: the clusters of a sidecar stay the same two, and the route that is chosen
rewrites the header that says where to, before the router reads it. In direct mode a backend is a cluster.
A share that cannot be served is a route of its own, which takes its fraction of the requests and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_filter
from envoy_data_plane.envoy.type import v3 as kinds
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from shared.model.header import HeaderValue
from shared.model.resource import Protocol
from shared.model.route_policy import Match, PathRewrite, QueryMatch, RequestRedirect, RouteFilter, UrlRewrite
from shared.model.target import IntOrString
from zone_cp.view.policies import Effective
from zone_cp.view.routing import HttpRouting
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView
from zone_cp.xds import defaults
from zone_cp.xds.backends import Backend, Judge, Shares, just, shared_out
from zone_cp.xds.filters import MUTATION_FILTER, Hop, header_override
from zone_cp.xds.route_actions import action
from zone_cp.xds.route_policies import RouteTuning, header_matcher, route_tuning
from zone_cp.xds.shape import pack

MILLION = 1_000_000
WHOLE_PATH = "^/.*$"

_REDIRECTS = {
    301: route.RedirectActionRedirectResponseCode.MOVED_PERMANENTLY,
    302: route.RedirectActionRedirectResponseCode.FOUND,
    303: route.RedirectActionRedirectResponseCode.SEE_OTHER,
    307: route.RedirectActionRedirectResponseCode.TEMPORARY_REDIRECT,
    308: route.RedirectActionRedirectResponseCode.PERMANENT_REDIRECT,
}


class Entry(msgspec.Struct, frozen=True):
    """One match of one rule. No shares: a redirect answers, without the query where that is stripped."""

    name: str
    match: Match
    filters: tuple[RouteFilter, ...]
    shares: Shares | None
    mirrors: tuple[tuple[Backend, IntOrString | None], ...]
    tuning: RouteTuning
    sources: Sources = ()
    strips_query: bool = False


Leading: TypeAlias = Callable[[Entry, UrlRewrite | None], route.RouteAction]
"""Where the open shares of an entry go, paths aside."""


class Plan(msgspec.Struct, frozen=True):
    """Everything that happens to requests for one service. extended: extensions' own routes come before the rest."""

    entries: tuple[Entry, ...]
    rest: Shares
    tuning: RouteTuning
    extended: bool
    sources: Sources


def planned(mesh: MeshView, service: ExternalServiceView, said: Effective, judge: Judge) -> Plan | None:
    """The plan of a service of class http; None where no route is about it."""
    if not said.http and said.tcp is None:
        return None
    entries = tuple(_entry(mesh, service, one, said, judge) for one in said.http)
    rest = just(service, judge)
    if not entries and said.tcp is not None:
        # A MeshTCPRoute holds for HTTP too while no MeshHTTPRoute does; requests are shared out, not connections.
        rest = shared_out(mesh, said.tcp.backends, said.tcp.origin, "http", judge)
    sources = joined(rest.sources, *(one.sources for one in entries))
    tuning = route_tuning(said, service.protocol)
    return Plan(entries, rest, tuning, service.extension is not None, sources)


def _entry(mesh: MeshView, service: ExternalServiceView, one: HttpRouting, said: Effective, judge: Judge) -> Entry:
    redirected = any(each.type == "RequestRedirect" for each in one.filters)
    if redirected:
        shares = None
    elif one.backends:
        shares = shared_out(mesh, one.backends, one.backend_origin, "http", judge)
    else:
        shares = just(service, judge)
    mirrored = (each.request_mirror for each in one.filters if each.request_mirror is not None)
    wanted = [(each, shared_out(mesh, (each.backend_ref,), one.origin, "http", judge)) for each in mirrored]
    return Entry(
        name=f"{one.origin.key.kind}/{one.origin.key.name}",
        match=one.match,
        filters=one.filters,
        shares=shares,
        # A copy that nobody can take is not made: the client is none the wiser in any case.
        mirrors=tuple((to, each.percentage) for each, found in wanted for to in found.backends),
        tuning=_tuning(one, said, service.protocol),
        sources=tuple(ref for found in (shares, *(each for _, each in wanted)) if found for ref in found.sources),
    )


def _tuning(one: HttpRouting, said: Effective, protocol: Protocol) -> RouteTuning:
    about = msgspec.structs.replace(
        said,
        timeout=said.timeout if one.timeout is None else one.timeout,
        retry=said.retry if one.retry is None else one.retry,
    )
    return route_tuning(about, protocol)


# --- routes -------------------------------------------------------------------------------------------------------


def plan_routes(plan: Plan, hop: Hop, own: list[route.Route], *, at_sidecar: bool) -> list[route.Route]:
    """The routes of a plan; `own` are those of extensions in direct mode."""

    def leading(entry: Entry, rewrite: UrlRewrite | None) -> route.RouteAction:
        return _shared(entry, hop, rewrite.hostname if rewrite is not None else None, at_sidecar=at_sidecar)

    made = [one for entry in plan.entries for one in entry_routes(entry, leading)]
    made += own if plan.extended else []
    anything = Entry("", Match(), (), plan.rest, (), plan.tuning)
    return made + list(entry_routes(anything, leading))


def entry_routes(entry: Entry, leading: Leading) -> Iterator[route.Route]:
    """The routes of an entry: closed shares first, each with its fraction of the requests."""
    redirect = next((one.request_redirect for one in entry.filters if one.request_redirect is not None), None)
    rewrite = next((one.url_rewrite for one in entry.filters if one.url_rewrite is not None), None)
    path = redirect.path if redirect is not None else rewrite.path if rewrite is not None else None
    for match, replaced in _matches(entry.match, path):
        if redirect is not None:
            yield _modified(route.Route(match=match, redirect=_redirect(redirect, path, replaced, entry)), entry)
        elif entry.shares is not None:
            yield from _closed(match, entry.shares, entry)
            if entry.shares.backends:
                done = leading(entry, rewrite)
                _rewritten(done, path, replaced)
                yield _modified(route.Route(match=match, route=done), entry)


def _closed(match: route.RouteMatch, shares: Shares, entry: Entry) -> Iterator[route.Route]:
    # Envoy draws once per request, so that each threshold takes what the one before left.
    taken = 0
    for one in shares.closed:
        taken += one.weight
        alone = not shares.backends and one is shares.closed[-1]
        fraction = kinds.FractionalPercent(
            numerator=round(MILLION * taken / shares.total), denominator=kinds.FractionalPercentDenominatorType.MILLION
        )
        body = core.DataSource(inline_string=one.reason + "\n")
        made = route.Route(
            match=_copied(match, None if alone else core.RuntimeFractionalPercent(default_value=fraction)),
            direct_response=route.DirectResponseAction(status=one.status, body=body),
        )
        yield _modified(made, entry)


def _copied(match: route.RouteMatch, fraction: core.RuntimeFractionalPercent | None) -> route.RouteMatch:
    made = route.RouteMatch.parse(bytes(match))
    made.runtime_fraction = fraction
    return made


def _shared(entry: Entry, hop: Hop, host: str | None, *, at_sidecar: bool) -> route.RouteAction:
    made = action(hop, entry.tuning, at_sidecar=at_sidecar)
    shares = entry.shares or Shares()
    made.weighted_clusters = route.WeightedCluster(clusters=[_cluster(one, hop, host) for one in shares.backends])
    if host is not None:
        made.host_rewrite_literal = host
    elif hop == "outside":
        made.auto_host_rewrite = True
    made.request_mirror_policies = [_mirror(to, percentage, hop) for to, percentage in entry.mirrors]
    return made


def _cluster(one: Backend, hop: Hop, host: str | None) -> route.WeightedClusterClusterWeight:
    if hop == "outside":
        return route.WeightedClusterClusterWeight(name=one.cluster, weight=one.weight)
    written = [header_override(defaults.SNI_HEADER, one.sni)]
    if host is not None:
        written.append(header_override(defaults.KEEP_HOST_HEADER, "1"))
    per_route = header_filter.HeaderMutationPerRoute(mutations=header_filter.Mutations(request_mutations=written))
    return route.WeightedClusterClusterWeight(
        name=defaults.EGRESS_HTTP, weight=one.weight, typed_per_filter_config={MUTATION_FILTER: pack(per_route)}
    )


def _mirror(to: Backend, percentage: IntOrString | None, hop: Hop) -> route.RouteActionRequestMirrorPolicy:
    made = route.RouteActionRequestMirrorPolicy(disable_shadow_host_suffix_append=True)
    if hop == "mesh":
        made.cluster = defaults.EGRESS_HTTP
        made.request_headers_mutations = [header_override(defaults.SNI_HEADER, to.sni)]
    else:
        made.cluster = to.cluster
        made.host_rewrite_literal = to.host
    made.runtime_fraction = fraction_of(percentage)
    return made


def fraction_of(percentage: IntOrString | None) -> core.RuntimeFractionalPercent | None:
    """Of how many requests something holds; None: of all."""
    if percentage is None:
        return None
    numerator = round(MILLION * float(percentage) / 100)
    share = kinds.FractionalPercent(numerator=numerator, denominator=kinds.FractionalPercentDenominatorType.MILLION)
    return core.RuntimeFractionalPercent(default_value=share)


# --- what is matched ----------------------------------------------------------------------------------------------


def _matches(match: Match, rewrite: PathRewrite | None) -> Iterator[tuple[route.RouteMatch, str]]:
    """Matches, and what the matched prefix becomes in each (nothing unless a prefix is replaced)."""
    prefix = rewrite.replace_prefix_match if rewrite is not None else None
    for made, replaced in _paths(match, prefix):
        made.headers = [header_matcher(one) for one in match.headers]
        if match.method is not None:
            exact = matcher.StringMatcher(exact=match.method)
            made.headers.append(route.HeaderMatcher(name=":method", string_match=exact))
        made.query_parameters = [_query(one) for one in match.query_params]
        yield made, replaced


def _paths(match: Match, prefix: str | None) -> Iterator[tuple[route.RouteMatch, str]]:
    path = match.path
    if path is None:
        yield route.RouteMatch(prefix="/"), ""
    elif path.type == "Exact":
        yield route.RouteMatch(path=path.value), ""
    elif path.type == "RegularExpression":
        yield route.RouteMatch(safe_regex=matcher.RegexMatcher(regex=path.value)), ""
    elif prefix is not None:
        # The prefix alone and what is below it: neither may end up with two slashes, or with none.
        base = prefix.rstrip("/")
        yield route.RouteMatch(path=path.value), base or "/"
        yield route.RouteMatch(prefix=path.value.rstrip("/") + "/"), f"{base}/"
    elif path.value == "/":
        yield route.RouteMatch(prefix="/"), ""
    else:
        yield route.RouteMatch(path_separated_prefix=path.value), ""


def _query(one: QueryMatch) -> route.QueryParameterMatcher:
    if one.type == "RegularExpression":
        text = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=one.value))
    else:
        text = matcher.StringMatcher(exact=one.value)
    return route.QueryParameterMatcher(name=one.name, string_match=text)


# --- what is changed ----------------------------------------------------------------------------------------------


def _rewritten(made: route.RouteAction, path: PathRewrite | None, replaced: str) -> None:
    if path is None:
        return
    if path.replace_full_path is not None:
        made.regex_rewrite = matcher.RegexMatchAndSubstitute(
            pattern=matcher.RegexMatcher(regex=WHOLE_PATH),
            substitution=path.replace_full_path.replace("\\", "\\\\"),
        )
    else:
        made.prefix_rewrite = replaced


def _redirect(said: RequestRedirect, path: PathRewrite | None, replaced: str, entry: Entry) -> route.RedirectAction:
    made = route.RedirectAction(
        host_redirect=said.hostname or "",
        response_code=_REDIRECTS[said.status_code],
        strip_query=entry.strips_query,
    )
    if said.scheme is not None:
        made.scheme_redirect = said.scheme
    if said.port is not None:
        made.port_redirect = said.port
    if path is not None and path.replace_full_path is not None:
        made.path_redirect = path.replace_full_path
    elif path is not None:
        made.prefix_rewrite = replaced
    return made


def _modified(made: route.Route, entry: Entry) -> route.Route:
    made.name = entry.name
    for one in entry.filters:
        if one.request_header_modifier is not None:
            said = one.request_header_modifier
            made.request_headers_to_add += _options(said.set, said.add)
            made.request_headers_to_remove += said.remove
        if one.response_header_modifier is not None:
            said = one.response_header_modifier
            made.response_headers_to_add += _options(said.set, said.add)
            made.response_headers_to_remove += said.remove
    return made


def _options(replaced: tuple[HeaderValue, ...], added: tuple[HeaderValue, ...]) -> list[core.HeaderValueOption]:
    over = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    beside = core.HeaderValueOptionHeaderAppendAction.APPEND_IF_EXISTS_OR_ADD
    return [
        core.HeaderValueOption(
            # Values are literal: Envoy would take a percent sign for the start of a command.
            header=core.HeaderValue(key=one.name, value=one.value.replace("%", "%%")),
            append_action=how,
            keep_empty_value=True,
        )
        for how, group in ((over, replaced), (beside, added))
        for one in group
    ]
