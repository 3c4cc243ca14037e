"""Routes of a builtin gateway: which rules hold behind which hostname of which listener, in the order they are tried.

A listener has a virtual host for its own hostname, and one more for every name that a route on it says and that its own
covers. Rules of a less specific name hold in the more specific hosts as well, after theirs. A name belongs to the most
exact listener of a port that covers it, and to no other.

Where a MeshHTTPRoute or MeshTCPRoute says something of a name of a listener, MeshGatewayRoutes do not count there
(A10). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from shared.events.gateways import carries
from shared.events.state import Stored
from shared.model.gateway_route import (
    GatewayBackend,
    GatewayFilter,
    GatewayHeaders,
    GatewayHttpConf,
    GatewayHttpRule,
    GatewayMatch,
    GatewayPathRewrite,
    GatewayTcpConf,
    MeshGatewayRoute,
)
from shared.model.gateway_route_rules import HOST_HEADERS
from shared.model.header import HeaderMatch, HeaderValue
from shared.model.inbound import SERVICE_TAG
from shared.model.part import Labels
from shared.model.route_policy import (
    BackendRef,
    HeaderModifier,
    HttpRouteConf,
    Match,
    PathMatch,
    PathRewrite,
    QueryMatch,
    RequestMirror,
    RequestRedirect,
    RouteFilter,
    TcpRouteConf,
    UrlRewrite,
)
from zone_cp.view.gateway_policies import routes_on
from zone_cp.view.gateways import GatewayView, ListenerView, PortView
from zone_cp.view.hostnames import ANY_HOST, covers, exactness, in_common
from zone_cp.view.policies import origin_of
from zone_cp.view.routing import HttpRouting, Origin, TcpRouting, http_routing, match_rank, tcp_routing
from zone_cp.view.zone_view import MeshView

_PATHS = {"EXACT": "Exact", "PREFIX": "PathPrefix", "REGEX": "RegularExpression"}
_HEADERS = {"EXACT": "Exact", "REGEX": "RegularExpression", "ABSENT": "Absent", "PRESENT": "Present"}


class HostRouting(msgspec.Struct, frozen=True):
    """A virtual host and its rules in the order in which they are tried."""

    hostname: str
    rules: tuple[HttpRouting, ...] = ()


def host_routings(mesh: MeshView, gateway: GatewayView, port: PortView, one: ListenerView) -> tuple[HostRouting, ...]:
    """The virtual hosts of a listener of HTTP or HTTPS, the most exact first."""
    said = _by_hostname(mesh, gateway, port, one)
    names = sorted({one.hostname, *said}, key=exactness)
    groups = sorted(said.items(), key=lambda group: exactness(group[0]))
    return tuple(
        HostRouting(
            name,
            tuple(
                sorted(
                    (rule for wide, rules in groups if covers(wide, name) for rule in rules),
                    key=lambda rule: match_rank(rule.match),
                )
            ),
        )
        for name in names
    )


def tcp_routings(mesh: MeshView, gateway: GatewayView, one: ListenerView) -> tuple[TcpRouting, ...]:
    """Where connections of a listener of TCP or TLS are shared out to: all of them together."""
    rules = routes_on(mesh.policies, gateway.key, one.tags)
    said = [(rule.conf, origin_of(rule)) for rule in rules if isinstance(rule.conf, TcpRouteConf)]
    if said:
        found = tcp_routing(said)
        return (found,) if found is not None else ()
    return tuple(
        TcpRouting(tuple(_backends(rule.backends)), origin)
        for conf, origin in _selected(mesh, one.tags)
        if isinstance(conf, GatewayTcpConf)
        for rule in conf.rules
    )


def _by_hostname(
    mesh: MeshView, gateway: GatewayView, port: PortView, one: ListenerView
) -> dict[str, tuple[HttpRouting, ...]]:
    """By hostname the rules that are said for it alone."""
    confs: dict[str, list[tuple[HttpRouteConf, Origin]]] = {}
    for rule in routes_on(mesh.policies, gateway.key, one.tags):
        if isinstance(rule.conf, HttpRouteConf):
            for name in _names(rule.hostnames, port, one):
                confs.setdefault(name, []).append((rule.conf, origin_of(rule)))
    if confs:
        return {name: http_routing(group) for name, group in confs.items()}
    found: dict[str, tuple[HttpRouting, ...]] = {}
    for conf, origin in _selected(mesh, one.tags):
        if isinstance(conf, GatewayHttpConf):
            made = tuple(each for rule in conf.rules for each in _routings(rule, origin, port.port))
            for name in _names(conf.hostnames, port, one):
                found[name] = found.get(name, ()) + made
    return found


def _names(hostnames: Iterable[str], port: PortView, one: ListenerView) -> set[str]:
    """What a listener of a port has in common with hostnames, and no more exact listener has."""
    wanted = [name.lower() or ANY_HOST for name in hostnames] or [ANY_HOST]
    found = {name for each in wanted if (name := in_common(each, one.hostname)) is not None}
    others = [each.hostname for each in port.listeners if each is not one and covers(one.hostname, each.hostname)]
    return {name for name in found if not any(covers(other, name) for other in others)}


def _selected(mesh: MeshView, tags: Labels) -> Iterator[tuple[GatewayHttpConf | GatewayTcpConf, Origin]]:
    """What MeshGatewayRoutes say that select these tags, by name."""
    for _, stored in sorted(mesh.gateway_routes.items()):
        resource = stored.resource
        if isinstance(resource, MeshGatewayRoute) and resource.conf is not None and _selects(resource, tags):
            conf = resource.conf.http or resource.conf.tcp
            if conf is not None:
                yield conf, _origin(stored, resource)


def _selects(route: MeshGatewayRoute, tags: Labels) -> bool:
    return any(carries(tags, one) for one in route.selectors)


def _origin(stored: Stored, route: MeshGatewayRoute) -> Origin:
    return Origin(stored.key, stored.last, route.labels)


# --- a MeshGatewayRoute in the words of a MeshHTTPRoute -----------------------------------------------------------


def _routings(rule: GatewayHttpRule, origin: Origin, port: int) -> Iterator[HttpRouting]:
    filters, backends = tuple(_filters(rule.filters, port)), tuple(_backends(rule.backends))
    for match in rule.matches:
        yield HttpRouting(_match(match), filters, backends, origin, origin, strips_query=True)


def _backends(backends: tuple[GatewayBackend, ...]) -> Iterator[BackendRef]:
    for one in backends:
        yield _backend(one, 1 if len(backends) == 1 else one.weight)


def _backend(one: GatewayBackend, weight: int) -> BackendRef:
    name = one.destination[SERVICE_TAG]
    return BackendRef(kind="MeshServiceSubset", name=name, tags=one.destination.delete(SERVICE_TAG), weight=weight)


def _match(match: GatewayMatch) -> Match:
    path = None
    if match.path is not None:
        value = match.path.value
        if match.path.match == "PREFIX":
            value = value.rstrip("/") or "/"  # a prefix ends where a segment ends
        path = msgspec.convert({"type": _PATHS[match.path.match], "value": value}, PathMatch)
    return Match(
        path=path,
        method=None if match.method == "NONE" else match.method,
        headers=tuple(
            msgspec.convert({"name": one.name, "type": _HEADERS[one.match], "value": one.value or None}, HeaderMatch)
            for one in match.headers
        ),
        query_params=tuple(
            msgspec.convert({"type": _HEADERS[one.match], "name": one.name, "value": one.value}, QueryMatch)
            for one in match.query_parameters
        ),
    )


def _filters(filters: tuple[GatewayFilter, ...], port: int) -> Iterator[RouteFilter]:
    rewrite = UrlRewrite()
    for one in filters:
        if one.request_header is not None:
            modifier, host = _headers(one.request_header)
            rewrite = msgspec.structs.replace(rewrite, hostname=host or rewrite.hostname)
            if modifier != HeaderModifier():
                yield RouteFilter(type="RequestHeaderModifier", request_header_modifier=modifier)
        if one.response_header is not None:
            modifier, _ = _headers(one.response_header)
            yield RouteFilter(type="ResponseHeaderModifier", response_header_modifier=modifier)
        if one.mirror is not None and one.mirror.backend is not None:
            mirror = RequestMirror(
                percentage=_percent(one.mirror.percentage), backend_ref=_backend(one.mirror.backend, 1)
            )
            yield RouteFilter(type="RequestMirror", request_mirror=mirror)
        if one.redirect is not None:
            said = one.redirect
            redirect = {
                "scheme": said.scheme or None,
                "hostname": said.hostname or None,
                "port": said.port or port,
                "statusCode": said.status_code,
            }
            made = msgspec.structs.replace(
                msgspec.convert(redirect, RequestRedirect), path=_rewrite(said.path) if said.path is not None else None
            )
            yield RouteFilter(type="RequestRedirect", request_redirect=made)
        if one.rewrite is not None:
            path = GatewayPathRewrite(
                replace_full=one.rewrite.replace_full, replace_prefix_match=one.rewrite.replace_prefix_match
            )
            rewrite = msgspec.structs.replace(
                rewrite,
                path=_rewrite(path) if path != GatewayPathRewrite() else None,
                host_to_backend_hostname=one.rewrite.host_to_backend_hostname or None,
            )
    if rewrite != UrlRewrite():
        yield RouteFilter(type="URLRewrite", url_rewrite=rewrite)


def _headers(said: GatewayHeaders) -> tuple[HeaderModifier, str | None]:
    """The headers that are changed, and the host if they say it."""
    hosts = [one.value for one in (*said.set, *said.add) if one.name.lower() in HOST_HEADERS]

    def others(group: tuple[HeaderValue, ...]) -> tuple[HeaderValue, ...]:
        return tuple(one for one in group if one.name.lower() not in HOST_HEADERS)

    modifier = HeaderModifier(set=others(said.set), add=others(said.add), remove=said.remove)
    return modifier, hosts[0] if hosts else None


def _percent(percentage: float | None) -> str | None:
    return None if percentage is None else str(percentage)


def _rewrite(said: GatewayPathRewrite) -> PathRewrite:
    if said.replace_full is not None:
        return PathRewrite(type="ReplaceFullPath", replace_full_path=said.replace_full)
    return PathRewrite(type="ReplacePrefixMatch", replace_prefix_match=said.replace_prefix_match)
