"""`GET /meshes/{mesh}/meshgateways/{name}/dataplanes`: which Dataplanes serve a MeshGateway."""

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
