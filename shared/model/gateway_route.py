"""MeshGatewayRoute: where a builtin gateway sends what its listeners accept (`spec/4-gateway-and-policies.md` A10)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from shared.model.gateway import TagSelector
from shared.model.header import HeaderValue
from shared.model.part import NO_LABELS, Labels, Part

Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class GatewayBackend(Part, frozen=True, kw_only=True):
    """A destination by tags, `kuma.io/service` among them; `weight` is its share of all weights of the rule."""

    weight: Whole = 0
    destination: Labels = NO_LABELS


class GatewayPath(Part, frozen=True, kw_only=True):
    """A request's path without its query; a prefix ends where a segment ends."""

    match: Literal["EXACT", "PREFIX", "REGEX"] = "EXACT"
    value: str = ""


class GatewayHeader(Part, frozen=True, kw_only=True):
    """A header of the request."""

    match: Literal["EXACT", "REGEX", "ABSENT", "PRESENT"] = "EXACT"
    name: str = ""
    value: str = ""


class GatewayQuery(Part, frozen=True, kw_only=True):
    """A parameter of the query."""

    match: Literal["EXACT", "REGEX"] = "EXACT"
    name: str = ""
    value: str = ""


class GatewayMatch(Part, frozen=True, kw_only=True):
    """All of it must hold."""

    path: GatewayPath | None = None
    method: Literal["NONE", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"] = "NONE"
    headers: tuple[GatewayHeader, ...] = ()
    query_parameters: tuple[GatewayQuery, ...] = ()


class GatewayHeaders(Part, frozen=True, kw_only=True):
    """Headers that are replaced, added beside what is there, and removed."""

    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class GatewayMirror(Part, frozen=True, kw_only=True):
    """A second destination that sees `percentage` (0.0–100.0) of the requests; its answers are dropped."""

    backend: GatewayBackend | None = None
    percentage: float | None = None


class GatewayPathRewrite(Part, frozen=True, kw_only=True):
    """Exactly one: the whole path, or the prefix that matched."""

    replace_full: str | None = None
    replace_prefix_match: str | None = None


class GatewayRedirect(Part, frozen=True, kw_only=True):
    """An answer that sends the client elsewhere; without `port` it names the listener's."""

    scheme: str = ""
    hostname: str = ""
    port: Whole = 0
    status_code: Whole = 0
    path: GatewayPathRewrite | None = None


class GatewayRewrite(Part, frozen=True, kw_only=True):
    """What the destination is asked for instead."""

    replace_full: str | None = None
    replace_prefix_match: str | None = None
    host_to_backend_hostname: bool = False


class GatewayFilter(Part, frozen=True, kw_only=True):
    """Exactly one of them."""

    request_header: GatewayHeaders | None = None
    response_header: GatewayHeaders | None = None
    mirror: GatewayMirror | None = None
    redirect: GatewayRedirect | None = None
    rewrite: GatewayRewrite | None = None


class GatewayHttpRule(Part, frozen=True, kw_only=True):
    """What happens to requests that one of `matches` takes."""

    matches: tuple[GatewayMatch, ...] = ()
    filters: tuple[GatewayFilter, ...] = ()
    backends: tuple[GatewayBackend, ...] = ()


class GatewayHttpConf(Part, frozen=True, kw_only=True):
    """Rules for listeners of HTTP and HTTPS; `hostnames` narrows them to some of the listener's."""

    hostnames: tuple[str, ...] = ()
    rules: tuple[GatewayHttpRule, ...] = ()


class GatewayTcpRule(Part, frozen=True, kw_only=True):
    """Where connections go."""

    backends: tuple[GatewayBackend, ...] = ()


class GatewayTcpConf(Part, frozen=True, kw_only=True):
    """Rules for listeners of TCP and TLS."""

    rules: tuple[GatewayTcpRule, ...] = ()


class GatewayRouteConf(Part, frozen=True, kw_only=True):
    """Exactly one of them."""

    tcp: GatewayTcpConf | None = None
    http: GatewayHttpConf | None = None


class MeshGatewayRoute(Part, frozen=True, kw_only=True, tag_field="type", tag="MeshGatewayRoute"):
    """Routes of the listeners whose effective tags `selectors` select. Always of global origin."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    selectors: tuple[TagSelector, ...] = ()
    conf: GatewayRouteConf | None = None
