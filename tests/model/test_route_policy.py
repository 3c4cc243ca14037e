"""MeshHTTPRoute and MeshTCPRoute: their shape and Kuma's sentences (spec 4 B3.1, B3.2)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.model import codec, kinds, manifest
from shared.model.policy import Policy
from shared.model.policy_rules import policy_violations
from shared.model.resource import Resource

SERVICE = {"kind": "MeshExternalService", "name": "a"}
PREFIX = {"path": {"type": "PathPrefix", "value": "/v1"}}

NOT_RE2 = (
    "must be a regular expression of RE2: of what begins with (? it knows names (?P<n>), the flags i, m and s, and (?:)"
)


def route(kind: str, rules: list[Any], **item: Any) -> str:
    spec = {"to": [{"targetRef": SERVICE, "rules": rules} | item]}
    return f"{{type: {kind}, name: r, mesh: default, spec: {json.dumps(spec)}}}"


def judged(text: str) -> list[tuple[str, str]]:
    parsed = manifest.parse(text, "f")
    assert parsed.faults == ()
    made = parsed.documents[0].resource
    assert isinstance(made, Policy)
    return list(policy_violations(made))


def http(match: dict[str, Any] | None = None, **default: Any) -> list[tuple[str, str]]:
    """What is wrong with a rule, paths from the rule on."""
    found = judged(route("MeshHTTPRoute", [{"matches": [PREFIX if match is None else match], "default": default}]))
    return [(path.removeprefix("spec.to[0].rules[0]."), why) for path, why in found]


@pytest.mark.parametrize(
    ("match", "found"),
    [
        ({"path": {"type": "PathPrefix", "value": "/"}, "method": "GET"}, []),
        (
            {"path": {"type": "PathPrefix", "value": "/v1/"}},
            [
                (
                    "path.value",
                    "does not need a trailing slash because only a `/`-separated prefix or an entire path is matched",
                )
            ],
        ),
        ({"path": {"type": "Exact", "value": "v1"}}, [("path.value", "must be an absolute path")]),
        (
            {"path": {"type": "RegularExpression", "value": "(?=a)"}},
            [("path.value", NOT_RE2)],
        ),
        (
            {"queryParams": [{"type": "Exact", "name": "q", "value": value} for value in "ab"]},
            [("queryParams[1].name", "multiple entries for name q")],
        ),
        ({"headers": [{"name": "x", "type": "Present", "value": "1"}]}, [("headers[0].value", "must not be defined")]),
    ],
)
def test_matches_are_judged_in_kumas_words(match: dict[str, Any], found: list[tuple[str, str]]) -> None:
    """Paths, parameters and headers that a request is matched by; patterns must be Envoy's."""
    assert http(match) == [(f"matches[0].{path}", why) for path, why in found]


REWRITE = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2"}


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ({"type": "URLRewrite"}, [("urlRewrite", "must be defined")]),
        (
            {"type": "URLRewrite", "urlRewrite": {"hostname": "10.0.0.1"}},
            [("urlRewrite.hostname", "cannot be an IP address")],
        ),
        (
            {"type": "URLRewrite", "urlRewrite": {"hostToBackendHostname": True, "hostname": "a.example.com"}},
            [
                ("urlRewrite.hostToBackendHostname", "can only be set with MeshGateway"),
                ("urlRewrite.hostToBackendHostname", "cannot be set together with hostname"),
            ],
        ),
        (
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {}},
            [("requestHeaderModifier", "must have at least one defined: set, add, remove")],
        ),
        (
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": "x", "value": "1"}], "remove": ["X"]},
            },
            [("responseHeaderModifier.remove[0]", "duplicate header name")],
        ),
        (
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-zonal-sni"]}},
            [("requestHeaderModifier.remove[0]", "must not be a header that the control plane writes")],
        ),
        (
            {"type": "RequestMirror", "requestMirror": {"backendRef": {"kind": "MeshService", "name": "b"}}},
            [("requestMirror.backendRef.kind", "value 'MeshService' is not supported")],
        ),
        (
            {"type": "RequestMirror", "requestMirror": {"percentage": 101, "backendRef": SERVICE}},
            [("requestMirror.percentage", "must be in inclusive range [0.0, 100.0]")],
        ),
    ],
)
def test_filters_are_judged_in_kumas_words(filter: dict[str, Any], found: list[tuple[str, str]]) -> None:  # noqa: A002
    """What a filter needs, and what would clash with what the control plane writes."""
    assert http(filters=[filter]) == [(f"default.filters[0].{path}", why) for path, why in found]


def test_a_prefix_is_replaced_only_where_one_is_matched() -> None:
    """replacePrefixMatch beside a match without prefix would replace nothing."""
    exact = {"path": {"type": "Exact", "value": "/v1"}}
    for name, filter_type in (("requestRedirect", "RequestRedirect"), ("urlRewrite", "URLRewrite")):
        filters = [{"type": filter_type, name: {"path": REWRITE}}]
        assert http(PREFIX, filters=filters) == []
        assert http(exact, filters=filters) == [
            (
                f"default.filters[0].{name}.path.replacePrefixMatch",
                "can only appear if all matches match a path prefix",
            )
        ]


def test_backends_are_external_services_with_a_weight() -> None:
    """Kuma's backendRefs, as far as external traffic is concerned."""
    refs = [SERVICE, {"kind": "MeshService", "name": "b"}, {"kind": "MeshExternalService"}, SERVICE | {"weight": -1}]
    assert http(backendRefs=refs) == [
        ("default.backendRefs[1].kind", "value 'MeshService' is not supported"),
        ("default.backendRefs[2]", "either labels or name must be specified"),
        ("default.backendRefs[3].weight", "must be in inclusive range [0, 1000000]"),
    ]


def test_hostnames_belong_to_gateways() -> None:
    """Without a MeshGateway at the top there are no hostnames to tell apart."""
    text = route("MeshHTTPRoute", [{"matches": [PREFIX], "default": {}}], hostnames=["a.example.com"])
    assert judged(text) == [("spec.to[0].hostnames", "must not be defined")]


def test_a_tcp_route_has_one_rule_with_backends() -> None:
    """Kuma: exactly one rule, at least one backend; destinations are services, not meshes."""
    assert judged(route("MeshTCPRoute", [{"default": {"backendRefs": [SERVICE]}}])) == []
    assert judged(route("MeshTCPRoute", [{"default": {}}])) == [
        ("spec.to[0].rules[0].default.backendRefs", "must be defined")
    ]
    assert judged(route("MeshTCPRoute", [{"default": {"backendRefs": [SERVICE]}}] * 2)) == [
        ("spec.to[0].rules", "must hold exactly one rule")
    ]
    mesh = route("MeshTCPRoute", [{"default": {"backendRefs": [SERVICE]}}], targetRef={"kind": "Mesh"})
    assert judged(mesh) == [("spec.to[0].targetRef.kind", "value 'Mesh' is not supported")]


def test_a_policy_may_be_about_a_route_unless_it_concerns_connections() -> None:
    """MeshTimeout and MeshRetry take MeshHTTPRoute as their destination (spec 4 B3.3, B3.4), others do not."""
    to = "{to: [{targetRef: {kind: MeshHTTPRoute, name: r}, default: %s}]}"
    head = "type: %s\nname: p\nmesh: default\nspec: " + to
    assert judged(head % ("MeshTimeout", "{http: {requestTimeout: 1s}}")) == []
    assert judged(head % ("MeshRetry", "{http: {numRetries: 1}}")) == []
    not_on_a_route = "can't be specified when targetRef is referencing MeshHTTPRoute"
    assert judged(head % ("MeshTimeout", "{connectionTimeout: 1s}")) == [
        ("spec.to[0].default.connectionTimeout", not_on_a_route)
    ]
    assert judged(head % ("MeshRetry", "{tcp: {maxConnectAttempt: 1}}")) == [("spec.to[0].default.tcp", not_on_a_route)]
    assert judged(head % ("MeshCircuitBreaker", "{connectionLimits: {maxRequests: 1}}")) == [
        ("spec.to[0].targetRef.kind", "value 'MeshHTTPRoute' is not supported")
    ]


@pytest.mark.parametrize("kind", ["MeshHTTPRoute", "MeshTCPRoute"])
def test_both_forms_of_yaml_say_the_same(kind: str) -> None:
    """Universal and Kubernetes form; unknown fields are refused with their path; one canonical form."""
    rule: dict[str, Any] = {"default": {"backendRefs": [SERVICE | {"weight": 3}]}}
    if kind == "MeshHTTPRoute":
        rule["matches"] = [PREFIX]
    spec = json.dumps({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": SERVICE, "rules": [rule]}]})
    universal = manifest.parse(f"type: {kind}\nname: r\nmesh: default\nspec: {spec}\n", "f")
    kubernetes = manifest.parse(
        f"apiVersion: kuma.io/v1alpha1\nkind: {kind}\nmetadata: {{name: r, labels: {{kuma.io/mesh: default}}}}\n"
        f"spec: {spec}\n",
        "f",
    )
    (one,), (other,) = universal.documents, kubernetes.documents
    assert codec.to_plain(one.resource)["spec"] == codec.to_plain(other.resource)["spec"] == json.loads(spec)
    assert codec.decode(codec.encode(one.resource), Resource) == one.resource
    found = kinds.lookup(kind)
    assert found is not None
    assert found.path == f"{kind.lower()}s"
    wrong = manifest.parse(route(kind, [rule | {"priority": 1}]), "f")
    assert [fault.path for fault in wrong.faults] == ["spec.to[0].rules[0].priority"]
