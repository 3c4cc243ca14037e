"""MeshGatewayRoute, and MeshHTTPRoute and MeshTCPRoute on a MeshGateway: Kuma's sentences (spec 4 A10, A11)."""

from __future__ import annotations

from typing import Any

import pytest

from shared.model.gateway_route import MeshGatewayRoute
from shared.model.gateway_route_rules import gateway_route_violations
from shared.model.policy import Policy
from shared.model.policy_rules import policy_violations
from tests.builders import resource

WEB = {"destination": {"kuma.io/service": "web"}}
PREFIX = {"path": {"match": "PREFIX", "value": "/a"}}
Broken = list[tuple[str, str]]


def judged(conf: dict[str, Any] | None, selectors: list[Any] | None = None) -> Broken:
    selected = [{"match": {"kuma.io/service": "edge"}}] if selectors is None else selectors
    fields = {"conf": conf} if conf is not None else {}
    made = resource(type="MeshGatewayRoute", name="r", mesh="default", selectors=selected, **fields)
    assert isinstance(made, MeshGatewayRoute)
    return list(gateway_route_violations(made))


def rule(**fields: Any) -> Broken:
    """What is wrong with a rule, paths from the rule on."""
    whole = {"matches": [PREFIX], "backends": [WEB]} | fields
    return [(path.removeprefix("conf.http.rules[0]."), why) for path, why in judged({"http": {"rules": [whole]}})]


@pytest.mark.parametrize(
    ("conf", "found"),
    [
        (None, [("conf", "cannot be empty")]),
        ({}, [("conf", "cannot be empty")]),
        ({"http": {}}, [("conf.http.rules", "cannot be empty")]),
        ({"tcp": {}}, [("conf.tcp.rules", "cannot be empty")]),
        ({"tcp": {"rules": [{}]}}, [("conf.tcp.rules[0].backends", "cannot be empty")]),
        ({"tcp": {"rules": [{"backends": [WEB]}]}}, []),
        (
            {"http": {"hostnames": ["*.a.b", "a b", "*.-"], "rules": [{"matches": [PREFIX], "backends": [WEB]}]}},
            [("conf.http.hostnames[1]", "invalid hostname"), ("conf.http.hostnames[2]", "invalid wildcard domain")],
        ),
    ],
)
def test_a_route_is_for_tcp_or_http_and_has_rules(conf: dict[str, Any] | None, found: Broken) -> None:
    """Neither an empty route nor a hostname that is none."""
    assert judged(conf) == found


def test_a_route_selects_listeners_by_their_service() -> None:
    """As a MeshGateway selects Dataplanes."""
    conf = {"tcp": {"rules": [{"backends": [WEB]}]}}
    assert judged(conf, [{"match": {"port": "8080"}}]) == [
        ("selectors[0].match", 'mandatory tag "kuma.io/service" is missing')
    ]


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ({}, [("", "cannot be empty")]),
        ({"path": {"value": ""}}, [(".path.value", "cannot be empty")]),
        ({"path": {"value": "a"}}, [(".path.value", "must be an absolute path")]),
        ({"path": {"match": "PREFIX", "value": "a"}}, [(".path.value", "must be an absolute path")]),
        ({"path": {"match": "REGEX", "value": "a("}}, [(".path.value", "must be a valid regular expression: ...")]),
        ({"path": {"match": "REGEX", "value": ".*"}}, []),
        ({"method": "GET"}, []),
        ({"headers": [{"name": "x", "match": "ABSENT", "value": "1"}]}, [(".headers[0].value", "cannot be set")]),
        ({"headers": [{"name": "x", "match": "PRESENT", "value": "1"}]}, [(".headers[0].value", "cannot be set")]),
        ({"headers": [{"value": "1"}]}, [(".headers[0].name", "cannot be empty")]),
        ({"headers": [{"name": "x"}]}, [(".headers[0].value", "cannot be empty")]),
        ({"queryParameters": [{"name": "q"}]}, [(".queryParameters[0].value", "cannot be empty")]),
    ],
)
def test_matches(match: dict[str, Any], found: Broken) -> None:
    """What a request is matched by."""
    said = [(path, why.partition("expression:")[0]) for path, why in rule(matches=[match])]
    assert said == [(f"matches[0]{path}", why.partition("expression:")[0]) for path, why in found]


TO_HTTPS = {"redirect": {"scheme": "https", "statusCode": 301}}
ADD = {"requestHeader": {"add": [{"name": "x", "value": "1"}]}}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"backends": []}, [("backends", "cannot be empty")]),
        ({"backends": [], "filters": [TO_HTTPS]}, []),
        ({"filters": [TO_HTTPS]}, [("backends", "must be empty when using redirect filters")]),
        (
            {"backends": [], "filters": [TO_HTTPS, ADD]},
            [("filters", "redirects cannot be used with other filters")],
        ),
        (
            {"backends": [], "filters": [{"redirect": {"statusCode": 299}}]},
            [("filters[0].redirect.statusCode", "must be in the range [300, 308]")],
        ),
        (
            {"backends": [], "filters": [{"redirect": {"statusCode": 304}}]},
            [("filters[0].redirect.statusCode", "must be one of 301, 302, 303, 307, 308")],
        ),
        (
            {"filters": [{"mirror": {"backend": WEB, "percentage": 101.0}}]},
            [("filters[0].mirror.percentage", "has to be in [0.0 - 100.0] range")],
        ),
        (
            {"filters": [{"mirror": {}}]},
            [("filters[0].mirror.backend", "cannot be empty"), ("filters[0].mirror.percentage", "cannot be empty")],
        ),
        (
            {"matches": [{"path": {"value": "/a"}}], "filters": [{"rewrite": {"replacePrefixMatch": "/b"}}]},
            [("filters[0].rewrite.replacePrefixMatch", "cannot be used without a match on path prefix")],
        ),
        (
            {"filters": [{"rewrite": {"replaceFull": "b"}}]},
            [("filters[0].rewrite.replaceFull", "must be an absolute path")],
        ),
        (
            {
                "filters": [
                    {"rewrite": {"hostToBackendHostname": True}},
                    {"requestHeader": {"set": [{"name": "Host", "value": "a.example.com"}]}},
                ]
            },
            [
                (
                    "filters[1].requestHeader",
                    "cannot modify 'host' header, when route has set 'rewrite.host_to_backend_hostname' option",
                )
            ],
        ),
        ({"filters": [{"requestHeader": {}}]}, [("filters[0].requestHeader", "cannot be empty")]),
        ({"filters": [{}]}, [("filters[0]", "cannot be empty")]),
        ({"filters": [ADD | {"rewrite": {"replaceFull": "/b"}}]}, [("filters[0]", "must hold exactly one filter")]),
        (
            {"filters": [{"requestHeader": {"set": [{"name": "x-zonal-sni", "value": "1"}]}}]},
            [("filters[0].requestHeader.set[0].name", "must not be a header that the control plane writes")],
        ),
        (
            {"backends": [{"destination": {"version": "1"}}]},
            [("backends[0].destination", 'mandatory tag "kuma.io/service" is missing')],
        ),
    ],
)
def test_rules(fields: dict[str, Any], found: Broken) -> None:
    """Filters and backends."""
    assert rule(**fields) == found


# --- MeshHTTPRoute and MeshTCPRoute on a gateway ----------------------------------------------------------------


def policy(kind: str, top: dict[str, Any] | None, **item: Any) -> Broken:
    targeted = {"targetRef": top} if top is not None else {}
    spec = targeted | {"to": [{"targetRef": {"kind": "Mesh"}} | item]}
    made = resource(type=kind, name="r", mesh="default", spec=spec)
    assert isinstance(made, Policy)
    return [(path.removeprefix("spec.to[0]."), why) for path, why in policy_violations(made)]


EDGE = {"kind": "MeshGateway", "name": "edge"}
TO_WEB = {"backendRefs": [{"kind": "MeshService", "name": "web"}]}
ANY = {"path": {"type": "PathPrefix", "value": "/"}}


def http(**default: Any) -> list[dict[str, Any]]:
    return [{"matches": [ANY], "default": default}]


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ({"rules": http(**TO_WEB), "hostnames": ["*.example.com", "*"]}, []),
        ({"rules": http(**TO_WEB), "hostnames": ["a..b"]}, [("hostnames[0]", "invalid hostname")]),
        (
            {"rules": http(**TO_WEB), "targetRef": {"kind": "MeshExternalService", "name": "a"}},
            [("targetRef.kind", "value 'MeshExternalService' is not supported")],
        ),
        ({"rules": http()}, [("rules[0].default.backendRefs", "must not be empty")]),
        ({"rules": http(filters=[{"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}])}, []),
        (
            {"rules": http(backendRefs=[{"kind": "MeshMultiZoneService", "name": "web", "port": 80}])},
            [("rules[0].default.backendRefs[0].kind", "value 'MeshMultiZoneService' is not supported")],
        ),
        (
            {"rules": http(backendRefs=[{"kind": "MeshService", "name": "web", "port": 80}])},
            [("rules[0].default.backendRefs[0].port", "must not be set with kind MeshService")],
        ),
        (
            {"rules": http(backendRefs=[{"kind": "MeshServiceSubset", "name": "web", "tags": {"version": "v1"}}])},
            [],
        ),
        (
            {
                "rules": http(
                    filters=[{"type": "URLRewrite", "urlRewrite": {"hostToBackendHostname": True, "hostname": "a.b"}}],
                    **TO_WEB,
                )
            },
            [
                (
                    "rules[0].default.filters[0].urlRewrite.hostToBackendHostname",
                    "cannot be set together with hostname",
                )
            ],
        ),
    ],
)
def test_an_http_route_on_a_gateway_says_where_to(item: dict[str, Any], found: Broken) -> None:
    """Hostnames and backends in the mesh are a gateway's alone."""
    assert policy("MeshHTTPRoute", EDGE, **item) == found


def test_what_is_a_gateways_is_refused_elsewhere() -> None:
    """A sidecar has neither hostnames nor services by tags in its routes."""
    target = {"kind": "MeshExternalService", "name": "a"}
    assert policy("MeshHTTPRoute", None, targetRef=target, hostnames=["a.b"], rules=http(**TO_WEB)) == [
        ("hostnames", "must not be defined"),
        ("rules[0].default.backendRefs[0].kind", "value 'MeshService' is not supported"),
    ]


def test_a_tcp_route_on_a_gateway_has_backends() -> None:
    """One rule, which says where to."""
    assert policy("MeshTCPRoute", EDGE, rules=[{"default": TO_WEB}]) == []
    assert policy("MeshTCPRoute", EDGE, rules=[{"default": {}}]) == [
        ("rules[0].default.backendRefs", "must be defined")
    ]
    assert policy("MeshTCPRoute", EDGE, rules=[]) == [
        ("rules", "must hold exactly one rule"),
        ("rules[0].default.backendRefs", "must be defined"),
    ]
