"""Events that cannot be read, planted in the logs of a running system: readers stop before them, traffic goes on, no
process ends or loops over them, and tombstones let all go on by themselves.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from global_cp.app import nats_settings
from shared.demo.looking import eventually
from shared.events.compose import compose
from shared.events.event import Change, Event, encode_event
from shared.events.fold import fold_all
from shared.events.state import LogState
from shared.nats import topology
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.log import JetStreamLog
from shared.nats.pull import RawEvent
from shared.process.settings import GlobalSettings, ZoneSettings, load
from tests.builders import applied, mes, mesh
from tests.e2e.living import WITHIN_SECONDS, Living, traffic
from tests.e2e.test_crash import put, service

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 26400


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Two zones with everything ready."""
    directory = tmp_path_factory.mktemp("stopped")
    async with Living(directory, BASE_PORT) as living:
        await living.begin()
        yield living


# --- planting -------------------------------------------------------------------------------------------------------


def _unknown(event: Event) -> bytes:
    """A kind of change that only a later program knows."""
    return _with_change(event, lambda change: change.replace(b'"ResourceApplied"', b'"OfALaterProgram"'))


def _nonsense(event: Event) -> bytes:
    """A known kind of change, with nothing in it that can be decoded."""
    return _with_change(event, lambda _: b'{"type":"ResourceApplied","resource":17}')


def _with_change(event: Event, changed: Callable[[bytes], bytes]) -> bytes:
    known = encode_event(event)
    change = bytes(msgspec.json.decode(known, type=dict[str, msgspec.Raw])["change"])
    other = changed(change)
    assert other != change
    return known.replace(change, other).replace(event.payload_hash.encode(), sha256(other).hexdigest().encode())


def _global(system: Living) -> NatsSettings:
    file = system.deployment.global_settings
    settings = load(GlobalSettings, text=file.read_text(), file=str(file), environment={})
    return nats_settings(settings.nats_url, settings.nats_credentials, settings.nats_ca, "a-later-program")


def _zone(system: Living, zone: str) -> NatsSettings:
    file = system.deployment.zone_settings(zone)
    settings = load(ZoneSettings, text=file.read_text(), file=str(file), environment={})
    return nats_settings(settings.nats_url, settings.nats_credentials, settings.nats_ca, "a-later-program")


async def _plant(
    settings: NatsSettings, log: Callable[[Connection], JetStreamLog], origin: str, change: Change, *bad: Any
) -> list[int]:
    """Append events that cannot be read, each a change made bad; their sequences."""
    async with await connect(settings) as connection:
        target = log(connection)
        found = []
        for number, spoilt in enumerate(bad):
            state = fold_all(LogState(origin=origin), [event async for event in target.read()])
            ids = [f"poison-{state.n}-{number}"]
            (event,) = compose(state, [change], ids=ids, time=state.time, actor="a later program", seen=state.seen)
            await target.append_raw([RawEvent(event.n, event.subject, spoilt(event))])
            found.append(event.n)
        return found


# --- looking --------------------------------------------------------------------------------------------------------


async def _stops(system: Living, zone: str | None) -> list[str]:
    """What a plane stops before."""
    return [one["what"] for one in (await system.api("GET", "/halted", zone=zone))["items"]]


async def _stands(system: Living, zone: str | None, *events: str) -> None:
    """Wait until a plane stops before exactly these."""
    wanted = [f"before event {event}" for event in events]
    await eventually(
        lambda: _stops(system, zone), lambda seen: seen == wanted, f"{zone or 'global'}: {wanted}", WITHIN_SECONDS
    )


async def _told(system: Living, zone: str) -> list[str]:
    """What stands still in a zone, as it told global."""
    zones = (await system.api("GET", "/halted"))["zones"]
    return [one["what"] for one in zones.get(zone, ())]


async def _global_knows(system: Living, zone: str, *events: str) -> None:
    """Wait until global says the same of a zone as the zone, and marks it in the list of zones."""
    wanted = [f"before event {event}" for event in events]
    await eventually(lambda: _told(system, zone), lambda seen: seen == wanted, f"{zone}: {wanted}", WITHIN_SECONDS)
    code, listed, _ = await system.cli("get", "zones")
    rows = {row.split()[0]: row for row in listed.splitlines()}
    assert code == 0
    assert all(one in rows[zone] for one in wanted)
    assert ("before" in rows[zone]) == bool(wanted)


async def _skip(system: Living, where: str | None, origin: str, n: int) -> None:
    async with system.client(where) as client:
        answer = await client.post("/skip", json={"origin": origin, "n": n, "reason": "planted by a test"})
        assert answer.status_code == 200, answer.text


async def _metric(system: Living, zone: str, text: str) -> bool:
    async with system.client(zone) as client:
        return text in (await client.get("/metrics")).text


# --- what must hold -------------------------------------------------------------------------------------------------


async def test_poison_of_global_stops_every_reader_and_no_traffic(system: Living) -> None:
    """An unknown kind and nonsense in EV: zones serve what they had, after kill -9 as well. One goes
    on by a tombstone of its own, all by those in global's log, and all end the same.
    """
    before = await system.addresses("west")
    unknown, nonsense = await _plant(
        _global(system), topology.global_log, "global", applied(mesh("poison")), _unknown, _nonsense
    )
    for plane in (None, "east", "west"):
        await _stands(system, plane, str(unknown))
    await _global_knows(system, "east", str(unknown))
    async with traffic(system, "west", "web.west.mesh", 8080) as seen:
        async with system.client() as client:
            refused = await client.put("/meshes/behind", json={"type": "Mesh", "name": "behind"})
            assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
            assert f"zonal skip {unknown}" in refused.json()["detail"]
            assert (await client.get("/meshes/default")).status_code == 200
        await system.kill("west-zone")
        await system.start("west-zone")
        await _stands(system, "west", str(unknown))
        kept = partial(system.addresses, "west")
        await eventually(kept, lambda now: now == before, "the addresses of before", WITHIN_SECONDS)
        assert await _metric(system, "west", 'zonal_halted{what="event"} 1.0')
        await system.kill("global")
        await system.start("global")
        await _stands(system, None, str(unknown))

        await _skip(system, "west", "global", unknown)
        await _stands(system, "west", str(nonsense))
        await _global_knows(system, "west", str(nonsense))
        await _stands(system, "east", str(unknown))
        await _skip(system, None, "global", unknown)
        for plane in (None, "east", "west"):
            await _stands(system, plane, str(nonsense))
        await _skip(system, None, "global", nonsense)
        for plane in (None, "east", "west"):
            await _stands(system, plane)
        for zone in ("east", "west"):
            await _global_knows(system, zone)
        async with system.client() as client:
            assert await put(client, service("behind", system.services.http, listens=8105)) == "created"
        for zone in ("east", "west"):
            await system.settled(zone, lambda rows: "behind" in rows, f"{zone} goes on behind the poison")
    assert (seen.failures, seen.answers > 20) == ([], True)
    assert _logged(system, "west-zone", "stopped before an event") <= 6


async def test_poison_of_a_zone_stops_its_readers_alone(system: Living) -> None:
    """In a zone's own log: the zone writes nothing behind it and its proxies keep what they have, also after kill -9;
    global stands still with that zone's log only; one tombstone there lets both go on.
    """
    (bad,) = await _plant(
        _zone(system, "west"),
        lambda connection: topology.own_log(connection, "west"),
        "west",
        applied(mes("poison"), "west"),
        _unknown,
    )
    await _stands(system, None, f"west:{bad}")
    async with traffic(system, "west", "web.west.mesh", 8080) as seen:
        for _ in range(2):
            await system.kill("west-zone")
            await system.start("west-zone")
            await _stands(system, "west", f"west:{bad}")
        async with system.client("west") as client:
            refused = await client.put(
                "/meshes/default/meshexternalservices/island",
                json=service("island", system.services.http, listens=8106),
            )
            assert (refused.status_code, f"zonal skip west:{bad}" in refused.json()["detail"]) == (503, True)
        async with system.client() as client:
            assert await put(client, service("elsewhere", system.services.http, listens=8107)) == "created"
        await system.settled("east", lambda rows: "elsewhere" in rows, "east goes on")
        written = await system.events("west", zone="west")
        assert written[-1]["n"] == bad
        await _skip(system, "west", "west", bad)
        for plane in (None, "west"):
            await _stands(system, plane)
        await system.settled("west", lambda rows: "elsewhere" in rows, "west has what came meanwhile")
    assert (seen.failures, seen.answers > 20) == ([], True)
    await system.same_log("west")


async def test_what_is_no_event_ends_no_control_plane(system: Living) -> None:
    """Bytes in EV that are no event: zones keep what they have, and global starts, shows and says it."""
    async with await connect(_global(system)) as connection:
        log = topology.global_log(connection)
        (last,) = [event async for event in log.read(await log.last() - 1)]
        await connection.request(last.subject, os.urandom(40))
    for _ in range(2):
        await system.kill("global")
        await system.start("global")
    look = partial(_stops, system, None)
    await eventually(look, lambda seen: seen == ["global"], "global stands still", WITHIN_SECONDS)
    assert "behind" in {row["name"] for row in (await system.api("GET", "/meshexternalservices"))["items"]}
    async with system.client() as client:
        refused = await client.put("/meshes/late", json={"type": "Mesh", "name": "late"})
        assert (refused.status_code, "verify" in refused.json()["detail"]) == (503, True)
    assert (await system.call("west", "web.west.mesh", 8080)).status == 200
    for name in ("west-zone", "east-zone", "global"):
        assert system.alive(name)
        assert "Traceback" not in system.log_of(name), name


def _logged(system: Living, name: str, text: str) -> int:
    return Path(system.directory / "logs" / f"{name}.log").read_text(errors="replace").count(text)
