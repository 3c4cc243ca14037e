"""MeshPassthrough: its shape and Kuma's sentences (spec 4 B3.10)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.model import codec, kinds, manifest
from shared.model.policy import Policy
from shared.model.policy_rules import policy_violations
from shared.model.policy_warnings import policy_warnings
from shared.model.resource import Resource


def read(spec: dict[str, Any]) -> Policy:
    parsed = manifest.parse(f"type: MeshPassthrough\nname: p\nmesh: default\nspec: {json.dumps(spec)}\n", "f")
    assert parsed.faults == ()
    made = parsed.documents[0].resource
    assert isinstance(made, Policy)
    return made


def judged(*matches: dict[str, Any]) -> list[tuple[str, str]]:
    found = policy_violations(read({"default": {"appendMatch": list(matches)}}))
    return [(path.removeprefix("spec.default.appendMatch"), why) for path, why in found]


def domain(value: str, protocol: str = "tls", **more: Any) -> dict[str, Any]:
    return {"type": "Domain", "value": value, "protocol": protocol} | more


def test_what_kuma_takes_is_taken() -> None:
    """Domains with and without wildcard, addresses, ranges; the default protocol is tcp."""
    assert (
        judged(
            domain("*.example.com"),
            domain("*.example.com", "http", port=80),
            domain("example.com", "http"),
            {"type": "IP", "value": "10.0.0.1"},
            {"type": "IP", "value": "2001:db8::1", "protocol": "tls"},
            {"type": "CIDR", "value": "10.0.0.0/8", "port": 3306, "protocol": "mysql"},
        )
        == []
    )


@pytest.mark.parametrize(
    ("match", "path", "reason"),
    [
        ({"type": "IP", "value": "10.0.0.1", "protocol": "mysql"}, "port", "port must be defined for Mysql protocol"),
        ({"type": "IP", "value": "10.0.0.1", "port": 0}, "port", "port must be a valid (1-65535)"),
        ({"type": "CIDR", "value": "10.0.0.1"}, "value", "provided CIDR has incorrect value"),
        ({"type": "IP", "value": "10.0.0.0/8"}, "value", "provided IP has incorrect value"),
        (domain("example.com", "tcp"), "protocol", "protocol tcp is not supported for a domain"),
        (domain("example.com", "mysql", port=1), "protocol", "protocol mysql is not supported for a domain"),
        (
            domain("*a.example.com"),
            "value",
            "provided DNS has incorrect value, partial wildcard is currently not supported",
        ),
        (domain("*"), "value", "provided DNS has incorrect value"),
        (domain("a.*.example.com"), "value", "provided DNS has incorrect value"),
        (domain("*.example.com", "http"), "port", "wildcard domains doesn't work for all ports and layer 7 protocol"),
        (
            {"type": "Host", "value": "a"},
            "type",
            "provided type Host is not supported, one of Domain, IP, or CIDR is supported",
        ),
    ],
)
def test_entries_are_judged_in_kumas_words(match: dict[str, Any], path: str, reason: str) -> None:
    """Kuma's sentences, typing errors included."""
    assert judged(match) == [(f"[0].{path}", reason)]


def test_entries_that_clash_are_refused() -> None:
    """One HTTP protocol per port; no value twice for a port and protocol."""
    clash = "using the same port in multiple matches requires the same protocol for the following protocols: "
    assert judged(domain("a.example.com", "http", port=80), domain("b.example.com", "grpc", port=80)) == [
        ("[1].port", f"{clash}[grpc http http2]")
    ]
    assert judged(*[domain("a.example.com", port=443)] * 2) == [
        ("[1].value", "value a.example.com is already defiend for this port and protocol")
    ]


def test_it_selects_whole_proxies() -> None:
    """Mesh, MeshSubset, Dataplane; there is no destination to select."""
    assert list(policy_violations(read({"targetRef": {"kind": "MeshSubset", "tags": {"a": "b"}}}))) == []
    assert list(policy_violations(read({"targetRef": {"kind": "MeshService", "name": "a"}}))) == [
        ("spec.targetRef.kind", "value 'MeshService' is not supported")
    ]


def test_both_forms_of_yaml_say_the_same() -> None:
    """Universal and Kubernetes form, one canonical form, Kuma's collection; unknown fields are refused."""
    spec = {"targetRef": {"kind": "Mesh"}, "default": {"appendMatch": [domain("a.example.com", port=443)]}}
    universal = read(spec)
    kubernetes = manifest.parse(
        "apiVersion: kuma.io/v1alpha1\nkind: MeshPassthrough\n"
        f"metadata: {{name: p, labels: {{kuma.io/mesh: default}}}}\nspec: {json.dumps(spec)}\n",
        "f",
    )
    assert codec.to_plain(kubernetes.documents[0].resource)["spec"] == codec.to_plain(universal)["spec"] == spec
    assert codec.decode(codec.encode(universal), Resource) == universal
    found = kinds.lookup("MeshPassthrough")
    assert found is not None
    assert found.path == "meshpassthroughs"
    wrong = manifest.parse("type: MeshPassthrough\nname: p\nmesh: default\nspec: {default: {mode: All}}\n", "f")
    assert [fault.path for fault in wrong.faults] == ["spec.default.mode"]


def test_authors_are_told_what_has_no_effect() -> None:
    """Entries beside a mode that does not ask for them, and IPv6, which is not redirected."""
    match = [{"type": "IP", "value": "2001:db8::1"}, domain("a.example.com")]
    assert list(policy_warnings(read({"default": {"passthroughMode": "All", "appendMatch": match}}), None)) == [
        "MeshPassthrough p: appendMatch has no effect while passthroughMode All holds",
        "MeshPassthrough p: 2001:db8::1 has no effect: the transparent redirect is of IPv4",
    ]
    assert list(policy_warnings(read({"default": {"appendMatch": match[1:]}}), None)) == []
