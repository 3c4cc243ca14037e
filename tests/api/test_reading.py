"""Who may read what: a token that is limited to a mesh or a zone finds nothing else, neither now nor in the past."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.api.store import ProxyRow, ProxyStatus, ServiceStatus, StatusCondition
from shared.events.event import GLOBAL, NO_HASH, ProxyConnected, PushHeld, ResourceQuarantined, VipLeased, encode_event
from shared.events.fold import fold
from shared.events.history import History, NoSuchMoment
from shared.events.index import LogIndex
from shared.events.log import MemoryLog
from shared.events.past import PastLog
from shared.events.reading import EVERYTHING, Reader, is_withheld, line_for, past_for, records_for
from shared.events.search import Wanted
from shared.history.live import open_live
from shared.history.plane import PlaneHistory
from shared.history.tree import tree_at
from shared.keys.tokens import Principal
from shared.model.resource import ResourceKey
from tests.api.memory_store import ADMIN, MemoryStore, RawMemory, Tokens
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, egress, generator, mes, mesh, service_key

RED = {"Authorization": "Bearer red-token"}
EAST = {"Authorization": "Bearer east-token"}
OF_RED, OF_EAST = Reader(frozenset({"red"})), Reader(zones=frozenset({"east"}))
MTLS = {"mtls": {"enabledBackend": "ca-1", "backends": [{"name": "ca-1", "type": "builtin"}]}}
PLAINTEXT = "Y29ycmVjdCBob3JzZQ=="


class LimitedTokens(Tokens):
    """Two more: one for the mesh red, one for the zone east."""

    def authenticate(self, token: str) -> Principal | None:
        limited = {
            "red-token": Principal("user", "rita", (), meshes=("red",)),
            "east-token": Principal("user", "emil", (), zones=("east",)),
        }
        return limited.get(token) or super().authenticate(token)


class TwoZones(MemoryStore):
    """Global, which hears of two zones and two meshes."""

    async def statuses(self) -> list[ServiceStatus]:
        return [
            ServiceStatus(zone, of, "pay", "global", "http", 80, "242.0.0.1", ())
            for zone in ("east", "west")
            for of in ("red", "blue")
        ]

    async def proxy_statuses(self, kind: str, sees: Callable[[str], bool]) -> list[ProxyStatus]:
        seen = [zone for zone in ("east", "west") if sees(zone)]
        told = StatusCondition("OutboundsServed", "False", "CrossZoneUnsupported", f"zones {', '.join(seen)}")
        return [ProxyStatus(zone, of, "web", kind, (told,)) for zone in seen for of in ("red", "blue")]

    async def proxies(self) -> list[ProxyRow]:
        return [
            ProxyRow(zone, f"{of}.web", "Dataplane", of, "web", online=True)
            for zone in ("east", "west")
            for of in ("red", "blue")
        ]


def _zone(name: str, hub: MemoryLog) -> MemoryLog:
    """What a zone records of both meshes."""
    zone, builder = ZoneBuilder(name), LogBuilder()
    builder.events = list(hub.events)
    for event in hub.events:
        builder.state = fold(builder.state, event)
    zone.apply(egress(zone=name))
    zone.follow(builder)
    for of in ("red", "blue"):
        zone.apply(msgspec.structs.replace(dataplane("web"), mesh=of))
        zone.write(ProxyConnected(f"{of}.web", ResourceKey("Dataplane", of, "web", name), "1", (), ""))
    zone.write(ProxyConnected(".egress-1", ResourceKey("ZoneEgress", "", "egress-1", name), "1", (), ""))
    zone.write(PushHeld(proxies=("red.web", "blue.web"), reason="many", kept_g=0, kept_z=0))
    memory = MemoryLog()
    memory.events = zone.own.events
    return memory


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient[Litestar]]:
    """Global with meshes red and blue, each with a service and a secret, and the logs of east and west."""
    store = TwoZones()
    logs = {"east": MemoryLog(), "west": MemoryLog(), GLOBAL: store.log}
    raw = {name: RawMemory(log) for name, log in logs.items()}
    past = PlaneHistory(raw, tmp_path_factory.mktemp("reading"))
    with TestClient(build_api(store, authenticator=LimitedTokens(), role="global", past=past)) as client:
        for of in ("red", "blue"):
            client.put(f"/meshes/{of}", json=MTLS, headers=ADMIN)
            spec = {"match": {"port": 80, "protocol": "http"}, "endpoints": [{"address": f"{of}.example", "port": 80}]}
            client.put(f"/meshes/{of}/meshexternalservices/pay-{of}", json={"spec": spec}, headers=ADMIN)
            client.put(f"/meshes/{of}/secrets/key-{of}", json={"data": PLAINTEXT}, headers=ADMIN)
        client.put("/hostnamegenerators/all", headers=ADMIN, json={
            "spec": {"selector": {"meshExternalService": {}}, "template": "{{ .DisplayName }}.x"}
        })  # fmt: skip
        for name in ("east", "west"):
            logs[name].events = _zone(name, store.log).events
        yield client


def kinds(found: dict[str, dict[str, object]]) -> set[str]:
    return {name for names in found.values() for name in names}


def test_a_reader_of_a_mesh_sees_of_the_past_what_they_see_of_the_present(api: TestClient[Litestar]) -> None:
    """The same resources in get and in replay; in get of another mesh what is said of a mesh that is not there."""
    now = set()
    for path, kind in (("meshes", "Mesh"), ("meshexternalservices", "MeshExternalService"), ("secrets", "Secret")):
        for item in api.get(f"/{path}", headers=RED).json()["items"]:
            now.add("/".join(part for part in (kind, item.get("mesh", ""), item["name"]) if part))
    assert now == {"Mesh/red", "MeshExternalService/red/pay-red", "Secret/red/key-red"}
    params = {"zone": "east", "kind": ["mesh", "mes", "secret"]}
    answer = api.get("/history/replay", params=params, headers=RED)
    assert kinds(answer.json()["found"]) == now
    assert api.get("/meshes/blue/meshexternalservices/pay-blue", headers=RED).status_code == 404
    assert api.get("/meshes/blue/meshexternalservices", headers=RED).status_code == 404
    rows = api.get("/status/meshexternalservices", headers=RED).json()["items"]
    assert {row["mesh"] for row in rows} == {"red"}
    assert {row["proxy"] for row in api.get("/proxies", headers=RED).json()["items"]} == {"red.web"}
    assert {row["mesh"] for row in api.get("/status/dataplanes", headers=RED).json()["items"]} == {"red"}


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/events", {}),
        ("/history/log", {}),
        ("/history/log", {"origin": "east"}),
        ("/history/replay", {"zone": "east"}),
        ("/history/replay", {"zone": "east", "view": "true"}),
        ("/history/replay", {"zone": "east", "proxy": "red.web"}),
        ("/history/replay", {"zone": "east", "proxy": ".egress-1"}),
        ("/history/diff", {"before": "0", "zone": "east"}),
        ("/history/diff", {"before": "east:1", "zone": "east", "scope": "proxies"}),
        ("/history/bisect", {"good": "0", "zone": "east", "predicate": "resource mesh/red missing"}),
        ("/history/events", {"origin": "*"}),
        ("/history/deliveries", {}),
        ("/history/origins", {}),
    ],
)
def test_nothing_of_another_mesh_is_in_any_answer(api: TestClient[Litestar], path: str, params: dict[str, str]) -> None:
    """Not its name, and no secret in any form; an unlimited reader sees it there."""
    answer = api.get(path, params=params, headers=RED)
    assert answer.status_code == 200, answer.text
    assert "blue" not in answer.text
    assert PLAINTEXT not in answer.text
    if "predicate" in params:
        return
    whole = api.get(path, params=params, headers=ADMIN).text
    assert ("blue" in whole) == (
        path not in ("/history/deliveries", "/history/origins") and "red.web" not in params.values()
    )


def test_what_an_event_led_to_is_told_as_far_as_its_reader_may_see(api: TestClient[Litestar]) -> None:
    """A generator gave names in both meshes; an event of the other mesh, its resource and its undo never were."""
    (row,) = api.get("/history/events", params={"kind": "hg"}, headers=RED).json()["items"]
    shown, whole = (api.get(f"/history/events/{GLOBAL}/{row['moment']}", headers=one) for one in (RED, ADMIN))
    assert [len(answer.json()["effects"]) for answer in (shown, whole)] == [2, 4]
    assert "blue" not in shown.text
    (theirs,) = api.get("/history/events", params={"name": "pay-blue", "kind": "mes"}, headers=ADMIN).json()["items"]
    for path in (f"events/{GLOBAL}/{theirs['moment']}", f"undo/{GLOBAL}/{theirs['moment']}"):
        assert api.get(f"/history/{path}", headers=ADMIN).status_code == 200
        assert api.get(f"/history/{path}", headers=RED).status_code == 404
    for of, status in (("red", 200), ("blue", 404)):
        path = f"/history/blame/meshes/{of}/meshexternalservices/pay-{of}"
        answer = api.get(path, headers=RED)
        assert answer.status_code == status
        assert len(api.get(path, headers=ADMIN).json()["facts"]) > 2


def test_a_bisection_finds_what_its_reader_may_see(api: TestClient[Litestar]) -> None:
    """The other mesh is found by an unlimited reader; for this one it never came."""
    params = {"good": "0", "zone": "east", "predicate": "resource mesh/blue missing"}
    found = api.get("/history/bisect", params=params, headers=ADMIN).json()
    (event,) = found["events"]
    assert (event["actor"], event["change"], found["count"]) == ("alice", "ResourceApplied", 1)
    refused = api.get("/history/bisect", params=params, headers=RED)
    assert refused.status_code == 409
    assert "the bad moment is not bad" in refused.json()["detail"]
    assert api.get("/history/bisect", params={"predicate": "x"}, headers=RED).status_code == 400


def test_a_proxy_of_another_mesh_was_never_there(api: TestClient[Litestar]) -> None:
    """As in inspect."""
    answer = api.get("/history/replay", params={"zone": "east", "proxy": "blue.web"}, headers=RED)
    assert answer.status_code == 404
    assert "blue" not in answer.json()["detail"].replace("'blue.web'", "")


def test_a_reader_of_a_zone_sees_no_other(api: TestClient[Litestar]) -> None:
    """Neither its log, its moments nor its proxies; a plane of that zone does not let them in."""
    assert api.get("/history/replay", params={"zone": "east"}, headers=EAST).status_code == 200
    refused = api.get("/history/replay", params={"zone": "west"}, headers=EAST)
    assert refused.status_code == 404
    assert api.get("/history/log", params={"origin": "west"}, headers=EAST).status_code == 404
    assert api.get("/events", params={"origin": "west"}, headers=EAST).status_code == 404
    assert {one["origin"] for one in api.get("/history/origins", headers=EAST).json()["items"]} == {GLOBAL, "east"}
    assert {row["zone"] for row in api.get("/proxies", headers=EAST).json()["items"]} == {"east"}
    assert {row["zone"] for row in api.get("/status/meshexternalservices", headers=EAST).json()["items"]} == {"east"}
    rows = api.get("/status/dataplanes", headers=EAST)
    assert {row["zone"] for row in rows.json()["items"]} == {"east"}
    assert "west" not in rows.text, "nor in what is said of its own"
    with TestClient(build_api(MemoryStore("west"), authenticator=LimitedTokens(), role="zone", zone="west")) as west:
        assert west.get("/meshes", headers=EAST).status_code == 403
        assert west.get("/meshes", headers=RED).status_code == 200
        assert west.get("/metrics", headers=RED).status_code == 403
        assert west.put("/meshes/red", json={}, headers=RED).status_code == 403


def test_the_commands_of_a_limited_reader_work_on_what_they_may_see(api: TestClient[Litestar], tmp_path: Path) -> None:
    """`--live` copies what the API gives, and again only what is new."""

    class Client:
        api = "http://there"

        def __init__(self) -> None:
            self.asked: list[object] = []

        def get(self, path: str, **query: str) -> object:
            return api.get(path, params=query, headers=RED).json()

        def pieces(self, path: str, **params: object) -> Iterator[bytes]:
            self.asked.append(params["after"])
            yield api.get(path, params=params, headers=RED).content  # type: ignore[arg-type]

    client = Client()
    history = open_live(client, cache=tmp_path)
    tree = tree_at(history, "east", history.position("east"))
    assert set(tree["Mesh"]) == {"Mesh/red"}
    assert tree["Dataplane"]
    assert "blue" not in json.dumps(tree)
    assert client.asked == [0, 0, 0]
    again = open_live(client, cache=tmp_path)
    assert client.asked[3:] == [len(log) for log in (again.hub, *again.zones.values())]


# --- the rule -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log() -> PastLog:
    """Events of two meshes, of none, and some that name a mesh in their content only."""
    builder = LogBuilder("east")
    builder.append(applied(generator()), applied(mesh("red")), applied(mesh("blue")))
    for of in ("red", "blue"):
        builder.append(applied(mes(f"pay-{of}", mesh=of)), actor=f"admin-of-{of}")
        builder.append(VipLeased(key=service_key(f"pay-{of}", of), protocol_class="http", ip=f"242.0.0.{len(of)}"))
        quarantined = {"type_url": "c", "version": "1", "kept_g": 0, "kept_z": 0, "proxy": ".egress", "reason": "no"}
        builder.append(ResourceQuarantined(name=f"mes/http/{of}/x", **quarantined))  # type: ignore[arg-type]
    builder.append(PushHeld(proxies=("red.web", "blue.web"), reason="many", kept_g=0, kept_z=0))
    return PastLog.of("east", builder.events)


def test_what_is_withheld_keeps_its_place_and_says_nothing(log: PastLog) -> None:
    """Number, time and hashes stay; what is folded is the state without the other mesh."""
    lines = [log.raw(n) for n in log.numbers]
    narrowed = [line_for(OF_RED, line) for line in lines]
    assert [is_withheld(line) for line in narrowed] == [n in (3, 7, 8, 9) for n in log.numbers]
    assert all(b"blue" not in line for line in narrowed)
    assert [line_for(EVERYTHING, line) for line in lines] == lines
    past = past_for(OF_RED, log)
    assert [past.raw(n) for n in past.numbers] == narrowed
    assert past.envelope(3).prev == log.envelope(3).prev != NO_HASH
    assert not any("blue" in text for text in (*past.index.subjects.texts, *past.index.actors.texts))
    state = past.state(len(past))
    assert {key.mesh or key.name for key in state.resources} == {"red", "all"}
    assert {lease.key.mesh for lease in state.vips.values()} == {"red"}
    assert set(state.holds) == {"red.web"}
    assert {key[1] for key in state.quarantined} == {"mes/http/red/x"}
    assert not state.skipped
    assert list(past.find(Wanted())) == [n for n in log.numbers if n not in (3, 7, 8, 9)]


def test_an_index_of_narrowed_lines_is_the_narrowed_index(log: PastLog) -> None:
    """A copy that a limited reader made by the API answers as the plane does."""
    past = past_for(OF_RED, log)
    index = LogIndex("east")
    lines = [past.raw(n) for n in past.numbers]
    index.extend(lines)
    copy = PastLog(index, b"".join(line + b"\n" for line in lines))
    for n in (0, 3, 6, len(past)):
        assert copy.state(n) == past.state(n)
    assert list(copy.find(Wanted())) == list(past.find(Wanted()))


def test_an_event_that_is_withheld_cannot_be_asked_for(log: PastLog) -> None:
    """Whoever asks by its number is told that it is not for them; its moment can be named."""
    history = History(PastLog.of(GLOBAL, ()), {"east": past_for(OF_RED, log)})
    with pytest.raises(NoSuchMoment, match="not for this reader"):
        history.event("east", 3)
    assert history.position("east", "east:3").z == 3
    assert encode_event(history.event("east", 2)) == log.raw(2)


@pytest.mark.parametrize(
    ("key", "red", "east"),
    [
        (ResourceKey("Mesh", "", "red"), True, True),
        (ResourceKey("Mesh", "", "blue"), False, True),
        (ResourceKey("Zone", "", "west"), True, False),
        (ResourceKey("Dataplane", "red", "web", "west"), True, False),
        (ResourceKey("Dataplane", "blue", "web", "east"), False, True),
        (ResourceKey("ZoneEgress", "", "egress-1", "east"), True, True),
        (ResourceKey("HostnameGenerator", "", "all"), True, True),
    ],
)
def test_what_belongs_to_no_mesh_is_for_every_reader(key: ResourceKey, red: bool, east: bool) -> None:
    """Meshes and zones are for those who may read them."""
    assert (OF_RED.sees(key), OF_EAST.sees(key)) == (red, east)


def test_records_name_the_proxies_that_a_reader_may_inspect() -> None:
    """Of a mesh's reader the sidecars of that mesh; nothing of an egress, which has something of every mesh."""
    took = [{"digests": {"Cluster": digest}, "proxies": names} for digest, names in (
        ("1", ["blue.web", "red.web"]), ("2", [".egress", "blue.api"]),
    )]  # fmt: skip
    record = json.dumps({"at": "then", "took": took}).encode()
    assert records_for(Reader(), [record]) == [record]
    (seen,) = records_for(Reader(meshes=frozenset({"red"})), [record, b'{"at":"then"}'])
    assert json.loads(seen) == {"at": "then", "took": [{"digests": {"Cluster": "1"}, "proxies": ["red.web"]}]}
