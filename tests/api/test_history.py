"""The past over HTTP: what may be read of the present may be read of the past, and no secret in any form."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.events.event import GLOBAL, encode_event
from shared.events.fold import fold
from shared.events.history import History
from shared.events.log import MemoryLog
from shared.events.redaction import redacted_line
from shared.history import plane
from shared.history.live import open_live
from shared.history.plane import PlaneHistory, TooManyQuestions
from tests.api.memory_store import ADMIN, PROXY, READER, MemoryStore, RawMemory, Tokens
from tests.builders import LogBuilder, ZoneBuilder, applied, mes, mesh, settings

PLAINTEXT = base64.b64encode(b"correct horse battery staple").decode()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def _east() -> MemoryLog:
    log, memory = LogBuilder("east"), MemoryLog()
    log.append(settings(), applied(mes("local"), "east"))
    memory.events = log.events
    return memory


@pytest.fixture
def api(store: MemoryStore, tmp_path: Path) -> Iterator[TestClient[Litestar]]:
    """Global's API over its own log and that of the zone east; a mesh, a secret that is rotated."""
    past = PlaneHistory({"east": RawMemory(_east()), GLOBAL: RawMemory(store.log)}, tmp_path / "history")
    with TestClient(build_api(store, authenticator=Tokens(), role="global", past=past)) as client:
        client.headers.update(ADMIN)
        client.put("/meshes/default", json={"type": "Mesh", "name": "default"})
        for value in (PLAINTEXT, base64.b64encode(b"another").decode()):
            client.put("/meshes/default/secrets/key", json={"data": value})
        client.headers.update(READER)
        yield client


def test_the_past_is_shown_as_it_was(api: TestClient[Litestar], store: MemoryStore) -> None:
    """Resources of a moment by kind; what is written later is there later and not before."""
    last = len(store.log.events)
    api.put("/meshes/later", json={}, headers=ADMIN)
    before = api.get("/history/replay", params={"at": str(last)}).json()
    after = api.get("/history/replay", params={"kind": "mesh"}).json()
    assert (before["zone"], before["position"]) == ("east", f"g{last}.z2")
    assert set(before["found"]) == {"Mesh", "Secret", "MeshExternalService"}
    assert set(before["found"]["Mesh"]) == {"Mesh/default"}
    assert set(after["found"]) == {"Mesh"}
    assert set(after["found"]["Mesh"]) == {"Mesh/default", "Mesh/later"}
    view = api.get("/history/replay", params={"view": "true", "kind": "Mesh"}).json()
    assert set(view["found"]["Mesh"]) == {"default", "later"}


def test_two_moments_are_compared(api: TestClient[Litestar], store: MemoryStore) -> None:
    """Resources by default; every proxy's on demand; a scope that is none is refused."""
    last = len(store.log.events)
    api.put("/meshes/later", json={}, headers=ADMIN)
    (found,) = api.get("/history/diff", params={"before": str(last)}).json()["items"]
    (group,) = found["groups"]
    assert [(one["kind"], one["verb"], one["names"]) for one in group["changes"]] == [("Mesh", "added", ["Mesh/later"])]
    (proxies,) = api.get("/history/diff", params={"before": str(last), "scope": "proxies"}).json()["items"]
    assert (proxies["zone"], proxies["groups"], proxies["touched"]) == ("east", [], 0)
    for params in ({"scope": "everything"}, {"scope": "proxy"}, {"scope": "views", "proxy": "p"}):
        assert api.get("/history/diff", params=params).status_code == 400
    assert api.get("/history/diff", params={"before": "99"}).status_code == 404


def test_a_rotated_secret_shows_as_another_and_is_never_there(api: TestClient[Litestar], store: MemoryStore) -> None:
    """Two fingerprints for two values; neither plaintext, ciphertext nor wrapped key in any answer."""
    n = max(event.n for event in store.log.events if "Secret" in event.subject)
    shown = [
        api.get("/history/replay", params={"at": str(at), "kind": "secret"}).json()["found"]["Secret"]
        for at in (n - 1, n)
    ]
    prints = [one["Secret/default/key"]["sealed"]["fingerprint"] for one in shown]
    assert len(set(prints)) == 2
    hidden = {PLAINTEXT}
    for event in store.log.events:
        hidden |= set(_hidden(json.loads(encode_event(event))))
    assert len(hidden) > 3
    for path in ("/history/replay", "/history/log", "/history/origins", "/history/diff"):
        told = api.get(path).text
        assert not [value for value in hidden if value in told]


def _hidden(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("ciphertext", "nonce", "wrapped"):
                yield str(item)
            yield from _hidden(item)
    elif isinstance(value, list):
        for item in value:
            yield from _hidden(item)


def test_whoever_may_not_read_the_present_may_not_read_the_past(api: TestClient[Litestar]) -> None:
    """401 without a token, 403 for a proxy's; a reader may."""
    for path in ("/history/origins", "/history/log", "/history/replay", "/history/diff"):
        assert api.get(path, headers={"Authorization": ""}).status_code == 401
        assert api.get(path, headers=PROXY).status_code == 403
        assert api.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/history/replay?at=99", "it has 1 to"),
        ("/history/replay?at=" + "9" * 5000, "is no moment"),
        ("/history/replay?zone=north", "zones: east"),
        ("/history/replay?proxy=nobody", "knew no proxy"),
        ("/history/log?origin=north", "no log of origin"),
    ],
)
def test_what_never_was_is_not_found(api: TestClient[Litestar], path: str, said: str) -> None:
    """404 with what there is."""
    answer = api.get(path)
    assert answer.status_code == 404
    assert said in answer.json()["detail"]


class Client:
    """What the commands' client gives, in-process; remembers what was asked."""

    api = "http://here"

    def __init__(self, client: TestClient[Litestar]) -> None:
        self._client = client
        self.asked: list[tuple[str, int, int]] = []

    def get(self, path: str, **query: str) -> object:
        return self._client.get(path, params=query).json()

    def pieces(self, path: str, *, origin: str, after: int, until: int) -> Iterator[bytes]:
        self.asked.append((origin, after, until))
        yield from self._client.get(path, params={"origin": origin, "after": after, "until": until}).iter_bytes(50)


def test_a_running_system_is_read_once(api: TestClient[Litestar], store: MemoryStore, tmp_path: Path) -> None:
    """All logs without secrets, chains unbroken; the next time what is new, and all of it when the log is another."""
    client = Client(api)

    def opened() -> History:
        client.asked.clear()
        return open_live(client, cache=tmp_path / "kept")

    def expect(history: History) -> None:
        lines = [redacted_line(encode_event(event)) for event in store.log.events]
        assert [history.hub.raw(n) for n in history.hub.numbers] == lines

    expect(opened())
    n = len(store.log.events)
    assert (GLOBAL, 0, n) in client.asked
    expect(opened())
    assert (GLOBAL, 0, n) not in client.asked
    api.put("/meshes/later", json={}, headers=ADMIN)
    expect(opened())
    assert [asked for asked in client.asked if asked[0] == GLOBAL] == [(GLOBAL, n - 1, n), (GLOBAL, n, n + 1)]
    other = LogBuilder()
    other.append(applied(mesh()), *(applied(mes(f"s{number}")) for number in range(n + 3)))
    store.log.events[:] = other.events
    expect(opened())
    assert (GLOBAL, 0, n + 4) in client.asked


@pytest.mark.anyio
async def test_questions_wait_for_each_other_and_not_for_ever(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time; whoever is one too many is told at once, and the next one later is answered."""
    monkeypatch.setattr(plane, "WAITING_LIMIT", 2)
    past = PlaneHistory({GLOBAL: RawMemory(store.log)}, tmp_path)
    asked = [asyncio.ensure_future(past.ask(lambda history: len(history.hub))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyQuestions):
        await past.ask(lambda _: None)
    asked[0].cancel()
    assert await asked[1] == 0
    assert await past.ask(lambda history: list(history.zones)) == []


def _with_zone(store: MemoryStore) -> None:
    """Global knows one zone, which has run and has seen all of global's log."""
    zone = ZoneBuilder("east")
    for event in store.log.events:
        zone.hub = fold(zone.hub, event)
    store.zones["east"] = zone.own.state


MES = {
    "type": "MeshExternalService",
    "mesh": "default",
    "name": "shop",
    "spec": {"match": {"port": 443, "protocol": "tcp"}, "endpoints": [{"address": "203.0.113.1", "port": 443}]},
}


def test_a_dry_run_tells_and_writes_nothing(api: TestClient[Litestar], store: MemoryStore) -> None:
    """For a batch, for one resource and for a delete; the log stays as it is, and a secret is in no answer."""
    _with_zone(store)
    known = list(store.log.events)
    secret = {"type": "Secret", "mesh": "default", "name": "key", "data": base64.b64encode(b"third").decode()}
    api.headers.update(ADMIN)
    found = api.post("/apply?dry-run=diff", json={"resources": [MES, secret]})
    assert found.status_code == 200, found.text
    told = found.json()
    assert [one["outcome"] for one in told["results"]] == ["created", "configured"]
    assert [one["verb"] for one in told["resources"]] == ["added", "changed"]
    (zone,) = told["zones"]
    assert [one["type"] for one in zone["decisions"]] == ["VipLeased"]
    assert (told["touched"], told["proxies"]) == (0, 0)
    one = api.put("/meshes/default/meshexternalservices/shop?dry-run=diff", json=MES).json()
    assert one["resources"][0]["names"] == ["MeshExternalService/default/shop"]
    gone = api.delete("/meshes/default/secrets/key?dry-run=diff").json()
    assert [(change["kind"], change["verb"]) for change in gone["resources"]] == [("Secret", "removed")]
    for answer in (told, one, gone):
        assert not [word for word in (secret["data"], "ciphertext", "wrapped") if word in json.dumps(answer)]
    assert store.log.events == known


def test_a_dry_run_is_refused_like_the_write(api: TestClient[Litestar], store: MemoryStore) -> None:
    """The same problems, the same rights; and another kind of dry run is none."""
    api.headers.update(ADMIN)
    known = list(store.log.events)
    broken = {"resources": [MES | {"mesh": "nowhere"}]}
    problems = [api.post(path, json=broken).json() for path in ("/apply", "/apply?dry-run=diff")]
    assert problems[0] == problems[1]
    missing = [api.delete(f"/meshes/default/secrets/none{query}").json() for query in ("", "?dry-run=diff")]
    assert missing[0] == missing[1]
    assert api.post("/apply?dry-run=server", json={"resources": [MES]}).status_code == 400
    assert api.post("/apply?dry-run=diff", json={"resources": [MES]}, headers=READER).status_code == 403
    assert store.log.events == known
