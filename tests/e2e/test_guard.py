"""Pushes that are held, and a zone that was restored from an older copy: what real Envoys keep meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from shared import cli
from shared.bench import services
from shared.bench.http import Refused
from shared.bench.place import EGRESS, ZONE, Place
from shared.demo.looking import eventually
from shared.events.event import GLOBAL, Event, decode_event
from shared.events.history import History
from shared.events.state import Position
from shared.history.between import between
from shared.model import codec
from shared.nats.server import find_binary
from zone_cp.replay import snapshot_at
from zone_cp.xds.snapshot import CLUSTER

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

WITHIN_SECONDS = 40.0
SERVICES = 30
ACCESS = 7
"""Clusters of a zone egress by which TCP connections are let through or closed."""
MORE = 12


@pytest.fixture(scope="module")
async def place() -> AsyncIterator[Place]:
    """A zone whose egress holds SERVICES clusters."""
    async with Place() as it:
        async with it.api() as api:
            await api.apply(services.batch([services.MESH, services.HOSTNAMES]))
            g = await api.apply(services.batch([services.service(number) for number in range(SERVICES)]))
        await it.start_egress()
        await it.holds(EGRESS, g)
        yield it


async def clusters(place: Place) -> int:
    """Services that the egress's Envoy has a cluster for."""

    def read() -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{place.ports.egress_admin}/clusters?format=json") as answer:
            found = msgspec.json.decode(answer.read())
        return sum(one["name"].startswith("mes/") for one in found.get("cluster_statuses", ()))

    return await asyncio.to_thread(read)


async def row(place: Place) -> dict[str, Any]:
    """The egress as the zone shows it."""
    async with place.api(zone=True) as api:
        found = (await api.get("/proxies"))["items"]
    return next((one for one in found if one["proxy"] == EGRESS), {"waits": "", "online": False})


async def until(look: Callable[[], Any], wanted: Callable[[Any], bool], expected: str) -> Any:
    return await eventually(look, wanted, expected, WITHIN_SECONDS)


async def command(place: Place, *words: str) -> int:
    """`zonal …` against the zone's API."""
    api = f"http://127.0.0.1:{place.ports.api}"
    flags = ("--api", api, "--token-file", str(place.deployment.admin_token))
    return await asyncio.to_thread(cli.run, [*words, *flags])


async def history(place: Place) -> History:
    """Both logs, as the zone holds them."""

    async def events(origin: str) -> list[Event]:
        port, token = place.ports.api, place.deployment.admin_token.read_text().strip()
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/history/log?origin={origin}")
        return [decode_event(line) for line in answer.raise_for_status().content.splitlines()]

    return History.of(await events(GLOBAL), {ZONE: await events(ZONE)})


async def test_what_would_be_is_told_by_the_running_system(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By global before anything is written: the same as then is, once it is written."""
    manifest = tmp_path / "one.json"
    manifest.write_bytes(codec.encode(services.service(1, address="127.0.0.1", port=9)))
    api = f"http://127.0.0.1:{place.deployment.ports.api}"
    flags = ("--api", api, "--token-file", str(place.deployment.admin_token))
    before = await history(place)

    async def told(*words: str) -> dict[str, Any]:
        assert await asyncio.to_thread(cli.run, [*words, "-f", str(manifest), *flags, "-o", "json"]) == 0
        return dict(msgspec.json.decode(capsys.readouterr().out))

    found = await told("whatif")
    assert (found["touched"], found["proxies"]) == (1, 1)
    assert found == await told("apply", "--dry-run", "diff")
    after = await history(place)
    assert [len(after.hub), len(after.zones[ZONE])] == [len(before.hub), len(before.zones[ZONE])]
    g = (await told("apply"))["sequence"]
    await place.holds(EGRESS, g)
    (now,) = found["zones"]
    done = between(await history(place), ZONE, str(g - 1), str(g), scope="proxies").plain()
    assert done["groups"] == now["groups"]


async def test_a_push_that_takes_most_away_waits(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """One write takes all services from the egress: it keeps them, over a restart, until released; replay agrees."""
    async with place.api() as api:
        await api.put("/meshes/default", services.body(msgspec.structs.replace(services.MESH, mtls=None)))
    held = f"held: would remove {SERVICES + ACCESS} of {SERVICES + ACCESS} clusters"
    await until(lambda: row(place), lambda found: found["waits"] == held, "the push is held")
    assert await clusters(place) == SERVICES
    assert await command(place, "get", "proxies") == 0
    assert held in capsys.readouterr().out

    await place.stop("zone")
    await place.start_zone()
    await until(lambda: row(place), lambda found: found["online"] and bool(found["acked"]) is False, "it is back")
    await until(lambda: row(place), lambda found: found["waits"] == held, "and the push is held as before")
    assert await clusters(place) == SERVICES
    logs = await history(place)
    now = Position(len(logs.hub), len(logs.zones[ZONE]))
    served = snapshot_at(logs, ZONE, now, EGRESS).resources[CLUSTER]
    assert sum(name.startswith("mes/") for name in served) == SERVICES

    assert await command(place, "release", EGRESS) == 0
    assert f"released {EGRESS}" in capsys.readouterr().out
    await until(lambda: clusters(place), lambda count: count == 0, "the egress got the push")
    await until(lambda: row(place), lambda found: found["waits"] == "", "nothing waits")
    assert await command(place, "release", EGRESS) != 0
    assert "nothing is kept" in capsys.readouterr().err


async def test_a_restored_zone_gives_nothing_older(place: Place, tmp_path: Path) -> None:
    """The zone's log and its copy of global's come from an older copy, and the hub is away: the egress keeps what it
    has, whoever restarts. With the hub back the zone has all again. An operator can go on without it.
    """
    await _older_copy(place, tmp_path)
    await _restored(place, tmp_path)
    found = await until(lambda: row(place), lambda found: "fenced" in found["waits"], "the zone knows that it is older")
    assert "the zone's log was restored up to" in found["waits"]
    await until(lambda: _connected(place), bool, "the egress is connected again")
    assert await clusters(place) == SERVICES + MORE

    await _nats(place, "hub-nats", place.deployment.hub_config, place.deployment.ports.nats)
    await until(lambda: row(place), lambda found: not found["waits"] and found["acked"], "it got back what it had lost")
    assert await clusters(place) == SERVICES + MORE

    await _restored(place, tmp_path)
    await until(lambda: _connected(place), bool, "the egress is connected again")
    assert await clusters(place) == SERVICES + MORE
    assert await command(place, "release", "all") == 0
    await until(lambda: clusters(place), lambda count: count == SERVICES, "it goes on with what there is")


async def _older_copy(place: Place, kept: Path) -> None:
    """Keep a copy of the zone's logs, then let the zone and its egress go on."""
    async with place.api() as api:
        g = await api.put("/meshes/default", services.body(services.MESH))
        await place.holds(EGRESS, g)
    await place.stop("zone", "zone-nats")
    for name in ("EV", f"Z_{ZONE}"):
        shutil.copytree(_stream(place, name), kept / name)
    await _nats(place, "zone-nats", place.deployment.leaf_config(ZONE), place.ports.nats)
    await place.start_zone()
    async with place.api() as api:
        more = range(SERVICES, SERVICES + MORE)
        await place.holds(EGRESS, await api.apply(services.batch([services.service(number) for number in more])))
    assert await clusters(place) == SERVICES + MORE


async def _restored(place: Place, kept: Path) -> None:
    """The zone starts over the older copy of its logs, without the hub."""
    await place.stop("zone", "zone-nats", "hub-nats")
    for name in ("EV", f"Z_{ZONE}"):
        shutil.rmtree(_stream(place, name))
        shutil.copytree(kept / name, _stream(place, name))
    await _nats(place, "zone-nats", place.deployment.leaf_config(ZONE), place.ports.nats)
    await place.start_zone()


def _stream(place: Place, name: str) -> Path:
    return place.deployment.leaf_store(ZONE) / "jetstream" / "APP" / "streams" / name


async def _nats(place: Place, name: str, config: Path, port: int) -> None:
    await place.start(name, [find_binary(), "-c", str(config)], port)


async def _connected(place: Place) -> bool:
    async with place.api(zone=True) as api:
        try:
            return bool((await api.get(f"/proxies/{EGRESS}/xds"))["connection"])
        except Refused:
            return False
