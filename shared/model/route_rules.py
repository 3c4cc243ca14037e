"""What rules of MeshHTTPRoute and MeshTCPRoute must satisfy, in Kuma's sentences; and what Envoy would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterable

from shared.model.addresses import is_ip
from shared.model.gateway_rules import hostname_violations
from shared.model.header import HeaderValue
from shared.model.policy import RetryConf, TimeoutConf, ToConf
from shared.model.route_policy import (
    BackendRef,
    HeaderModifier,
    HttpRule,
    Match,
    PathMatch,
    PathRewrite,
    RequestMirror,
    RequestRedirect,
    RouteFilter,
    TcpRouteConf,
    UrlRewrite,
)
from shared.model.target_rules import GATEWAY_BACKENDS, SERVICE_KINDS, unsupported
from shared.model.value_rules import (
    NOT_DEFINED,
    NOT_EMPTY,
    REQUIRED,
    Found,
    header_matches,
    header_name,
    percent,
    regular_expression,
)

RULES_MAX = 100
"""Of one destination in one route; and matches of a rule, filters, backends."""
WEIGHT_MAX = 1_000_000
VALUE_MAX = 4096
"""Characters of a header's value."""
INTERNAL_PREFIX = "x-zonal-"
"""Headers by which the proxies of a mesh tell each other where a request goes."""
OWN_HEADERS = frozenset({"host", "x-vip"})
"""Headers that other settings write."""
ONLY_PREFIXES = "can only appear if all matches match a path prefix"
NOT_A_HOSTNAME = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character"
)
NOT_ON_A_ROUTE = "can't be specified when targetRef is referencing MeshHTTPRoute"

_hostname = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_path = re.compile(r"/[\x21-\x22\x24-\x3e\x40-\x7e]*")


def hostnames(names: tuple[str, ...], path: str, *, on_gateway: bool) -> Found:
    """Names belong to gateways."""
    if not on_gateway:
        if names:
            yield path, NOT_DEFINED
        return
    for index, name in enumerate(names):
        yield from hostname_violations(name, f"{path}[{index}]") if name else [(f"{path}[{index}]", NOT_EMPTY)]


def route_part(conf: ToConf, path: str) -> Found:
    """What a policy may say about a MeshHTTPRoute: nothing that concerns connections."""
    if isinstance(conf, TimeoutConf):
        given = {"connectionTimeout": conf.connection_timeout, "idleTimeout": conf.idle_timeout}
        if conf.http is not None:
            given["http.maxConnectionDuration"] = conf.http.max_connection_duration
            given["http.requestHeadersTimeout"] = conf.http.request_headers_timeout
        for name, value in given.items():
            if value is not None:
                yield f"{path}.{name}", NOT_ON_A_ROUTE
    if isinstance(conf, RetryConf) and conf.tcp is not None:
        yield f"{path}.tcp", NOT_ON_A_ROUTE


def http_rules(rules: tuple[HttpRule, ...], path: str, *, on_gateway: bool = False) -> Found:
    """The rules of one destination, or of some hostnames of a gateway: there every rule says where to."""
    if not rules:
        yield path, NOT_EMPTY
    yield from _few(rules, path)
    for index, rule in enumerate(rules):
        where = f"{path}[{index}]"
        if not rule.matches:
            yield f"{where}.matches", NOT_EMPTY
        yield from _few(rule.matches, f"{where}.matches")
        for number, match in enumerate(rule.matches):
            yield from _match(match, f"{where}.matches[{number}]")
        filters = rule.default.filters or ()
        yield from _few(filters, f"{where}.default.filters")
        for number, one in enumerate(filters):
            yield from _filter(one, rule.matches, f"{where}.default.filters[{number}]", on_gateway=on_gateway)
        yield from _once(filters, f"{where}.default.filters")
        backends = rule.default.backend_refs or ()
        if on_gateway and not backends and not any(one.type == "RequestRedirect" for one in filters):
            yield f"{where}.default.backendRefs", NOT_EMPTY
        yield from _backends(backends, f"{where}.default.backendRefs", on_gateway=on_gateway)


def tcp_rules(conf: TcpRouteConf, path: str, *, on_gateway: bool = False) -> Found:
    """The one rule of a destination."""
    if not conf.backend_refs:
        yield f"{path}.default.backendRefs", REQUIRED
    yield from _backends(conf.backend_refs or (), f"{path}.default.backendRefs", on_gateway=on_gateway)


def _few(items: tuple[object, ...], path: str) -> Found:
    if len(items) > RULES_MAX:
        yield path, f"must hold at most {RULES_MAX} items"


# --- matches ------------------------------------------------------------------------------------------------------


def _match(match: Match, path: str) -> Found:
    if match.path is not None:
        yield from _path_match(match.path, f"{path}.path.value")
    names: set[str] = set()
    for index, query in enumerate(match.query_params):
        where = f"{path}.queryParams[{index}]"
        if not query.name:
            yield f"{where}.name", NOT_EMPTY
        elif query.name in names:
            yield f"{where}.name", f"multiple entries for name {query.name}"
        names.add(query.name)
        if query.type == "RegularExpression":
            yield from regular_expression(query.value, f"{where}.value")
        elif not query.value:
            yield f"{where}.value", NOT_EMPTY
    yield from header_matches(match.headers, f"{path}.headers")


def _path_match(match: PathMatch, path: str) -> Found:
    if match.type == "RegularExpression":
        yield from regular_expression(match.value, path) if match.value else [(path, NOT_EMPTY)]
    elif not match.value.startswith("/"):
        yield path, "must be an absolute path"
    elif not _path.fullmatch(match.value):
        yield path, "must be a path without query and fragment"
    if match.type == "PathPrefix" and match.value != "/" and match.value.endswith("/"):
        yield (
            path,
            "does not need a trailing slash because only a `/`-separated prefix or an entire path is matched",
        )


# --- filters ------------------------------------------------------------------------------------------------------


def _filter(one: RouteFilter, matches: tuple[Match, ...], path: str, *, on_gateway: bool) -> Found:
    given = {
        "RequestHeaderModifier": ("requestHeaderModifier", one.request_header_modifier),
        "ResponseHeaderModifier": ("responseHeaderModifier", one.response_header_modifier),
        "RequestRedirect": ("requestRedirect", one.request_redirect),
        "URLRewrite": ("urlRewrite", one.url_rewrite),
        "RequestMirror": ("requestMirror", one.request_mirror),
    }
    for kind, (field, value) in given.items():
        if kind == one.type and value is None:
            yield f"{path}.{field}", REQUIRED
        elif kind != one.type and value is not None:
            yield f"{path}.{field}", NOT_DEFINED
    field, value = given[one.type]
    where = f"{path}.{field}"
    match value:
        case HeaderModifier():
            yield from _headers(value, where)
        case RequestRedirect():
            yield from _rewrite(value.path, matches, f"{where}.path")
            yield from _precise(value.hostname, f"{where}.hostname")
            if value.port is not None and not 0 < value.port < 2**16:
                yield f"{where}.port", "must be in inclusive range [1, 65535]"
        case UrlRewrite():
            yield from _rewrite(value.path, matches, f"{where}.path")
            yield from _precise(value.hostname, f"{where}.hostname")
            if value.host_to_backend_hostname:
                if not on_gateway:
                    yield f"{where}.hostToBackendHostname", "can only be set with MeshGateway"
                if value.hostname is not None:
                    yield f"{where}.hostToBackendHostname", "cannot be set together with hostname"
        case RequestMirror():
            yield from percent(value.percentage, f"{where}.percentage")
            yield from _reference(value.backend_ref, f"{where}.backendRef", on_gateway=on_gateway)
        case None:
            pass


def _once(filters: tuple[RouteFilter, ...], path: str) -> Found:
    # Requests are mirrored to several services, but rewritten or answered once.
    seen: set[str] = set()
    for index, one in enumerate(filters):
        if one.type in seen and one.type in ("RequestRedirect", "URLRewrite"):
            yield f"{path}[{index}].type", f"{one.type} must only be specified once"
        seen.add(one.type)


def _rewrite(rewrite: PathRewrite | None, matches: tuple[Match, ...], path: str) -> Found:
    if rewrite is None:
        return
    full = rewrite.type == "ReplaceFullPath"
    value = rewrite.replace_full_path if full else rewrite.replace_prefix_match
    other = rewrite.replace_prefix_match if full else rewrite.replace_full_path
    name, unwanted = ("replaceFullPath", "replacePrefixMatch")[:: 1 if full else -1]
    if value is None:
        yield f"{path}.{name}", REQUIRED
    elif value and not _path.fullmatch(value):
        yield f"{path}.{name}", "must be an absolute path"
    elif full and not value:
        yield f"{path}.{name}", NOT_EMPTY
    if other is not None:
        yield f"{path}.{unwanted}", NOT_DEFINED
    if not full and any(match.path is None or match.path.type != "PathPrefix" for match in matches):
        yield f"{path}.replacePrefixMatch", ONLY_PREFIXES


def _precise(hostname: str | None, path: str) -> Found:
    if hostname is None:
        return
    if is_ip(hostname):
        yield path, "cannot be an IP address"
    elif not _hostname.fullmatch(hostname) or len(hostname) > 253:
        yield path, NOT_A_HOSTNAME


def _headers(modifier: HeaderModifier, path: str) -> Found:
    if modifier == HeaderModifier():
        yield path, "must have at least one defined: set, add, remove"
    named = [(f"set[{index}].name", one.name) for index, one in enumerate(modifier.set)]
    named += [(f"add[{index}].name", one.name) for index, one in enumerate(modifier.add)]
    named += [(f"remove[{index}]", name) for index, name in enumerate(modifier.remove)]
    seen: set[str] = set()
    for where, name in named:
        flat = name.lower()
        if flat in seen:
            yield f"{path}.{where}", "duplicate header name"
        seen.add(flat)
        yield from header_name(name, f"{path}.{where}")
        if flat.startswith(INTERNAL_PREFIX) or flat in OWN_HEADERS:
            yield f"{path}.{where}", "must not be a header that the control plane writes"
    yield from _values(modifier.set, f"{path}.set")
    yield from _values(modifier.add, f"{path}.add")


def _values(headers: Iterable[HeaderValue], path: str) -> Found:
    for index, one in enumerate(headers):
        if not all(char == "\t" or " " <= char != "\x7f" for char in one.value) or len(one.value) > VALUE_MAX:
            yield f"{path}[{index}].value", "must be a valid header value"


# --- backends -----------------------------------------------------------------------------------------------------


def _backends(references: tuple[BackendRef, ...], path: str, *, on_gateway: bool) -> Found:
    yield from _few(references, path)
    for index, one in enumerate(references):
        yield from _reference(one, f"{path}[{index}]", on_gateway=on_gateway)


def _reference(one: BackendRef, path: str, *, on_gateway: bool) -> Found:
    if one.kind not in (GATEWAY_BACKENDS if on_gateway else SERVICE_KINDS):
        yield f"{path}.kind", unsupported(one.kind)
        return
    if one.kind in SERVICE_KINDS:
        if bool(one.name) == bool(one.labels):
            yield path, "either labels or name must be specified"
    else:
        if not one.name:
            yield f"{path}.name", f"must be set when kind is {one.kind}"
        # With them Kuma means the MeshService resource, which is not one of ours.
        for name, given in (("labels", one.labels), ("port", one.port)):
            if given:
                yield f"{path}.{name}", f"must not be set with kind {one.kind}"
    if one.tags and one.kind != "MeshServiceSubset":
        yield f"{path}.tags", f"must not be set with kind {one.kind}"
    if one.port is not None and not 0 < one.port < 2**16:
        yield f"{path}.port", "must be in inclusive range [1, 65535]"
    if not 0 <= one.weight <= WEIGHT_MAX:
        yield f"{path}.weight", f"must be in inclusive range [0, {WEIGHT_MAX}]"
