"""What routes do to traffic: real Envoys, through the zone egress and in direct mode."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from shared.model.resource import ResourceKey
from tests.e2e.governed import Held, World, both_worlds, service
from tests.xds.clients import Answer, http1, http2, tcp
from tests.xds.envoys import eventually
from tests.xds.loopback import DIRECT

pytestmark = pytest.mark.e2e

MANY = 300
"""Draws of a weight of 80/20: 300 lie within 45 of the expectation in all but one of ten billion runs."""
MARGIN = 45
OTHER = {"x-to": "other"}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    with both_worlds(tmp_path_factory) as made:
        yield made


@pytest.fixture(params=["egress", "sidecar"])
def world(worlds: dict[str, World], request: pytest.FixtureRequest) -> Iterator[World]:
    """Through the zone egress, and in direct mode."""
    world = worlds[request.param]
    yield world
    assert world.zone.nacks() == []


def ref(name: str, weight: int = 1) -> dict[str, Any]:
    return {"kind": "MeshExternalService", "name": name, "weight": weight}


def rule(path: str | dict[str, Any], *refs: dict[str, Any], filters: list[Any] | None = None) -> dict[str, Any]:
    """A rule for what begins with `path`, or for a whole match."""
    match = {"path": {"type": "PathPrefix", "value": path}} if isinstance(path, str) else path
    default = ({"backendRefs": list(refs)} if refs else {}) | ({"filters": filters} if filters else {})
    return {"matches": [match], "default": default}


def http_route(world: World, *rules: dict[str, Any], name: str = "r", to: str = "slow") -> AbstractContextManager[Any]:
    """A MeshHTTPRoute about the service `to`."""
    spec = {"to": [{"targetRef": {"kind": "MeshExternalService", "name": to}, "rules": list(rules)}]}
    return world.applied(f"{{type: MeshHTTPRoute, name: {name}, mesh: default, spec: {json.dumps(spec)}}}")


def tcp_route(world: World, *refs: dict[str, Any], to: str = "lines") -> AbstractContextManager[Any]:
    """A MeshTCPRoute about the service `to`."""
    item = {"targetRef": {"kind": "MeshExternalService", "name": to}, "rules": [{"default": {"backendRefs": refs}}]}
    return world.applied(f"{{type: MeshTCPRoute, name: t, mesh: default, spec: {json.dumps({'to': [item]})}}}")


def reached(world: World, path: str, headers: str = "", name: str = "slow") -> str:
    """Who answers a request for the service `name`; "" when nobody outside does."""
    return str(world.get(name, path, headers).seen.get("server", ""))


def together(world: World, *paths: str) -> list[Answer]:
    """Answers to requests for `slow`, sent at the same time: Envoy lingers a second after an answer of its own."""

    async def ask() -> list[Answer]:
        host = world.vip("slow")
        return await asyncio.gather(*(http1(host, world.port, path) for path in paths))

    return asyncio.run(ask())


def lines(world: World) -> Counter[str]:
    """Who answers each of many connections to `lines`."""

    async def ask() -> list[Answer]:
        return await asyncio.gather(*(tcp(world.vip("lines"), world.port) for _ in range(MANY)))

    return Counter(str(one.seen.get("server", "")) for one in asyncio.run(ask()))


def line(world: World, name: str = "lines") -> str:
    """Who answers a line to the service `name`."""
    return str(asyncio.run(tcp(world.vip(name), world.port)).seen.get("server", ""))


def by_header(value: str) -> dict[str, Any]:
    return {"headers": [{"name": "x-to", "value": value}]}


def test_requests_are_shared_out_by_weight(world: World) -> None:
    """backendRefs with weights: 80 of 100 here, 20 there; what no rule takes goes where it was meant to go.

    A connection that is open stays so, when the route comes and when it goes.
    """
    held = Held(world.vip("slow"), world.port)
    assert held.get() == 200
    with http_route(world, rule("/split", ref("slow", 80), ref("other", 20)), rule(by_header("other"), ref("other"))):
        eventually(lambda: reached(world, "/", "x-to: other\r\n") == "other", "the route")
        drawn = Counter(answer.seen["server"] for answer in together(world, *["/split"] * MANY))
        assert set(drawn) == {"slow", "other"}
        assert abs(drawn["slow"] - MANY * 0.8) < MARGIN
        assert {reached(world, path) for path in ("/", "/splitter", "/x/split")} == {"slow"}
        assert reached(world, "/", name="other") == "other"
        seen = world.servers["other"].seen
        assert {held.get("/split") for _ in range(40)} == {200}
        assert world.servers["other"].seen > seen
    eventually(lambda: reached(world, "/", "x-to: other\r\n") == "slow", "the end of the route")
    assert held.get() == 200
    held.close()


def test_the_most_specific_match_wins(world: World) -> None:
    """Exact before prefix, longer before shorter, with headers and parameters before without; HTTP/2 alike."""
    query = {
        "path": {"type": "PathPrefix", "value": "/a"},
        "queryParams": [{"type": "Exact", "name": "q", "value": "1"}],
    }
    exact = {"path": {"type": "Exact", "value": "/a/b"}, "method": "GET"}
    pattern = {"path": {"type": "RegularExpression", "value": "/r[0-9]+"}}
    rules = (rule("/a", ref("slow")), rule(query, ref("other")), rule(exact, ref("other")), rule(pattern, ref("other")))
    with http_route(world, *rules):
        eventually(lambda: reached(world, "/a/b") == "other", "the route")
        told = {path: reached(world, path) for path in ("/a", "/a/c", "/a/c?q=1", "/a/c?q=2", "/r17", "/r17x", "/ab")}
        assert {path for path, server in told.items() if server == "other"} == {"/a/c?q=1", "/r17"}
        answer = asyncio.run(http2(world.vip("slow"), world.port, "/a/b"))
        assert answer.seen["server"] == "other"


def test_a_share_of_nobody_is_answered_with_why(world: World) -> None:
    """A missing service and one of another class keep their share, as 500; the rest is shared by the others."""
    with http_route(world, rule("/gone", ref("nobody"), ref("lines"), ref("other", 2)), rule("/none", ref("nobody"))):
        eventually(lambda: world.get("slow", "/none").status == 500, "the route")
        assert world.get("slow", "/none").body == "MeshHTTPRoute r: no MeshExternalService nobody is here\n"
        answers = together(world, *["/gone"] * MANY)
        drawn = Counter(answer.seen.get("server") or answer.body for answer in answers)
        assert abs(drawn["other"] - MANY / 2) < MARGIN
        assert {answer.status for answer in answers} == {200, 500}
        assert len(drawn) == 3
        assert any("lines has protocol tcp" in told for told in drawn)


def test_a_redirect_answers_without_going_out(world: World) -> None:
    """RequestRedirect: status, scheme, host, port and path as the filter says."""
    whole = {"hostname": "b.example.com", "scheme": "https", "port": 8443, "statusCode": 301}
    whole |= {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/there"}}
    prefix = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}
    rules = [
        rule(path, filters=[{"type": "RequestRedirect", "requestRedirect": said}])
        for path, said in (("/away", whole), ("/old", prefix))
    ]
    with http_route(world, *rules):
        eventually(lambda: world.get("slow", "/away").status == 301, "the route")
        seen = world.servers["slow"].seen
        answers = together(world, "/away/x?q=1", "/old", "/old/er")
        assert [one.status for one in answers] == [301, 302, 302]
        assert [one.headers["location"] for one in answers] == [
            "https://b.example.com:8443/there?q=1",
            "http://app/new",
            "http://app/new/er",
        ]
        assert world.servers["slow"].seen == seen


def test_a_rewrite_changes_what_the_service_is_asked_for(world: World) -> None:
    """URLRewrite and header modifiers: path, host, headers of request and response; values are literal."""
    world.zone.apply(service("named", world.port, world.servers["other"].port).replace("127.0.0.1", "localhost"))
    filters = [
        {
            "type": "URLRewrite",
            "urlRewrite": {
                "hostname": "new.example.com",
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/status"},
            },
        },
        {
            "type": "RequestHeaderModifier",
            "requestHeaderModifier": {"set": [{"name": "x-set", "value": "100% %FOO%"}], "remove": ["x-gone"]},
        },
        {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"add": [{"name": "x-back", "value": "1"}], "remove": ["content-type"]},
        },
    ]
    try:
        with http_route(world, rule("/old", filters=filters), rule("/plain", ref("named")), to="named"):
            eventually(lambda: world.get("named", "/old/201").status == 201, "the route")
            sent = "x-gone: 1\r\nx-set: before\r\nx-zonal-keep-host: 1\r\nx-zonal-sni: x\r\n"
            answer = world.get("named", "/old/201", sent)
            assert answer.seen["headers"]["host"] == "new.example.com"
            assert answer.seen["headers"]["x-set"] == "100% %FOO%"
            assert not {"x-gone", "x-zonal-keep-host", "x-zonal-sni"} & set(answer.seen["headers"])
            assert answer.headers["x-back"] == "1"
            # Without a chosen host the endpoint's holds, whatever an application claims.
            assert world.get("named", "/plain", sent).seen["headers"]["host"] == "localhost"
    finally:
        world.delete(ResourceKey("MeshExternalService", "default", "named"))


def test_a_mirror_sees_the_same_requests(world: World) -> None:
    """RequestMirror: the second service sees a copy, the client hears the first; nobody's copy is not made."""
    mirror, nobody = (
        {"type": "RequestMirror", "requestMirror": {"backendRef": {"kind": "MeshExternalService", "name": name}}}
        for name in ("other", "nobody")
    )
    with http_route(world, rule("/twice", filters=[mirror]), rule("/once", filters=[nobody])):
        seen = world.servers["other"].seen
        eventually(
            lambda: reached(world, "/twice") == "slow" and world.servers["other"].seen > seen, "a copy at the other"
        )
        assert reached(world, "/once") == "slow"


def test_a_timeout_about_a_route_holds_for_it_alone(world: World) -> None:
    """MeshTimeout to MeshHTTPRoute: 504 in time for its rules, other requests to the service as before."""
    with (
        http_route(world, rule({"path": {"type": "PathPrefix", "value": "/slow"}}, ref("slow"))),
        http_route(world, rule(by_header("patient"), ref("slow")), name="patient"),
        world.policy(
            "MeshTimeout",
            "",
            {},
            to=[
                {
                    "targetRef": {"kind": "MeshHTTPRoute", "name": "r"},
                    "default": {"http": {"requestTimeout": "200ms"}},
                }
            ],
        ),
    ):
        eventually(lambda: world.get("slow", "/slow/0.6").status == 504, "a timeout")
        assert reached(world, "/", "x-to: patient\r\n") == "slow"
        assert world.get("other", "/slow/0.6").status == 200


def test_connections_are_shared_out_by_weight(world: World) -> None:
    """MeshTCPRoute: each connection is drawn for; a missing service's share is closed, none is given to others."""
    with tcp_route(world, ref("quiet")):
        eventually(lambda: line(world) == "quiet", "the route")
        assert line(world, "quiet") == "quiet"
    with tcp_route(world, ref("lines", 80), ref("quiet", 20)):
        eventually(lambda: line(world) == "lines", "the shares")
        drawn = lines(world)
        assert set(drawn) == {"lines", "quiet"}
        assert abs(drawn["lines"] - MANY * 0.8) < MARGIN
    with tcp_route(world, ref("lines"), ref("nobody"), ref("slow")):
        eventually(lambda: line(world) == "", "a share of nobody")
        assert set(lines(world)) == {"lines", ""}
    eventually(lambda: set(lines(world)) == {"lines"}, "the end of the route")


def test_a_tcp_route_holds_for_http_until_there_is_an_http_route(world: World) -> None:
    """Kuma: MeshHTTPRoute beats MeshTCPRoute on HTTP destinations; without one, requests are shared out."""
    with tcp_route(world, ref("other"), to="slow"):
        eventually(lambda: reached(world, "/") == "other", "the route")
        with http_route(world, rule("/own", ref("other"))):
            eventually(lambda: reached(world, "/") == "slow", "the better route")
            assert reached(world, "/own") == "other"


def test_a_permission_of_the_backend_decides(world: World) -> None:
    """Who may use a service is asked where it is dialled: of the backend, not of the name that was called."""
    spec = {
        "targetRef": {"kind": "MeshExternalService", "name": "other"},
        "rules": [{"default": {"allow": [{"spiffeID": {"type": "Exact", "value": "spiffe://default/nobody"}}]}}],
    }
    with (
        http_route(world, rule("/there", ref("other"))),
        world.applied(f"{{type: MeshTrafficPermission, name: p, mesh: default, spec: {json.dumps(spec)}}}"),
    ):
        eventually(lambda: world.get("slow", "/there").status == 403, "a refusal")
        assert "is denied" in world.get("slow", "/there").body
        assert reached(world, "/") == "slow"


def test_an_extension_stands_in_for_a_service(world: World) -> None:
    """A static response behind the egress takes requests as any backend does; in direct mode it says why it cannot."""
    answers = {"type": "static-response", "config": {"status": 410}}
    page = json.dumps({"match": {"port": world.port, "protocol": "http"}, "extension": answers})
    direct = world.mesh == DIRECT
    with (
        world.applied(f"{{type: MeshExternalService, name: page, mesh: default, spec: {page}}}"),
        http_route(world, rule("/closed", ref("page"))),
        http_route(world, rule("/open", ref("other")), name="p", to="page"),
    ):
        eventually(lambda: world.get("slow", "/closed").status == (503 if direct else 410), "the page")
        assert "in direct mode" in world.get("slow", "/closed").body or not direct
        assert world.get("page", "/").status == 410
        assert reached(world, "/open", name="page") == "other"


def test_authors_are_told_what_will_not_be_reached(world: World) -> None:
    """Warnings: a backend that is not there, one that speaks something else, a destination that is no HTTP."""
    with http_route(world, rule("/a", ref("nobody"), ref("lines"))) as said:
        assert any("there is no MeshExternalService nobody" in one for one in said)
        assert any("lines has protocol tcp" in one for one in said)
    key = ResourceKey("MeshExternalService", "default", "later")
    spec = {"to": [{"targetRef": {"kind": "MeshExternalService", "name": "slow"}, "rules": [rule("/a", ref("later"))]}]}
    text = f"{{type: MeshHTTPRoute, name: r, mesh: default, spec: {json.dumps(spec)}}}"
    try:
        # What comes later in the same batch is there.
        assert world.zone.apply(text, service("later", world.port, 1).replace("tcp", "http")) == ()
    finally:
        world.delete(ResourceKey("MeshHTTPRoute", "default", "r"))
        world.delete(key)
    with http_route(world, rule("/a"), to="lines") as said:
        assert said == ("MeshHTTPRoute r has no effect on MeshExternalService lines: its protocol is tcp",)
