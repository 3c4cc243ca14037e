"""MeshGateways and builtin gateways: Kuma's rules and sentences (spec A2), and where ours go beyond them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shared.model import manifest
from shared.model.gateway import MeshGateway
from shared.model.validate import validate

SERVICE = {"kuma.io/service": "edge"}
CERTIFICATE = {"secret": "foo"}
TERMINATE = {"mode": "TERMINATE", "certificates": [CERTIFICATE]}
HTTP = {"port": 8080, "protocol": "HTTP"}
HTTPS = {"port": 8443, "protocol": "HTTPS", "tls": TERMINATE}
TCP = {"port": 9000, "protocol": "TCP"}
NAMES = "tag name must consist of alphanumeric characters, dots, dashes, slashes and underscores"
VALUES = "tag value must consist of alphanumeric characters, dots, dashes and underscores"


def judged(declared: dict[str, Any]) -> list[tuple[str, str]]:
    parsed = manifest.parse(msgspec.json.encode(declared).decode(), "f")
    assert parsed.faults == ()
    return [(one.path, one.reason) for one in validate(parsed.documents[0].resource)]


def gateway(*listeners: dict[str, Any], **fields: Any) -> list[tuple[str, str]]:
    given = {"selectors": [{"match": SERVICE}], "conf": {"listeners": listeners}} | fields
    return judged({"type": "MeshGateway", "mesh": "default", "name": "edge"} | given)


def at_first(listener: dict[str, Any]) -> list[tuple[str, str]]:
    """Violations of one listener, without the path to it."""
    return [(path.removeprefix("conf.listeners[0]."), reason) for path, reason in gateway(listener)]


@pytest.mark.parametrize(
    ("match", "path", "reason"),
    [
        ({"team": "a"}, "", 'mandatory tag "kuma.io/service" is missing'),
        (SERVICE | {"": "a"}, "", "tag name must be non-empty"),
        (SERVICE | {"a": ""}, '["a"]', "tag value must be non-empty"),
        (SERVICE | {"a b": "c"}, '["a b"]', NAMES),
        (
            SERVICE | {"a": "b c"},
            '["a"]',
            'tag value must consist of alphanumeric characters, dots, dashes, slashes and underscores or be "*"',
        ),
    ],
)
def test_a_selector_names_a_service_and_has_readable_tags(match: dict[str, str], path: str, reason: str) -> None:
    assert gateway(HTTP, selectors=[{"match": match}]) == [(f"selectors[0].match{path}", reason)]


def test_selectors_are_needed_and_need_tags() -> None:
    assert gateway(HTTP, selectors=[]) == [("selectors", "must have at least one element")]
    assert gateway(HTTP, selectors=[{"match": {}}]) == [
        ("selectors[0].match", "must have at least one tag"),
        ("selectors[0].match", 'mandatory tag "kuma.io/service" is missing'),
    ]
    assert gateway(HTTP, selectors=[{"match": {"kuma.io/service": "*"}}, {"match": SERVICE | {"a": "b/c"}}]) == []


@pytest.mark.parametrize(
    "tag", ["kuma.io/service", "kuma.io/zone", "kuma.io/protocol", "kuma.io/external-service-name"]
)
def test_tags_of_the_system_are_not_overlaid(tag: str) -> None:
    """But for `kuma.io/service` on a listener, as the table of seed 004 shows (decision 22)."""
    said = f'tag name must not be "{tag}"'
    assert gateway(HTTP, tags={tag: "x"}) == [(f'tags["{tag}"]', said)]
    refused = [] if tag == "kuma.io/service" else [(f'tags["{tag}"]', said)]
    assert at_first(HTTP | {"tags": {tag: "x"}}) == refused


@pytest.mark.parametrize(
    ("tags", "path", "reason"),
    [
        ({"": "a"}, "", "tag name must be non-empty"),
        ({"a": ""}, '["a"]', "tag value must be non-empty"),
        ({"a b": "c"}, '["a b"]', NAMES),
        ({"a": "*"}, '["a"]', VALUES),
        ({"a": "b/c"}, '["a"]', VALUES),
    ],
)
def test_values_of_tags_have_no_slash_and_are_not_any(tags: dict[str, str], path: str, reason: str) -> None:
    assert gateway(HTTP, tags=tags) == [(f"tags{path}", reason)]
    assert at_first(HTTP | {"tags": tags}) == [(f"tags{path}", reason)]


def test_a_gateway_listens() -> None:
    assert judged({"type": "MeshGateway", "name": "a", "selectors": [{"match": SERVICE}]}) == [
        ("conf", "cannot be empty")
    ]
    assert gateway() == [("conf.listeners", "cannot be empty")]


@pytest.mark.parametrize("hostname", ["", "*", "a", "foo.example.com", "*.example.com", "FOO.example.com", "a" * 63])
def test_hostnames_are_exact_or_wildcards(hostname: str) -> None:
    assert at_first(HTTP | {"hostname": hostname}) == []


@pytest.mark.parametrize(
    ("hostname", "reason"),
    [
        ("foo..com", "invalid hostname"),
        ("foo.*.com", "invalid hostname"),
        ("*foo.com", "invalid hostname"),
        ("foo:80", "invalid hostname"),
        ("*.", "invalid wildcard domain"),
        ("*.*.com", "invalid wildcard domain"),
        ("*.foo/bar", "invalid wildcard domain"),
        (".".join(["a" * 63] * 4), "must be at most 253 characters"),
        ("*." + ".".join(["a" * 63] * 4), "must be at most 253 characters"),
    ],
)
def test_other_hostnames_are_refused(hostname: str, reason: str) -> None:
    assert at_first(HTTP | {"hostname": hostname}) == [("hostname", reason)]


@pytest.mark.parametrize(
    ("listener", "violations"),
    [
        (HTTP | {"port": 0}, [("port", "port must be in the range [1, 65535]")]),
        (HTTP | {"port": 65536}, [("port", "port must be in the range [1, 65535]")]),
        ({"protocol": "HTTP"}, [("port", "port must be in the range [1, 65535]")]),
        ({"port": 80}, [("protocol", "cannot be empty")]),
        ({"port": 80, "protocol": "NONE"}, [("protocol", "cannot be empty")]),
        ({"port": 443, "protocol": "HTTPS"}, [("tls", "cannot be empty")]),
        (HTTPS | {"tls": {}}, [("tls.mode", "cannot be empty")]),
        (HTTPS | {"tls": {"mode": "NONE", "certificates": [CERTIFICATE]}}, [("tls.mode", "cannot be empty")]),
        (HTTPS | {"tls": {"mode": "PASSTHROUGH"}}, [("tls.mode", "mode is not supported on HTTPS listeners")]),
        (
            HTTPS | {"tls": {"mode": "TERMINATE"}},
            [("tls.certificates", "cannot be empty in TLS termination mode")],
        ),
        (
            HTTPS | {"tls": {"mode": "TERMINATE", "certificates": [CERTIFICATE] * 3}},
            [("tls.certificates", "cannot have more than 2 certificates")],
        ),
        (
            HTTPS | {"tls": {"mode": "TERMINATE", "certificates": [{}]}},
            [("tls.certificates[0]", "exactly one of secret, inline, inlineString must be defined")],
        ),
        (HTTPS | {"tls": TERMINATE | {"options": {}}}, []),
        (HTTPS | {"protocol": "TLS"}, []),
        ({"port": 443, "protocol": "TLS", "tls": {"mode": "PASSTHROUGH"}}, []),
    ],
)
def test_ports_protocols_and_tls(listener: dict[str, Any], violations: list[tuple[str, str]]) -> None:
    assert at_first(listener) == violations


@pytest.mark.parametrize(
    ("listener", "path", "reason"),
    [
        ({"port": 443, "protocol": "TLS"}, "tls", "cannot be empty"),
        (HTTP | {"tls": TERMINATE}, "tls", "is not supported on HTTP listeners"),
        (TCP | {"tls": TERMINATE}, "tls", "is not supported on TCP listeners"),
        (
            {"port": 443, "protocol": "TLS", "tls": {"mode": "PASSTHROUGH", "certificates": [CERTIFICATE]}},
            "tls.certificates",
            "must be empty in TLS passthrough mode",
        ),
    ],
)
def test_tls_that_would_be_ignored_or_fail_later_is_refused(listener: dict[str, Any], path: str, reason: str) -> None:
    """Kuma accepts these: a listener would be open that looks encrypted, or the whole gateway fail."""
    assert at_first(listener) == [(path, reason)]


def test_cross_mesh_is_told_with_all_that_else_is_wrong() -> None:
    assert gateway(HTTPS | {"crossMesh": True}, selectors=[{"match": SERVICE}] * 3) == [
        ("selectors[1]", "there can be at most one selector"),
        ("selectors[2]", "there can be at most one selector"),
        ("conf.listeners[0].protocol", "protocol is not supported with crossMesh"),
        ("conf.listeners[0].tls", "must be empty with crossMesh"),
    ]
    assert gateway(HTTP | {"crossMesh": True}, HTTP | {"crossMesh": True, "hostname": "api.example.com"}) == []


@pytest.mark.parametrize(
    ("listener", "path", "reason"),
    [
        (TCP, "protocol", "protocol is not supported with crossMesh"),
        (HTTPS | {"protocol": "TLS", "tls": None}, "protocol", "protocol is not supported with crossMesh"),
        (HTTP | {"hostname": "*.example.com"}, "hostname", "wildcard domain is not supported with crossMesh"),
    ],
)
def test_cross_mesh_that_would_be_in_clear_or_without_a_name_is_refused(
    listener: dict[str, Any], path: str, reason: str
) -> None:
    """Kuma accepts these: TCP is served in plaintext, and no mesh could ask for `*.suffix`."""
    assert at_first(listener | {"crossMesh": True}) == [(path, reason)]


PROTOCOLS = "protocol conflicts with other listeners on this port"


@pytest.mark.parametrize(
    ("listeners", "conflicts"),
    [
        ([HTTP | {"hostname": "a.com"}, HTTP | {"hostname": "b.com"}, HTTP | {"hostname": "*.com"}, HTTP], {}),
        ([HTTP, HTTPS], {}),
        ([HTTP | {"hostname": "a"}, HTTPS | {"port": 8080}], dict.fromkeys((0, 1), PROTOCOLS)),
        ([HTTP | {"hostname": "a"}, TCP, TCP | {"port": 8080}], dict.fromkeys((0, 2), PROTOCOLS)),
        (
            [HTTPS | {"hostname": "a"}, HTTPS | {"protocol": "TLS"}],
            dict.fromkeys((0, 1), PROTOCOLS),
        ),
        ([HTTP, TCP, HTTP | {"hostname": "*"}], dict.fromkeys((0, 2), "multiple listeners for hostname on this port")),
        (
            [HTTP | {"hostname": "a.com"}, HTTP | {"hostname": "A.com"}, HTTP],
            dict.fromkeys((0, 1), "multiple listeners for hostname on this port"),
        ),
    ],
)
def test_listeners_of_a_port_are_told_apart(listeners: list[dict[str, Any]], conflicts: dict[int, str]) -> None:
    """Every one that conflicts is named."""
    assert gateway(*listeners) == [(f"conf.listeners[{index}]", reason) for index, reason in conflicts.items()]


def test_a_port_has_one_limit() -> None:
    def limited(hostname: str, limit: int) -> dict[str, Any]:
        return HTTP | {"hostname": hostname, "resources": {"connectionLimit": limit}}

    assert gateway(limited("a", 5), limited("b", 5), limited("c", 0)) == []
    assert gateway(limited("a", 5), limited("b", 0), limited("c", 6)) == [
        (f"conf.listeners[{index}].resources.connectionLimit", "conflicting values for this port") for index in (0, 2)
    ]


def test_all_that_is_wrong_is_said_at_once() -> None:
    broken = {"protocol": "HTTPS", "hostname": "a..b", "tags": {"kuma.io/zone": "east"}}
    assert gateway(broken, TCP | {"port": 70000}, selectors=[], tags={"a": "*"}) == [
        ("selectors", "must have at least one element"),
        ('tags["a"]', VALUES),
        ("conf.listeners[0].hostname", "invalid hostname"),
        ("conf.listeners[0].port", "port must be in the range [1, 65535]"),
        ("conf.listeners[0].tls", "cannot be empty"),
        ('conf.listeners[0].tags["kuma.io/zone"]', 'tag name must not be "kuma.io/zone"'),
        ("conf.listeners[1].port", "port must be in the range [1, 65535]"),
    ]


@pytest.mark.parametrize(
    ("networking", "violations"),
    [
        ({}, []),
        (
            {"inbound": [{"port": 80, "tags": SERVICE}]},
            [("networking.inbound", "inbound cannot be defined for builtin gateways")],
        ),
        (
            {"outbound": [{"port": 80, "tags": SERVICE}]},
            [("networking.outbound", "outbound cannot be defined for builtin gateways")],
        ),
        (
            {"gateway": {"type": "BUILTIN", "tags": {"a": "b"}}},
            [('networking.gateway.tags["kuma.io/service"]', "tag has to exist")],
        ),
        (
            {"gateway": {"type": "BUILTIN", "tags": SERVICE | {"kuma.io/protocol": "http"}}},
            [
                (
                    'networking.gateway.tags["kuma.io/protocol"]',
                    'other values than tcp are not allowed, provided value "http"',
                )
            ],
        ),
        ({"gateway": {"type": "BUILTIN", "tags": SERVICE | {"kuma.io/protocol": "tcp"}}}, []),
        ({"gateway": {"type": "DELEGATED", "tags": {"a": "b"}}, "inbound": [{"port": 80, "tags": SERVICE}]}, []),
    ],
)
def test_a_builtin_gateway_is_nothing_but_one(networking: dict[str, Any], violations: list[tuple[str, str]]) -> None:
    given = {"address": "10.0.0.1", "gateway": {"type": "BUILTIN", "tags": SERVICE}} | networking
    assert judged({"type": "Dataplane", "mesh": "default", "name": "edge-1", "networking": given}) == violations


@pytest.mark.parametrize("field", ["probes", "listeners"])
def test_what_a_builtin_gateway_cannot_have_is_unknown(field: str) -> None:
    text = "type: Dataplane\nname: a\nnetworking: {address: 10.0.0.1, gateway: {type: BUILTIN, tags: {}}}\n"
    if field == "listeners":
        text = text.replace("address", "listeners: [], address")
    else:
        text += "probes: {port: 9000}\n"
    (fault,) = manifest.parse(text).faults
    assert fault.path.endswith(field)
    assert fault.reason.startswith("unknown field")


def test_what_is_declared_is_read_as_it_stands() -> None:
    """The fields of A1, in their one spelling."""
    text = (
        "type: MeshGateway\nname: edge\nmesh: default\nselectors: [{match: {kuma.io/service: '*'}}]\n"
        "tags: {location: us}\nconf: {listeners: [{port: 80, protocol: HTTP, resources: {connectionLimit: 7}}]}\n"
    )
    (one,) = manifest.parse(text).documents
    assert isinstance(one.resource, MeshGateway)
    assert one.resource.conf is not None
    assert one.resource.conf.listeners[0].resources.connection_limit == 7
    (fault,) = manifest.parse(text.replace("connectionLimit", "connection_limit")).faults
    assert fault.reason == "unknown field, did you mean connectionLimit?"
