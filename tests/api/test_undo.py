"""Events, blame and undo over HTTP, on a plane with real decisions and real sealing."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.events.event import GLOBAL, ResourceApplied
from shared.history.plane import PlaneHistory
from shared.model.resource import Secret
from tests.api.memory_store import ADMIN, READER, MemoryStore, RawMemory, Tokens

Api = TestClient[Litestar]
FIRST, SECOND = (base64.b64encode(word).decode() for word in (b"one secret", b"another one"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def api(store: MemoryStore, tmp_path: Path) -> Iterator[Api]:
    past = PlaneHistory({GLOBAL: RawMemory(store.log)}, tmp_path / "history")
    with TestClient(build_api(store, authenticator=Tokens(), role="global", past=past)) as client:
        client.headers.update(ADMIN)
        client.put("/meshes/default", json={})
        yield client


def put(api: Api, name: str = "web", port: int = 80, **labels: str) -> int:
    spec = {"match": {"port": port}, "endpoints": [{"address": "example.com", "port": 443}]}
    answer = api.put(f"/meshes/default/meshexternalservices/{name}", json={"labels": labels, "spec": spec})
    return int(answer.headers["ETag"].strip('"'))


def port(api: Api, name: str = "web") -> int:
    answer: dict[str, Any] = api.get(f"/meshes/default/meshexternalservices/{name}").json()
    return int(answer["spec"]["match"]["port"])


def undo(api: Api, n: int, **more: Any) -> Any:
    return api.post("/history/undo", json={"origin": GLOBAL, "n": n, **more.pop("body", {})}, **more)


def test_an_undo_is_a_conditional_write_that_names_what_it_takes_back(api: Api, store: MemoryStore) -> None:
    """Planned, written by whoever asked, and shown as an effect of the event; a plan that is old is refused."""
    put(api)
    n = put(api, port=81)
    plan = api.get(f"/history/undo/{GLOBAL}/{n}").json()
    assert [(step["action"], step["fields"]) for step in plan["steps"]] == [
        ("change", [{"path": "spec.match.port", "before": 81, "after": 80}])
    ]
    later = put(api, port=81, team="x")
    assert undo(api, n, headers={"If-Match": plan["etag"]}).status_code == 409
    count = len(store.log.events)
    foreseen = api.post("/history/undo?dry-run=diff", json={"origin": GLOBAL, "n": n}).json()
    assert [one["verb"] for one in foreseen["resources"]] == ["changed"]
    assert (foreseen["results"][0]["outcome"], len(store.log.events)) == ("configured", count)
    assert undo(api, n, headers={"If-Match": f'"{later}"'}).json()["results"][0]["outcome"] == "configured"
    assert port(api) == 80
    last = store.log.events[-1]
    assert (last.cause, last.actor) == (store.log.events[n - 1].id, "alice")
    shown = api.get(f"/history/events/{GLOBAL}/{n}").json()
    assert [one["row"]["moment"] for one in shown["effects"]] == [str(last.n)]
    assert [one["moment"] for one in api.get(f"/history/events/{GLOBAL}/{last.n}").json()["causes"]] == [str(n)]


def test_a_conflict_is_told_and_nothing_is_written(api: Api, store: MemoryStore) -> None:
    """409 with the field, before, then and now."""
    put(api)
    n = put(api, port=81)
    put(api, port=82)
    count = len(store.log.events)
    answer = undo(api, n)
    assert answer.status_code == 409
    (one,) = answer.json()["invalid_parameters"]
    assert one["field"].endswith("spec.match.port")
    assert one["reason"] == "was 80, this event made it 81, now it is 82"
    assert len(store.log.events) == count


def test_what_was_applied_together_goes_together(api: Api, store: MemoryStore) -> None:
    """Each undone event is the cause of the one that takes it back."""
    spec = {"match": {"port": 80}, "endpoints": [{"address": "example.com", "port": 443}]}
    services = [{"type": "MeshExternalService", "name": name, "spec": spec} for name in ("a", "b")]
    api.post("/apply", json={"resources": services})
    n = len(store.log.events)
    assert undo(api, n, body={"batch": True}).json()["results"][0]["outcome"] == "deleted"
    causes = [event.cause for event in store.log.events[n:]]
    assert causes == [event.id for event in reversed(store.log.events[n - 2 : n])]
    assert api.get("/meshexternalservices").json()["total"] == 0


def test_a_secret_is_undone_without_being_opened(api: Api, store: MemoryStore) -> None:
    """Its old ciphertext is written again; no answer holds one, nor the plaintext."""
    for value in (FIRST, SECOND):
        api.put("/meshes/default/secrets/key", json={"data": value})
    old, new = (resource for event in store.log.events for resource in _secrets(event.change))
    n = len(store.log.events)
    made = next(event.n for event in store.log.events if _secrets(event.change))
    conflict = api.get(f"/history/undo/{GLOBAL}/{made}")
    assert conflict.json()["conflicting"]
    plan = api.get(f"/history/undo/{GLOBAL}/{n}")
    done = undo(api, n)
    last = store.log.events[-1].change
    assert isinstance(last, ResourceApplied)
    assert last.resource == old
    assert old.sealed
    assert new.sealed
    told = [conflict, plan, done, api.get("/history/events"), api.get(f"/history/events/{GLOBAL}/{n}")]
    told.append(api.get("/history/blame/meshes/default/secrets/key"))
    for answer in told:
        assert answer.status_code == 200
        assert "fingerprint" in answer.text
        for hidden in (FIRST, SECOND, old.sealed.ciphertext, new.sealed.ciphertext):
            assert hidden not in answer.text


def _secrets(change: object) -> list[Secret]:
    return [change.resource] if isinstance(change, ResourceApplied) and isinstance(change.resource, Secret) else []


@pytest.mark.parametrize(
    ("origin", "n", "status", "said"),
    [
        ("east", 1, 405, "taken back there"),
        (GLOBAL, 99, 404, "has no event 99"),
        (GLOBAL, 0, 404, "has no event 0"),
    ],
)
def test_what_cannot_be_undone_here_is_refused(api: Api, origin: str, n: int, status: int, said: str) -> None:
    """With the reason."""
    answer = api.post("/history/undo", json={"origin": origin, "n": n})
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_readers_may_look_and_not_undo(api: Api) -> None:
    """403 for the write alone."""
    n = put(api)
    api.headers.update(READER)
    for path in (
        f"undo/{GLOBAL}/{n}",
        "events",
        f"events/{GLOBAL}/{n}",
        "blame/meshes/default/meshexternalservices/web",
    ):
        assert api.get(f"/history/{path}").status_code == 200
        assert api.get(f"/history/{path}", headers={"Authorization": ""}).status_code == 401
    assert undo(api, n).status_code == 403


def test_events_are_found_and_the_newest_come(api: Api) -> None:
    """By kind, name and author; a line each."""
    put(api, "a")
    put(api, "b")
    put(api, "b", port=81)
    found = api.get("/history/events", params={"kind": "mes", "limit": 2}).json()["items"]
    assert [(one["about"], one["what"]) for one in found] == [
        ("MeshExternalService default/b", "created"),
        ("MeshExternalService default/b", "spec.match.port 80→81"),
    ]
    assert len(api.get("/history/events", params={"name": ["a", "b"], "actor": "alice"}).json()["items"]) == 3
    assert api.get("/history/events", params={"actor": "bob"}).json()["items"] == []
    assert api.get("/history/events", params={"kind": "nonsense"}).status_code == 404


def test_repeated_keys_are_no_question(api):
    """An undo of an event that is named twice is one of none."""
    answer = api.post("/history/undo", content='{"origin": "global", "n": 1,\n"n": 2}')
    (parameter,) = answer.json()["invalid_parameters"]
    assert (answer.status_code, parameter["field"]) == (400, "n")
    assert parameter["reason"].endswith("(line 2, column 1)")
