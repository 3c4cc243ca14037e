"""Which Dataplanes serve a MeshGateway, and which ones a policy or a route means."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from tests.api.memory_store import ADMIN, MemoryStore, Tokens


def gateway(name: str, **tags: str) -> dict[str, Any]:
    selectors = [{"match": {"kuma.io/service": "edge", **tags}}]
    conf = {"listeners": [{"port": 80, "protocol": "HTTP"}]}
    return {"type": "MeshGateway", "mesh": "default", "name": name, "selectors": selectors, "conf": conf}


def dataplane(name: str, **gateway_tags: str) -> dict[str, Any]:
    builtin = {"type": "BUILTIN", "tags": {"kuma.io/service": "edge", **gateway_tags}}
    networking = {"address": "10.0.0.1", "gateway": builtin}
    return {"type": "Dataplane", "mesh": "default", "name": name, "networking": networking}


def applied(api: TestClient[Litestar], *resources: dict[str, Any]) -> None:
    answer = api.post("/apply", json={"resources": resources})
    assert answer.status_code == 200, answer.text


def test_each_dataplane_is_listed_with_the_one_it_is_bound_to() -> None:
    hub = MemoryStore()
    with TestClient(build_api(hub, authenticator=Tokens(), role="global")) as api:
        api.headers.update(ADMIN)
        applied(api, {"type": "Mesh", "name": "default"}, gateway("all"), gateway("mine", team="a"))
        empty = api.get("/meshes/default/meshgateways/all/dataplanes")
        assert (empty.status_code, empty.json()) == (200, {"total": 0, "items": [], "next": None})
    store = MemoryStore("east", hub.writer.state)
    with TestClient(build_api(store, authenticator=Tokens(), role="zone", zone="east")) as api:
        api.headers.update(ADMIN)
        sidecar = dataplane("web") | {"networking": {"address": "10.0.0.2"}}
        applied(api, dataplane("one"), dataplane("two", team="a"), dataplane("three", team="b"), sidecar)

        def bound(name: str) -> list[str]:
            answer = api.get(f"/meshes/default/meshgateways/{name}/dataplanes")
            assert answer.status_code == 200, answer.text
            assert all((one["zone"], one["mesh"]) == ("east", "default") for one in answer.json()["items"])
            return sorted(one["name"] for one in answer.json()["items"])

        assert (bound("all"), bound("mine")) == (["one", "three"], ["two"])
        applied(api, gateway("local", team="b"))
        assert (bound("all"), bound("local")) == (["one"], ["three"])
        assert api.get("/meshes/default/meshgateways/none/dataplanes").status_code == 404


def route(name: str, kind: str, **tags: str) -> dict[str, Any]:
    backends = [{"destination": {"kuma.io/service": "a"}}]
    rule = {"backends": backends} | ({"matches": [{"method": "GET"}]} if kind == "http" else {})
    selectors = [{"match": {"kuma.io/service": "edge", **tags}}]
    conf = {kind: {"rules": [rule]}}
    return {"type": "MeshGatewayRoute", "mesh": "default", "name": name, "selectors": selectors, "conf": conf}


def policy(kind: str, name: str, top: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {"targetRef": top, "to": [{"targetRef": {"kind": "Mesh"}, "default": default}]}
    if kind == "MeshPassthrough":
        spec = {"targetRef": top, "default": default}
    return {"type": kind, "mesh": "default", "name": name, "spec": spec}


SLOW = {"idleTimeout": "5s"}
BACKEND = {"backendRefs": [{"kind": "MeshService", "name": "a"}]}
EDGE = {"kind": "MeshGateway", "name": "all"}
ASKED = {
    "meshgatewayroutes/of-http/dataplanes": ["one", "two"],
    "meshgatewayroutes/of-b/dataplanes": ["two"],
    "meshgatewayroutes/of-tcp/dataplanes": [],
    "meshtimeouts/on-all/_resources/dataplanes": ["one", "two", "web"],
    "meshtimeouts/on-sidecars/_resources/dataplanes": ["web"],
    "meshtimeouts/on-one/_resources/dataplanes": ["one"],
    "meshtimeouts/on-edge/_resources/dataplanes": ["one", "two"],
    "meshtimeouts/on-b/_resources/dataplanes": ["two"],
    "meshhttproutes/on-edge/_resources/dataplanes": ["one", "two"],
    "meshpassthroughs/on-all/_resources/dataplanes": ["web"],
}


def test_who_is_meant_is_listed() -> None:
    """By tags of listeners, by kind of proxy and by name; what says nothing to gateways does not list them."""
    hub = MemoryStore()
    http = policy("MeshHTTPRoute", "on-edge", EDGE, {})
    http["spec"]["to"] = [
        {"targetRef": {"kind": "Mesh"}, "rules": [{"matches": [{"method": "GET"}], "default": BACKEND}]}
    ]
    with TestClient(build_api(hub, authenticator=Tokens(), role="global")) as api:
        api.headers.update(ADMIN)
        applied(
            api,
            {"type": "Mesh", "name": "default"},
            gateway("all"),
            *(route("of-http", "http"), route("of-b", "http", team="b"), route("of-tcp", "tcp")),
            *(
                policy("MeshTimeout", name, top, SLOW)
                for name, top in (
                    ("on-all", {"kind": "Mesh"}),
                    ("on-sidecars", {"kind": "Mesh", "proxyTypes": ["Sidecar"]}),
                    ("on-one", {"kind": "Dataplane", "name": "one"}),
                    ("on-edge", EDGE),
                    ("on-b", EDGE | {"tags": {"team": "b"}}),
                )
            ),
            http,
            policy("MeshPassthrough", "on-all", {"kind": "Mesh"}, {"passthroughMode": "None"}),
        )
    store = MemoryStore("east", hub.writer.state)
    with TestClient(build_api(store, authenticator=Tokens(), role="zone", zone="east")) as api:
        api.headers.update(ADMIN)
        inbound = [{"port": 80, "tags": {"kuma.io/service": "web"}}]
        sidecar = dataplane("web") | {"networking": {"address": "10.0.0.2", "inbound": inbound}}
        applied(api, dataplane("one"), dataplane("two", team="b"), sidecar)
        answers = {path: api.get(f"/meshes/default/{path}") for path in ASKED}
        assert {path: sorted(one["name"] for one in said.json()["items"]) for path, said in answers.items()} == ASKED
        for path in ASKED:
            gone = path.replace("/on-", "/no-").replace("/of-", "/no-")
            assert api.get(f"/meshes/default/{gone}").status_code == 404
