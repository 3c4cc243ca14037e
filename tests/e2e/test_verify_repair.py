"""The repair drill: real servers, a hub's store that is damaged or older, and all of it back from a zone's copy."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared import cli
from shared.demo.looking import eventually
from shared.events.event import GLOBAL, decode_event, encode_event, event_hash, payload_hash
from shared.history.fill import new_store
from shared.history.generate import Written
from shared.history.store import open_store
from shared.nats.server import SCRATCH_ACCOUNT
from tests.builders import applied, mes
from tests.e2e.living import WITHIN_SECONDS, Living
from tests.e2e.test_crash import put

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 28_600
FIRST, MORE = 6, 4
ALL = ("hub-nats", "global", "east-nats", "east-zone", "west-nats", "west-zone")


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Two zones without proxies, with some services."""
    directory = tmp_path_factory.mktemp("repair")
    async with Living(directory, BASE_PORT) as living:
        living.prepare()
        await living.start_control_planes()
        await _written(living, 0, FIRST)
        yield living


@pytest.fixture(autouse=True)
def _context(system: Living, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZONAL_CONTEXT", str(system.deployment.context))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture
def zonal(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """A command's exit code and its JSON."""

    async def run(*words: str, code: int = 0) -> Any:
        capsys.readouterr()
        found = await asyncio.to_thread(cli.run, [*words, "-o", "json"])
        captured = capsys.readouterr()
        assert found == code, captured
        return json.loads(captured.out) if captured.out else captured.err

    return run


def _service(number: int) -> dict[str, Any]:
    match = {"type": "HostnameGenerator", "port": 7000 + number, "protocol": "http"}
    spec = {"match": match, "endpoints": [{"address": "203.0.113.1", "port": 443}]}
    return {"type": "MeshExternalService", "mesh": "default", "name": f"s-{number}", "spec": spec}


async def _written(system: Living, first: int, count: int) -> None:
    async with system.client() as client:
        for number in range(first, first + count):
            await put(client, _service(number))
    names = {f"s-{number}" for number in range(first, first + count)}
    for zone in ("east", "west"):
        await system.settled(zone, lambda rows: names <= set(rows), f"{zone} knows them all")
        await system.same_log(zone)


async def _stopped(system: Living, *names: str) -> None:
    for name in reversed(names):
        await system.terminate(name)


async def _started(system: Living, *names: str) -> None:
    for name in names:
        await system.start(name)


def _blocks(store: Path, stream: str) -> list[Path]:
    return sorted(store.glob(f"jetstream/*/streams/{stream}/msgs/*.blk"))


def _first_bad(report: Any, origin: str = GLOBAL) -> Any:
    return {one["origin"]: one["firstBad"] for one in report["items"]}[origin]


async def _lines(store: Path, origin: str, cache: Path) -> list[bytes]:
    log = (await open_store(store, cache=cache)).log(origin)
    return [log.raw(n) for n in log.numbers]


async def test_a_running_system_is_sound(system: Living, zonal: Any) -> None:
    """Every log is signed up to its last event, by the key of its origin, and every copy holds the same."""
    live = await zonal("verify", "--live")
    assert live["sound"]
    for one in live["items"]:
        assert one["signed"] == one["events"] > 0
        assert one["keyKnown"]
    assert len({one["key"] for one in live["items"]}) == 3
    async with system.client() as client:
        answer = await client.get("/history/verify")
        assert answer.status_code == 200, answer.text
        assert answer.json()["sound"]
        assert {one["origin"] for one in answer.json()["items"]} == {"global", "east", "west"}


async def test_logs_of_any_length_are_verified_over_http(system: Living) -> None:
    """In a process of its own, from what the nats-server gives now; one at a time, and to be cancelled."""
    for zone in (None, "east"):
        async with system.client(zone) as client:
            answer = await client.post("/history/tasks", json={"do": "verify"})
            assert answer.status_code == 202, answer.text
            place = answer.headers["location"]
            busy = await client.post("/history/tasks", json={"do": "verify"})
            assert busy.status_code == 409
            assert "is running: wait for it, or cancel it" in busy.json()["detail"]
            task = (await client.get(place, params={"waitMs": 30_000})).json()
            assert (task["standing"], task["fault"]) == ("done", "")
            assert task["result"]["sound"]
            found = {one["origin"]: one for one in task["result"]["items"]}
            assert set(found) == ({"global", "east", "west"} if zone is None else {"global", "east"})
            assert all(one["signed"] == one["events"] > 0 and one["keyKnown"] for one in found.values())
            second = (await client.post("/history/tasks", json={"do": "verify"})).json()
            ended = (await client.delete(f"/history/tasks/{second['id']}")).json()
            assert (ended["standing"], ended["result"]) == ("cancelled", None)
            items = (await client.get("/history/tasks")).json()["items"]
            assert [one["standing"] for one in items] == ["done", "cancelled"]
    async with system.client() as client:
        refused = await client.post("/history/tasks", json={"do": "repair"})
        assert refused.status_code == 409
        assert "ask the control plane of a zone" in refused.json()["detail"]


async def test_whatever_is_done_to_the_stores_files_is_named(system: Living, zonal: Any, tmp_path: Path) -> None:
    """Flipped bits, a cut, a lost block, an older copy, and a log that was forged with hashes that fit."""
    await _stopped(system, *ALL)
    try:
        report = await zonal("verify")
        assert (report["sound"], report["copies"]) == (True, ["zone east", "zone west"])
        hub = system.deployment.hub_store
        count = {one["origin"]: one["events"] for one in report["items"]}
        zones = [flag for zone in ("east", "west") for flag in ("--copy", str(system.deployment.leaf_store(zone)))]

        def damaged(name: str, change: Callable[[bytearray], bytearray]) -> Path:
            store = tmp_path / name
            shutil.copytree(hub, store)
            (block,) = _blocks(store, "EV")
            block.write_bytes(change(bytearray(block.read_bytes())))
            return store

        def flip(at: int) -> Callable[[bytearray], bytearray]:
            def change(data: bytearray) -> bytearray:
                data[at if at >= 0 else len(data) + at] ^= 1
                return data

            return change

        lines = await _lines(hub, GLOBAL, tmp_path / "cache")
        (block,) = _blocks(hub, "EV")
        for n in (1, len(lines) // 2, len(lines)):
            at = block.read_bytes().index(lines[n - 1]) + len(lines[n - 1]) // 2
            store = damaged(f"flip-{n}", flip(at))
            assert _first_bad(await zonal("verify", "--store", str(store), code=1)) == n

        cut = damaged("cut", lambda data: data[: data.index(lines[9]) - 40])
        found = await zonal("verify", "--store", str(cut), *zones, code=1)
        assert _first_bad(found) == 10
        assert any(f"events 10 to {count[GLOBAL]} are missing; " in one["reason"] for one in _of(found)["findings"])

        older = tmp_path / "older"
        await _store_of(older, lines[:9])
        assert (await zonal("verify", "--store", str(older)))["sound"]
        found = await zonal("verify", "--store", str(older), *zones, code=1)
        assert _first_bad(found) == 10

        forged = tmp_path / "forged"
        await _store_of(forged, _forged(lines, 7))
        found = await zonal("verify", "--store", str(forged), code=1)
        assert 6 <= _first_bad(found) <= 7
        assert {one["kind"] for one in _of(found)["findings"]} == {"forged"}
        keyless = tmp_path / "no keys"
        keyless.mkdir()
        assert (await zonal("verify", "--store", str(forged), "--keys", str(keyless)))["sound"], "only a key can tell"

        file = tmp_path / "past.bundle"
        for store, first_bad in ((hub, None), (forged, _first_bad(found))):
            assert await asyncio.to_thread(cli.run, ["bundle", "export", str(file), "--store", str(store)]) == 0
            report = await zonal("verify", "--bundle", str(file), code=0 if first_bad is None else 1)
            assert _first_bad(report) == first_bad
    finally:
        await _started(system, *ALL)


def _of(report: Any, origin: str = GLOBAL) -> Any:
    return next(one for one in report["items"] if one["origin"] == origin)


def _forged(lines: list[bytes], n: int) -> list[bytes]:
    """Event n says something else, and all hashes fit."""
    forged, prev = lines[: n - 1], ""
    for line in lines[n - 1 :]:
        event = decode_event(line)
        change = event.change if forged[n - 1 :] else applied(mes("forged"))
        event = msgspec.structs.replace(
            event, change=change, payload_hash=payload_hash(change), prev=prev or event.prev
        )
        prev = event_hash(event)
        forged.append(encode_event(event))
    return forged


async def _store_of(store: Path, lines: list[bytes]) -> None:
    """A hub's store that holds nothing but these events of global."""
    async with new_store(store) as write:
        await write(Written(GLOBAL, 1, [decode_event(line).subject for line in lines], lines))
    assert SCRATCH_ACCOUNT in {entry.name for entry in (store / "jetstream").iterdir()}


@pytest.mark.parametrize(("harm", "live"), [("damaged", False), ("damaged", True), ("rolled back", False)])
async def test_the_repair_drill(system: Living, zonal: Any, tmp_path: Path, harm: str, live: bool) -> None:
    """The hub's store is of no use; a zone's copy makes a new one, everything starts again, and nothing is lost.

    live: made by the zone's running control plane, which is asked over HTTP.
    """
    store, older = system.deployment.hub_store, tmp_path / "older"
    if harm == "rolled back":
        await _stopped(system, "hub-nats", "global")
        shutil.copytree(store, older)
        await _started(system, "hub-nats", "global")
    first = FIRST + 2 * MORE * (live + 2 * (harm == "rolled back"))
    await _written(system, first, MORE)
    before = {origin: await system.events(origin) for origin in ("global", "east", "west")}
    await _stopped(system, "hub-nats", "global")
    if harm == "damaged":
        (block,) = _blocks(store, "EV")
        data = bytearray(block.read_bytes())
        data[len(data) // 2] ^= 1
        block.write_bytes(data[:-200])
    else:
        shutil.rmtree(store)
        shutil.copytree(older, store)
        await _met_by_the_zones(system)
    kept = {path: path.read_bytes() for path in _blocks(store, "*")}

    bad = await zonal("verify", code=1)
    assert 0 < _first_bad(bad) <= len(before["global"])
    fresh = tmp_path / "new"
    told = await zonal("repair", "--from-zone", "east", "--to", str(fresh), *(["--live"] if live else []))
    assert told["lost"] is None
    assert _of({"items": told["taken"]})["events"] == len(before["global"])
    assert {path: path.read_bytes() for path in _blocks(store, "*")} == kept, "the original is never written to"
    store.rename(store.with_name(f"nats.{harm}.{live}"))
    shutil.move(fresh, store)
    await _started(system, "hub-nats", "global")
    if harm == "rolled back":
        resumed = await zonal("resume")
        assert {one["zone"]: list(one["resumed"]) for one in resumed["items"]} == {
            zone: ["copy of global's log"] for zone in ("east", "west")
        }

    await _written(system, first + MORE, MORE)
    for origin, events in before.items():
        assert (await system.events(origin))[: len(events)] == events
    for zone in ("east", "west"):
        assert await system.events("global", zone=zone) == await system.events("global")
    assert (await zonal("verify", "--live"))["sound"]


async def _met_by_the_zones(system: Living) -> None:
    """The older hub runs for a while and takes a write: zones halt where its log parts from theirs."""
    await _started(system, "hub-nats", "global")
    async with system.client() as client:
        await put(client, _service(99))
    for zone in ("east", "west"):
        await eventually(partial(_halted, system, zone), bool, f"{zone} has halted", WITHIN_SECONDS)
    await _stopped(system, "hub-nats", "global")


async def _halted(system: Living, zone: str) -> bool:
    async with system.client(zone) as client:
        return 'zonal_halted{what="copy"} 1.0' in (await client.get("/metrics")).text


async def test_what_nobody_holds_is_named_in_the_log(system: Living, zonal: Any, tmp_path: Path) -> None:
    """A zone saw more of global than any copy holds: the new store goes on in a new incarnation that says so."""
    await _stopped(system, *ALL)
    lines = await _lines(system.deployment.hub_store, GLOBAL, tmp_path / "cache")
    copy, fresh = tmp_path / "copy", tmp_path / "fresh"
    await _store_of(copy, lines[:9])
    hub = tmp_path / "hub"
    await _store_of(hub, lines[:5])
    words = ["repair", "--from-zone", "east", "--store", str(hub), "--zone-store", str(copy), "--to", str(fresh)]
    assert "zone west holds" in await zonal(*words, code=3)
    alone = tmp_path / "context.yaml"
    alone.write_text("{}")
    (own,) = system.deployment.leaf_store("east").glob("jetstream/*/streams/Z_east")
    shutil.copytree(own, copy / "jetstream" / SCRATCH_ACCOUNT / "streams" / "Z_east")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZONAL_CONTEXT", str(alone))
        keys = ("--keys", str(system.deployment.keys(GLOBAL).path))
        assert "signing key" in await zonal(*words, code=3)
        told = await zonal(*words, *keys)
        assert told["lost"]["from"] == 10
        report = await zonal("verify", "--store", str(fresh), *keys)
    (restored,) = _of(report)["restored"]
    assert (restored["lost_from"], restored["lost_to"]) == (9, told["lost"]["to"])
    assert _of(report)["signed"] == 10
