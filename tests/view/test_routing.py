"""Routes about one service: merged by their matches, in the order in which a proxy tries them (spec 4 B1, B3.1)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import EventRef
from shared.events.state import Stored
from shared.model.policy import Policy
from shared.model.resource import ResourceKey, key_of
from tests.builders import dataplane, resource
from zone_cp.view.policies import Effective, effective, for_egress, for_proxy, mesh_policies

SERVICE = ResourceKey("MeshExternalService", "default", "payments")
PAYMENTS = {"kind": "MeshExternalService", "name": "payments"}
MESH = {"kind": "Mesh"}
WEB = {"kind": "Dataplane", "name": "web-1"}


def ref(name: str, weight: int = 1) -> dict[str, Any]:
    return {"kind": "MeshExternalService", "name": name, "weight": weight}


def stored(kind: str, name: str, to: dict[str, Any], n: int, top: Any = MESH) -> tuple[Policy, Stored]:
    made = resource(type=kind, name=name, mesh="default", spec={"targetRef": top, "to": [to]})
    assert isinstance(made, Policy)
    event = EventRef("global", n)
    return made, Stored(key_of(made, ""), made, event, event)


def route(name: str, *rules: dict[str, Any], n: int = 1, top: Any = MESH) -> tuple[Policy, Stored]:
    return stored("MeshHTTPRoute", name, {"targetRef": PAYMENTS, "rules": list(rules)}, n, top)


def rule(match: dict[str, Any], **default: Any) -> dict[str, Any]:
    return {"matches": [match], "default": default}


def path(kind: str, value: str, **more: Any) -> dict[str, Any]:
    return {"path": {"type": kind, "value": value}} | more


def said(*policies: tuple[Policy, Stored]) -> Effective:
    return effective(for_proxy(mesh_policies(policies), dataplane()), SERVICE, key_labels())


def key_labels() -> Any:
    return resource(
        type="MeshExternalService",
        name="payments",
        mesh="default",
        spec={"match": {"port": 80, "protocol": "http"}, "endpoints": [{"address": "1.1.1.1", "port": 80}]},
    ).labels


ORDERED = [
    path("Exact", "/b"),
    path("PathPrefix", "/long/er", method="GET"),
    path("PathPrefix", "/long/er", headers=[{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]),
    path("PathPrefix", "/long/er", headers=[{"name": "x", "value": "1"}]),
    path("PathPrefix", "/long/er", queryParams=[{"type": "Exact", "name": "q", "value": "1"}]),
    path("PathPrefix", "/long/er"),
    path("PathPrefix", "/long"),
    path("RegularExpression", "/lo.*"),
    path("RegularExpression", "/l"),
    {"method": "GET"},
    {"headers": [{"name": "x", "value": "1"}]},
]


@settings(deadline=None)
@given(shuffled=st.permutations(ORDERED))
def test_the_most_specific_match_is_tried_first(shuffled: list[dict[str, Any]]) -> None:
    """Exact, longer prefix, longer pattern, none; then method, headers, parameters: whatever was written first."""
    found = said(route("r", *(rule(one, backendRefs=[ref("b")]) for one in shuffled)))
    in_order = said(route("r", *(rule(one, backendRefs=[ref("b")]) for one in ORDERED)))
    assert [one.match for one in found.http] == [one.match for one in in_order.http]


def test_rules_with_the_same_matches_are_one_rule() -> None:
    """The more specific policy patches `default` field by field; lists are replaced; each part cites its event."""
    wide = route("wide", rule(path("Exact", "/a"), backendRefs=[ref("one")]), rule(path("Exact", "/b")), n=1)
    header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}
    narrow = route("narrow", rule(path("Exact", "/a"), filters=[header]), n=2, top=WEB)
    found = said(narrow, wide)
    assert [one.match.path.value for one in found.http if one.match.path is not None] == ["/a", "/b"]
    first = found.http[0]
    assert [one.name for one in first.backends] == ["one"]
    assert first.origin.key.name == "narrow"
    assert first.backend_origin.key.name == "wide"
    assert dict(found.origins)["httpRoute[0]"] == EventRef("global", 2)
    assert dict(found.origins)["httpRoute[0].backendRefs"] == EventRef("global", 1)


def test_a_timeout_about_a_route_holds_for_that_route_alone() -> None:
    """`to: MeshHTTPRoute` outranks `to: MeshExternalService`, for the rules of that route."""
    a = route("a", rule(path("Exact", "/a")))
    b = route("b", rule(path("Exact", "/b")))
    wide = stored("MeshTimeout", "t", {"targetRef": PAYMENTS, "default": {"http": {"requestTimeout": "5s"}}}, 3)
    about = {"targetRef": {"kind": "MeshHTTPRoute", "name": "a"}, "default": {"http": {"requestTimeout": "1s"}}}
    found = said(a, b, wide, stored("MeshTimeout", "u", about, 4))
    timeouts = [one.timeout.http.request_timeout if one.timeout and one.timeout.http else None for one in found.http]
    assert timeouts == ["1s", None]
    assert found.timeout.http is not None
    assert found.timeout.http.request_timeout == "5s"
    assert EventRef("global", 4) in found.sources


def test_the_last_tcp_route_names_the_backends() -> None:
    """Lists are replaced: of two routes, the more specific one."""
    wide = stored(
        "MeshTCPRoute", "wide", {"targetRef": PAYMENTS, "rules": [{"default": {"backendRefs": [ref("a")]}}]}, 1
    )
    narrow = {"targetRef": PAYMENTS, "rules": [{"default": {"backendRefs": [ref("b"), ref("c", 3)]}}]}
    found = said(stored("MeshTCPRoute", "narrow", narrow, 2, WEB), wide)
    assert found.tcp is not None
    assert [(one.name, one.weight) for one in found.tcp.backends] == [("b", 1), ("c", 3)]
    assert found.sources == (EventRef("global", 2),)


def test_routes_are_no_matter_of_the_egress() -> None:
    """Where a client's requests go is decided at the client: the egress hears nothing of it."""
    policies = mesh_policies([route("r", rule(path("Exact", "/a"), backendRefs=[ref("b")]))])
    assert for_egress(policies) == ()
