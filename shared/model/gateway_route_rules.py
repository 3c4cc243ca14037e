"""What a MeshGatewayRoute must satisfy: Kuma's rules and sentences (`spec/4-gateway-and-policies.md` A10).

Beyond them, what Envoy would refuse: one bad pattern must not take the routes of a whole gateway along (decision 28).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.model.addresses import is_dns_name
from shared.model.gateway_route import (
    GatewayBackend,
    GatewayFilter,
    GatewayHeaders,
    GatewayHttpConf,
    GatewayHttpRule,
    GatewayMatch,
    GatewayMirror,
    GatewayPathRewrite,
    GatewayRedirect,
    GatewayTcpConf,
    MeshGatewayRoute,
)
from shared.model.gateway_rules import hostname_violations, selector_violations
from shared.model.inbound import SERVICE_TAG
from shared.model.value_rules import Found, header_name, regular_expression

REDIRECTS = (301, 302, 303, 307, 308)
RULES_MAX = 100
"""Rules of one route; and matches, filters, backends of one rule."""
WEIGHT_MAX = 1_000_000
HOST_HEADERS = frozenset({"host", ":authority"})
"""Headers that say what host the destination is asked for."""
OWN_HEADERS = frozenset({"x-vip"})
INTERNAL_PREFIXES = ("x-zonal-", "x-envoy-", ":")

_EMPTY = "cannot be empty"
_UNWANTED = "cannot be set"
_path = re.compile(r"/[\x21-\x22\x24-\x3e\x40-\x7e]*")


def gateway_route_violations(one: MeshGatewayRoute) -> Found:
    """(path, reason) of every broken rule."""
    yield from selector_violations(one.selectors)
    if one.conf is None or (one.conf.tcp is None and one.conf.http is None):
        yield "conf", _EMPTY
    elif one.conf.tcp is not None and one.conf.http is not None:
        yield "conf", "must be either tcp or http"
    elif one.conf.tcp is not None:
        yield from _tcp(one.conf.tcp, "conf.tcp")
    elif one.conf.http is not None:
        yield from _http(one.conf.http, "conf.http")


def _tcp(conf: GatewayTcpConf, path: str) -> Found:
    yield from _some(conf.rules, f"{path}.rules")
    for index, rule in enumerate(conf.rules):
        where = f"{path}.rules[{index}].backends"
        yield from _some(rule.backends, where)
        for number, backend in enumerate(rule.backends):
            yield from _backend(backend, f"{where}[{number}]")


def _http(conf: GatewayHttpConf, path: str) -> Found:
    for index, hostname in enumerate(conf.hostnames):
        yield from hostname_violations(hostname, f"{path}.hostnames[{index}]")
    yield from _some(conf.rules, f"{path}.rules")
    for index, rule in enumerate(conf.rules):
        yield from _rule(rule, f"{path}.rules[{index}]")


def _some(items: Sequence[object], path: str) -> Found:
    if not items:
        yield path, _EMPTY
    yield from _few(items, path)


def _few(items: Sequence[object], path: str) -> Found:
    if len(items) > RULES_MAX:
        yield path, f"must hold at most {RULES_MAX} items"


def _rule(rule: GatewayHttpRule, path: str) -> Found:
    yield from _some(rule.matches, f"{path}.matches")
    for index, match in enumerate(rule.matches):
        yield from _match(match, f"{path}.matches[{index}]")
    redirected = any(one.redirect is not None for one in rule.filters)
    yield from _few(rule.filters, f"{path}.filters")
    if redirected and len(rule.filters) > 1:
        yield f"{path}.filters", "redirects cannot be used with other filters"
    for index, one in enumerate(rule.filters):
        yield from _filter(one, rule, f"{path}.filters[{index}]")
    if sum(one.rewrite is not None for one in rule.filters) > 1:
        yield f"{path}.filters", "rewrite must only be specified once"
    if not redirected:
        yield from _some(rule.backends, f"{path}.backends")
    elif rule.backends:
        yield f"{path}.backends", "must be empty when using redirect filters"
    for index, backend in enumerate(rule.backends):
        yield from _backend(backend, f"{path}.backends[{index}]")


def _backend(backend: GatewayBackend | None, path: str) -> Found:
    if backend is None:
        yield path, _EMPTY
        return
    if not backend.destination.get(SERVICE_TAG):
        yield f"{path}.destination", f'mandatory tag "{SERVICE_TAG}" is missing'
    if backend.weight > WEIGHT_MAX:
        yield f"{path}.weight", f"must be in inclusive range [0, {WEIGHT_MAX}]"
    for tag, value in sorted(backend.destination.items()):
        if not tag:
            yield f"{path}.destination", "tag name must be non-empty"
        elif not value:
            yield f'{path}.destination["{tag}"]', "tag value must be non-empty"


# --- matches ------------------------------------------------------------------------------------------------------


def _match(match: GatewayMatch, path: str) -> Found:
    if match == GatewayMatch():
        yield path, _EMPTY
    if match.path is not None:
        where, value = f"{path}.path.value", match.path.value
        if not value:
            yield where, _EMPTY
        elif match.path.match == "REGEX":
            yield from regular_expression(value, where)
        elif not value.startswith("/"):
            yield where, "must be an absolute path"
        elif not _path.fullmatch(value):
            yield where, "must be a path without query and fragment"
    for index, header in enumerate(match.headers):
        where = f"{path}.headers[{index}]"
        yield from _named(header.name, f"{where}.name")
        if header.match in ("ABSENT", "PRESENT"):
            if header.value:
                yield f"{where}.value", _UNWANTED
        elif not header.value:
            yield f"{where}.value", _EMPTY
        elif header.match == "REGEX":
            yield from regular_expression(header.value, f"{where}.value")
    for index, query in enumerate(match.query_parameters):
        where = f"{path}.queryParameters[{index}]"
        if not query.name:
            yield f"{where}.name", _EMPTY
        if not query.value:
            yield f"{where}.value", _EMPTY
        elif query.match == "REGEX":
            yield from regular_expression(query.value, f"{where}.value")


def _named(name: str, path: str) -> Found:
    if not name:
        yield path, _EMPTY
    elif not name.startswith(":"):
        yield from header_name(name, path)


# --- filters ------------------------------------------------------------------------------------------------------


def _filter(one: GatewayFilter, rule: GatewayHttpRule, path: str) -> Found:
    given = (one.request_header, one.response_header, one.mirror, one.redirect, one.rewrite)
    if sum(each is not None for each in given) != 1:
        yield path, _EMPTY if one == GatewayFilter() else "must hold exactly one filter"
    if one.request_header is not None:
        yield from _headers(one.request_header, f"{path}.requestHeader", hosts=True)
        if _to_backend(rule) and _sets_host(one.request_header):
            reason = "cannot modify 'host' header, when route has set 'rewrite.host_to_backend_hostname' option"
            yield f"{path}.requestHeader", reason
    if one.response_header is not None:
        yield from _headers(one.response_header, f"{path}.responseHeader", hosts=False)
    if one.mirror is not None:
        yield from _mirror(one.mirror, f"{path}.mirror")
    if one.redirect is not None:
        yield from _redirect(one.redirect, rule, f"{path}.redirect")
    if one.rewrite is not None:
        said = GatewayPathRewrite(
            replace_full=one.rewrite.replace_full, replace_prefix_match=one.rewrite.replace_prefix_match
        )
        if said != GatewayPathRewrite():
            yield from _path_rewrite(said, rule, f"{path}.rewrite")
        elif not one.rewrite.host_to_backend_hostname:
            yield f"{path}.rewrite", _EMPTY


def _to_backend(rule: GatewayHttpRule) -> bool:
    return any(one.rewrite is not None and one.rewrite.host_to_backend_hostname for one in rule.filters)


def _sets_host(headers: GatewayHeaders) -> bool:
    names = (*(one.name for one in (*headers.set, *headers.add)), *headers.remove)
    return any(name.lower() in HOST_HEADERS for name in names)


def _headers(headers: GatewayHeaders, path: str, *, hosts: bool) -> Found:
    if headers == GatewayHeaders():
        yield path, _EMPTY
    named = [(f"{path}.set[{index}].name", one.name, True) for index, one in enumerate(headers.set)]
    named += [(f"{path}.add[{index}].name", one.name, True) for index, one in enumerate(headers.add)]
    named += [(f"{path}.remove[{index}]", name, False) for index, name in enumerate(headers.remove)]
    for where, name, written in named:
        flat = name.lower()
        if not name:
            yield where, _EMPTY
        elif flat in HOST_HEADERS and hosts and written:
            continue
        elif flat in HOST_HEADERS | OWN_HEADERS or flat.startswith(INTERNAL_PREFIXES):
            yield where, "must not be a header that the control plane writes"
        else:
            yield from header_name(name, where)
    for kind, group in (("set", headers.set), ("add", headers.add)):
        for index, one in enumerate(group):
            where = f"{path}.{kind}[{index}].value"
            if not one.value:
                yield where, _EMPTY
            elif one.name.lower() in HOST_HEADERS and not is_dns_name(one.value.lower()):
                yield where, "invalid hostname"
            elif not all(char == "\t" or " " <= char != "\x7f" for char in one.value):
                yield where, "must be a valid header value"


def _mirror(mirror: GatewayMirror, path: str) -> Found:
    yield from _backend(mirror.backend, f"{path}.backend")
    if mirror.percentage is None:
        yield f"{path}.percentage", _EMPTY
    elif not 0.0 <= mirror.percentage <= 100.0:
        yield f"{path}.percentage", "has to be in [0.0 - 100.0] range"


def _redirect(redirect: GatewayRedirect, rule: GatewayHttpRule, path: str) -> Found:
    if redirect.scheme not in ("", "http", "https"):
        yield f"{path}.scheme", "must be http or https"
    if redirect.hostname and not is_dns_name(redirect.hostname.lower()):
        yield f"{path}.hostname", "invalid hostname"
    if redirect.port and redirect.port > 65535:
        yield f"{path}.port", "port must be in the range [1, 65535]"
    if not 300 <= redirect.status_code <= 308:
        yield f"{path}.statusCode", "must be in the range [300, 308]"
    elif redirect.status_code not in REDIRECTS:
        # Kuma accepts the others and then serves nothing (A8).
        yield f"{path}.statusCode", f"must be one of {', '.join(map(str, REDIRECTS))}"
    if redirect.path is not None:
        yield from _path_rewrite(redirect.path, rule, f"{path}.path")


def _path_rewrite(rewrite: GatewayPathRewrite, rule: GatewayHttpRule, path: str) -> Found:
    if rewrite.replace_full is not None and rewrite.replace_prefix_match is not None:
        yield path, "must be either replaceFull or replacePrefixMatch"
    elif rewrite.replace_full is not None:
        yield from _written(rewrite.replace_full, f"{path}.replaceFull")
    elif rewrite.replace_prefix_match is not None:
        if rewrite.replace_prefix_match:
            yield from _written(rewrite.replace_prefix_match, f"{path}.replacePrefixMatch")
        if any(one.path is None or one.path.match != "PREFIX" for one in rule.matches):
            yield f"{path}.replacePrefixMatch", "cannot be used without a match on path prefix"
    else:
        yield path, _EMPTY


def _written(value: str, path: str) -> Found:
    if not value.startswith("/"):
        yield path, "must be an absolute path"
    elif not _path.fullmatch(value):
        yield path, "must be a path without query and fragment"
