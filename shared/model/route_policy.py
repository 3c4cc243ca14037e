"""MeshHTTPRoute and MeshTCPRoute: where a client's proxy sends what is meant for an external service.

Rules of several routes about one service are merged by their `matches`: the same list patches the same rule.
What no rule matches goes where it was meant to go.
"""

from __future__ import annotations

from typing import Literal

from shared.model.header import HeaderMatch, HeaderValue
from shared.model.part import NO_LABELS, Labels, Part
from shared.model.target import IntOrString, TargetRef


class BackendRef(Part, frozen=True, kw_only=True):
    """A MeshExternalService, by name or labels; `weight` is its share of all weights of the rule.

    On a gateway also a MeshService or MeshServiceSubset: the `kuma.io/service` of that name, and its further tags.
    """

    kind: str
    name: str | None = None
    labels: Labels = NO_LABELS
    port: int | None = None
    tags: Labels = NO_LABELS
    weight: int = 1


class PathMatch(Part, frozen=True, kw_only=True):
    """A request's path without its query; a prefix ends where a segment ends."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"]
    value: str


class QueryMatch(Part, frozen=True, kw_only=True):
    """A parameter of the query."""

    type: Literal["Exact", "RegularExpression"]
    name: str
    value: str


class Match(Part, frozen=True, kw_only=True):
    """All of it must hold."""

    path: PathMatch | None = None
    method: Literal["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"] | None = None
    headers: tuple[HeaderMatch, ...] = ()
    query_params: tuple[QueryMatch, ...] = ()


class HeaderModifier(Part, frozen=True, kw_only=True):
    """Headers that are replaced, added beside what is there, and removed."""

    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class PathRewrite(Part, frozen=True, kw_only=True):
    """`type` says which of the two is meant."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Part, frozen=True, kw_only=True):
    """An answer that sends the client elsewhere; what is not given stays as the request says."""

    scheme: Literal["http", "https"] | None = None
    hostname: str | None = None
    path: PathRewrite | None = None
    port: int | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class UrlRewrite(Part, frozen=True, kw_only=True):
    """What the external service is asked for instead."""

    hostname: str | None = None
    path: PathRewrite | None = None
    host_to_backend_hostname: bool | None = None


class RequestMirror(Part, frozen=True, kw_only=True):
    """A second service that sees the same requests; its answers are dropped."""

    percentage: IntOrString | None = None
    backend_ref: BackendRef


class RouteFilter(Part, frozen=True, kw_only=True):
    """`type` says which of the others is meant."""

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "RequestMirror"]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    request_mirror: RequestMirror | None = None


class HttpRuleConf(Part, frozen=True, kw_only=True):
    """No `backendRefs`: to the service that was asked for."""

    filters: tuple[RouteFilter, ...] | None = None
    backend_refs: tuple[BackendRef, ...] | None = None


class HttpRule(Part, frozen=True, kw_only=True):
    """What happens to requests that one of `matches` takes."""

    matches: tuple[Match, ...]
    default: HttpRuleConf = HttpRuleConf()


class HttpRouteConf(Part, frozen=True, kw_only=True):
    """The rules of one destination, as they are merged."""

    rules: tuple[HttpRule, ...] = ()


class HttpRouteItem(Part, frozen=True, kw_only=True):
    """Rules for requests to some destinations; `hostnames` belong to a MeshGateway."""

    target_ref: TargetRef
    hostnames: tuple[str, ...] = ()
    rules: tuple[HttpRule, ...] = ()

    @property
    def default(self) -> HttpRouteConf:
        """What is merged."""
        return HttpRouteConf(rules=self.rules)


class HttpRouteSpec(Part, frozen=True, kw_only=True):
    """See `HttpRouteItem`."""

    target_ref: TargetRef | None = None
    to: tuple[HttpRouteItem, ...] = ()


class MeshHTTPRoute(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshHTTPRoute"):
    """Requests to an external service, told apart and sent on."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: HttpRouteSpec


class TcpRouteConf(Part, frozen=True, kw_only=True):
    """Where connections go."""

    backend_refs: tuple[BackendRef, ...] | None = None


class TcpRule(Part, frozen=True, kw_only=True):
    """The one rule of a destination."""

    default: TcpRouteConf


class TcpRouteItem(Part, frozen=True, kw_only=True):
    """One rule for connections to some destinations."""

    target_ref: TargetRef
    rules: tuple[TcpRule, ...] = ()

    @property
    def default(self) -> TcpRouteConf:
        """What is merged."""
        return self.rules[0].default if self.rules else TcpRouteConf()


class TcpRouteSpec(Part, frozen=True, kw_only=True):
    """See `TcpRouteItem`."""

    target_ref: TargetRef | None = None
    to: tuple[TcpRouteItem, ...] = ()


class MeshTCPRoute(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshTCPRoute"):
    """Connections to an external service, shared out by weight. Of an HTTP service, a MeshHTTPRoute says more."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: TcpRouteSpec
