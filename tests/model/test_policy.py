"""Policies: their shape, Kuma's sentences, and what is refused because it could have no effect."""

from __future__ import annotations

from datetime import timedelta

import pytest

from shared.model import codec, kinds, manifest
from shared.model.duration import parse_duration
from shared.model.labels import computed
from shared.model.resource import Resource
from shared.model.validate import validate

NOT_RE2 = (
    "must be a regular expression of RE2: of what begins with (? it knows names (?P<n>), the flags i, m and s, and (?:)"
)


def read(kind: str, spec: str) -> manifest.Parsed:
    return manifest.parse(f"type: {kind}\nname: p\nmesh: default\nspec: {spec}\n", "f")


def judged(kind: str, spec: str) -> list[tuple[str, str]]:
    parsed = read(kind, spec)
    assert parsed.faults == ()
    return [(one.path, one.reason) for one in validate(parsed.documents[0].resource)]


TO = "{targetRef: {kind: Mesh}, default: %s}"


def to(kind: str, default: str) -> list[tuple[str, str]]:
    prefix = "spec.to[0].default"
    return [
        (path.removeprefix(prefix).removeprefix("."), why) for path, why in judged(kind, f"{{to: [{TO % default}]}}")
    ]


@pytest.mark.parametrize(
    ("kind", "default", "found"),
    [
        ("MeshTimeout", "{}", [("", "at least one timeout should be configured")]),
        ("MeshTimeout", "{http: {}}", [("http", "at least one timeout in this section should be configured")]),
        ("MeshTimeout", "{connectionTimeout: 0s}", [("connectionTimeout", "must be greater than zero when defined")]),
        ("MeshTimeout", "{idleTimeout: -1s}", [("idleTimeout", "must not be negative when defined")]),
        ("MeshTimeout", "{idleTimeout: 1d}", [("idleTimeout", 'time: invalid duration "1d"')]),
        ("MeshTimeout", "{idleTimeout: 0s, http: {requestTimeout: 1h30m}}", []),
        ("MeshRetry", "{}", [("", "at least one of the 'tcp', 'http', 'grpc' must be specified")]),
        ("MeshRetry", "{http: {}}", [("http", "must not be empty")]),
        ("MeshRetry", "{tcp: {maxConnectAttempt: 0}}", [("tcp.maxConnectAttempt", "must be greater than 0")]),
        ("MeshRetry", "{http: {retryOn: [teapot]}}", [("http.retryOn", "unknown item 'teapot'")]),
        ("MeshRetry", "{http: {retryOn: ['429', 5xx, HttpMethodGet]}}", []),
        ("MeshRetry", "{grpc: {retryOn: [5xx]}}", [("grpc.retryOn", "unknown item '5xx'")]),
        (
            "MeshCircuitBreaker",
            "{}",
            [("", "at least one of: 'connectionLimits' or 'outlierDetection' should be configured")],
        ),
        (
            "MeshCircuitBreaker",
            "{connectionLimits: {maxRequests: 0}}",
            [("connectionLimits.maxRequests", "must be greater than 0")],
        ),
        ("MeshCircuitBreaker", "{outlierDetection: {detectors: {totalFailures: {consecutive: 3}}}}", []),
        ("MeshHealthCheck", "{}", [("", "at least one of the 'tcp', 'http', 'grpc' must be specified")]),
        ("MeshHealthCheck", "{http: {path: x}}", [("http.path", "must be a valid path when defined")]),
        (
            "MeshHealthCheck",
            "{interval: 0s, tcp: {send: '%'}}",
            [
                ("interval", "must be greater than zero when defined"),
                ("tcp.send", "must be base64"),
            ],
        ),
        ("MeshAccessLog", "{}", [("backends", "must be defined")]),
        ("MeshAccessLog", "{backends: []}", []),
        (
            "MeshAccessLog",
            "{backends: [{type: File, file: {path: /a, format: {type: Plain, plain: '%REQ(:PATH)% 1%% %NOPE% a'}}}]}",
            [("backends[0].file.format.plain", "must hold known format commands only: %NOPE% a")],
        ),
        (
            "MeshAccessLog",
            "{backends: [{type: File, file: {path: /a, format: {type: Plain, plain: '%REQ(:PATH)% %KUMA_MESH%'}}}]}",
            [],
        ),
        *(
            ("MeshHealthCheck", f'{{http: {{path: "{path}"}}}}', [("http.path", "must be a valid path when defined")])
            for path in ("x", "/ a", "/a\\nb: c", "/ü")
        ),
        (
            "MeshHealthCheck",
            "{http: {requestHeadersToAdd: {set: [{name: Host, value: x}]}}}",
            [("http.requestHeadersToAdd.set[0].name", "must not be host")],
        ),
        (
            "MeshRetry",
            "{http: {retriableResponseHeaders: [{name: x, type: RegularExpression, value: '(?=a)'}]}}",
            [("http.retriableResponseHeaders[0].value", NOT_RE2)],
        ),
        (
            "MeshAccessLog",
            "{backends: [{type: File, file: {path: log, format: {type: Json, json: [{key: '', value: a}]}}}]}",
            [
                ("backends[0].file.path", "file backend requires a valid path"),
                ("backends[0].file.format.json[0].key", "key cannot be empty"),
            ],
        ),
        ("MeshLoadBalancingStrategy", "{}", [("loadBalancer", "must be defined")]),
        (
            "MeshLoadBalancingStrategy",
            "{loadBalancer: {type: Random, roundRobin: {}}}",
            [("loadBalancer.roundRobin", "must be empty when type is Random")],
        ),
    ],
)
def test_values_are_judged_in_kumas_words(kind: str, default: str, found: list[tuple[str, str]]) -> None:
    """Every rule of spec 4 B3 has Kuma's path and sentence."""
    assert to(kind, default) == found


@pytest.mark.parametrize(
    ("top", "destination", "found"),
    [
        ("{kind: Mesh}", "{kind: MeshExternalService, name: a}", []),
        ("{kind: MeshGateway, name: a, tags: {port: http}}", "{kind: Mesh}", []),
        ("{kind: MeshGateway}", "{kind: Mesh}", [("targetRef.name", "must be set when kind is MeshGateway")]),
        (
            "{kind: MeshGateway, name: a}",
            "{kind: MeshService, name: b}",
            [("to[0].targetRef.kind", "value 'MeshService' is not supported")],
        ),
        (
            "{kind: Mesh, name: a}",
            "{kind: Mesh}",
            [("targetRef.name", "using name with kind Mesh is not yet supported")],
        ),
        ("{kind: MeshService}", "{kind: Mesh}", [("targetRef.name", "must be set when kind is MeshService")]),
        (
            "{kind: Mesh, tags: {a: b}}",
            "{kind: Mesh}",
            [("targetRef.tags", "must not be set with kind Mesh")],
        ),
        (
            "{kind: Mesh}",
            "{kind: MeshService, name: a}",
            [("to[0].targetRef.kind", "value 'MeshService' is not supported")],
        ),
        (
            "{kind: Mesh}",
            "{kind: MeshExternalService}",
            [("to[0].targetRef", "either labels or name must be specified")],
        ),
        (
            "{kind: Mesh}",
            "{kind: MeshExternalService, name: a, sectionName: b}",
            [("to[0].targetRef.sectionName", "must not be set with kind MeshExternalService")],
        ),
    ],
)
def test_target_refs_follow_kumas_grammar(top: str, destination: str, found: list[tuple[str, str]]) -> None:
    """Spec 4 B0, as far as external traffic is concerned; other destinations would have no effect."""
    spec = f"{{targetRef: {top}, to: [{{targetRef: {destination}, default: {{connectionTimeout: 1s}}}}]}}"
    assert judged("MeshTimeout", spec) == [(f"spec.{path}", why) for path, why in found]


def test_what_all_clients_share_is_not_set_for_one_of_them() -> None:
    """Spec 4 §6.8: limits live at the egress, so a policy that selects some proxies may not set a service's."""
    spec = (
        "{targetRef: {kind: Dataplane, name: web}, to: [{targetRef: {kind: MeshExternalService, name: a}, "
        "default: {connectionLimits: {maxRequests: 1}}}]}"
    )
    (only,) = judged("MeshCircuitBreaker", spec)
    assert only[0] == "spec.to[0].targetRef.kind"
    assert only[1].startswith("kind MeshExternalService is only allowed with targetRef.kind: Mesh")


def test_permissions_guard_external_services_only() -> None:
    """Decision 20: a MeshTrafficPermission targets a MeshExternalService; ids are SPIFFE ids."""
    rules = "rules: [{default: {allow: [{spiffeID: {type: Exact, value: %s}}]}}]"
    service = "{kind: MeshExternalService, name: a}"
    good = rules % "spiffe://default/web"
    assert judged("MeshTrafficPermission", f"{{targetRef: {service}, {good}}}") == []
    assert judged("MeshTrafficPermission", f"{{targetRef: {{kind: Mesh}}, {good}}}") == [
        ("spec.targetRef.kind", "value 'Mesh' is not supported")
    ]
    assert judged("MeshTrafficPermission", f"{{targetRef: {service}, {rules % 'web'}}}") == [
        ("spec.rules[0].default.allow[0].spiffeID.value", "must be a valid Spiffe ID: web")
    ]


def test_permissions_in_their_older_form_name_clients_by_service() -> None:
    """`from` with Kuma's sentences; what a certificate does not prove is refused rather than believed."""
    rules = "rules: [{default: {allow: [{spiffeID: {type: Exact, value: spiffe://default/web}}]}}]"

    def told(*clients: str, more: str = "") -> list[tuple[str, str]]:
        items = ", ".join(f"{{targetRef: {{{one}}}, default: {{action: Allow}}}}" for one in clients)
        return judged("MeshTrafficPermission", f"{{targetRef: {{kind: MeshService, name: a}}, from: [{items}]{more}}}")

    tagged = "kind: MeshSubset, tags: {kuma.io/service: web}"
    assert told("kind: Mesh", "kind: MeshService, name: web", tagged, "kind: MeshSubset") == []
    assert told() == [("spec", "at least one of 'from' or 'rules' has to be defined")]
    assert told("kind: Mesh", more=f", {rules}") == [
        ("spec.from", "field 'from' must be empty when 'rules' is defined")
    ]
    assert told("kind: Mesh", "kind: MeshServiceSubset, name: web", "kind: MeshService", "kind: Mesh, name: web") == [
        ("spec.from[1].targetRef.kind", "value 'MeshServiceSubset' is not supported"),
        ("spec.from[2].targetRef.name", "must be set when kind is MeshService"),
        ("spec.from[3].targetRef.name", "using name with kind Mesh is not yet supported"),
    ]
    assert told('kind: MeshSubset, tags: {version: v1, kuma.io/service: ""}') == [
        ('spec.from[0].targetRef.tags["kuma.io/service"]', "tag value must be non-empty"),
        ('spec.from[0].targetRef.tags["version"]', "only kuma.io/service can be told from a client's identity"),
    ]


def test_unknown_fields_are_refused() -> None:
    """Decision 14: what would have no effect on external traffic is refused with its path."""
    parsed = read("MeshTimeout", "{from: [], to: []}")
    assert [(fault.path, fault.reason.partition(",")[0]) for fault in parsed.faults] == [("spec.from", "unknown field")]


@pytest.mark.parametrize("kind", ["MeshTimeout", "MeshRetry", "MeshCircuitBreaker"])
def test_policies_have_paths_roles_and_one_canonical_form(kind: str) -> None:
    """Kuma's collection names; the role system; what is encoded is decoded to the same."""
    conf = {
        "MeshTimeout": "{connectionTimeout: 1s}",
        "MeshRetry": "{http: {numRetries: 2}}",
        "MeshCircuitBreaker": "{connectionLimits: {maxRequests: 2}}",
    }[kind]
    policy = computed(read(kind, f"{{to: [{TO % conf}]}}").documents[0].resource, "")
    assert policy.labels["kuma.io/policy-role"] == "system"
    assert codec.decode(codec.encode(policy), Resource) == policy
    found = kinds.by_name(kind)
    assert found is not None
    assert found.path == {"MeshRetry": "meshretries"}.get(kind, f"{kind.lower()}s")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15s", 15), ("1h30m", 5400), ("1.5s", 1.5), ("250ms", 0.25), ("0", 0), ("-2m", -120), ("1d", None), ("", None)],
)
def test_durations_are_gos(text: str, seconds: float | None) -> None:
    """Kuma's durations are Go's: days do not exist."""
    assert parse_duration(text) == (None if seconds is None else timedelta(seconds=seconds))
