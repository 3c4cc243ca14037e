"""kill -9 and its like, on the whole system: what was acknowledged stays, what was given never moves, all heals."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import msgspec
import pytest
from google.protobuf import json_format

from shared.demo.looking import eventually
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from tests.e2e.living import WITHIN_SECONDS, Living, traffic
from zone_cp.ads.server import ADS_SERVICE

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 25400
CLUSTERS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
WRITES = 40
ROUNDS = 3


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """Two zones with everything ready."""
    directory = tmp_path_factory.mktemp("crash")
    async with Living(directory, BASE_PORT) as living:
        await living.begin()
        yield living


def service(name: str, port: int, *, listens: int = 7000) -> dict[str, Any]:
    match = {"type": "HostnameGenerator", "port": listens, "protocol": "http"}
    spec = {"match": match, "endpoints": [{"address": "127.0.0.1", "port": port}]}
    return {"type": "MeshExternalService", "mesh": "default", "name": name, "spec": spec}


async def put(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """Write until acknowledged, as a client that retries; the outcome of the attempt that was."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            try:
                answer = await client.post("/apply", json={"resources": [body]})
                if answer.status_code == 200:
                    return str(answer.json()["results"][0]["outcome"])
                assert answer.status_code == 503, answer.text
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


async def test_no_acknowledged_write_is_lost_or_doubled(system: Living) -> None:
    """kill -9 of global amid writes: what was acknowledged is in the log once, and a retry finds it unchanged."""
    acknowledged: list[str] = []
    half_way = asyncio.Event()

    async def write(client: httpx.AsyncClient) -> None:
        for number in range(WRITES):
            await put(client, service(f"w-{number}", system.services.http, listens=7000 + number))
            acknowledged.append(f"w-{number}")
            if number == WRITES // 2:
                half_way.set()

    async with system.client() as client:
        async with asyncio.TaskGroup() as group:
            group.create_task(write(client))
            await half_way.wait()
            await system.kill("global")
            await system.start("global")
        again = [await put(client, service(f"w-{n}", system.services.http, listens=7000 + n)) for n in range(WRITES)]
    assert set(again) == {"unchanged"}
    events = await system.events("global")
    names = Counter(
        event["change"]["resource"]["name"] for event in events if event["change"]["type"] == "ResourceApplied"
    )
    assert {name: names[name] for name in acknowledged} == dict.fromkeys(acknowledged, 1)
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    for zone in ("east", "west"):
        await system.settled(zone, lambda rows: set(acknowledged) <= set(rows), f"{zone} knows them all")


async def test_a_zone_that_is_killed_moves_nothing(system: Living) -> None:
    """kill -9 of a zone at random moments: traffic is answered throughout, VIPs and names stay, config converges."""
    chosen = random.Random(7)
    before = await system.addresses("east")
    async with system.client() as client, traffic(system, "east", "web.east.mesh", 8080) as seen:
        for number in range(ROUNDS):
            async with asyncio.TaskGroup() as group:
                group.create_task(_flow(client, system, number))
                await asyncio.sleep(chosen.uniform(0.05, 0.6))
                await system.kill("east-zone")
                await system.start("east-zone")
        name = f"k-{ROUNDS - 1}-9.ext.mesh"
        answer = await eventually(
            lambda: system.call("east", name, 7000 + 100 * (ROUNDS - 1) + 9), lambda a: a.status == 200, name, 30
        )
        assert answer.json["instance"] == system.services.http
    assert (seen.failures, seen.answers > 100) == ([], True)
    after = await system.addresses("east")
    assert {name: after[name] for name in before} == before
    ids = await system.same_log("east")
    assert len(ids) == len(set(ids))


async def _flow(client: httpx.AsyncClient, system: Living, number: int) -> None:
    for one in range(10):
        await put(client, service(f"k-{number}-{one}", system.services.http, listens=7000 + 100 * number + one))


async def test_a_zone_survives_its_nats_server(system: Living) -> None:
    """kill -9 of the zone's nats-server: proxies go on, the control plane waits, and takes up where it was."""
    pid, before = system.pid("east-zone"), await system.addresses("east")
    async with system.client() as client, traffic(system, "east", "web.east.mesh", 8080) as seen:
        await system.kill("east-nats")
        await put(client, service("meanwhile", system.services.http, listens=8101))
        await system.settled("west", lambda rows: "meanwhile" in rows, "west knows it")
        async with system.client("east") as zone:
            refused = await zone.post(
                "/apply", json={"resources": [service("refused", system.services.http, listens=8102)]}
            )
        assert refused.status_code == 503
        await system.start("east-nats")
        await eventually(
            lambda: system.call("east", "meanwhile.ext.mesh", 8101), lambda a: a.status == 200, "it is served", 30
        )
    assert (seen.failures, seen.answers > 20) == ([], True)
    assert system.pid("east-zone") == pid
    assert system.alive("east-zone")
    after = await system.addresses("east")
    assert {name: after[name] for name in before} == before
    await system.same_log("east")


async def test_zones_work_on_without_the_hub(system: Living) -> None:
    """kill -9 of the hub: zones serve and take writes of their own; with the hub back global learns of them."""
    pids = {name: system.pid(name) for name in ("global", "east-zone", "west-zone")}
    async with traffic(system, "west", "web.west.mesh", 8080) as seen:
        await system.kill("hub-nats")
        async with system.client("west") as west:
            await put(west, service("alone", system.services.http, listens=8103))
        await eventually(
            lambda: system.call("west", "alone.west.mesh", 8103), lambda a: a.status == 200, "it is served", 30
        )
        async with system.client() as client:
            refused = await client.post(
                "/apply", json={"resources": [service("later", system.services.http, listens=8104)]}
            )
            assert refused.status_code == 503
            await system.start("hub-nats")
            assert await put(client, service("later", system.services.http, listens=8104)) in ("created", "unchanged")
        await system.settled("west", lambda rows: {"alone", "later"} <= set(rows), "global shows both in west")
        await system.settled("east", lambda rows: "later" in rows, "east got it")
    assert (seen.failures, seen.answers > 20) == ([], True)
    assert {name: system.pid(name) for name in pids} == pids
    assert all(system.alive(name) for name in pids)
    await system.same_log("west")


async def test_the_newer_stream_of_a_proxy_wins(system: Living) -> None:
    """A second ADS stream for a proxy ends the first, and is ended when the proxy itself comes back."""
    before = len(await system.events("east", zone="east"))
    token = (system.directory / "tokens" / "east-egress.token").read_text().strip()
    bootstrap = next((system.directory / "proxies" / "east-egress").glob("bootstrap*"))
    node = msgspec.json.decode(bootstrap.read_bytes())["node"]
    request = json_format.ParseDict(
        {"node": {"id": node["id"], "cluster": node.get("cluster", ""), "metadata": node["metadata"]},
         "typeUrl": CLUSTERS, "resourceNamesSubscribe": ["*"]},
        DeltaDiscoveryRequest(),
        ignore_unknown_fields=True,
    )  # fmt: skip
    credentials = grpc.ssl_channel_credentials(system.deployment.ca_file.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{system.zone_ports['east'].ads}", credentials) as channel:
        method: Any = channel.stream_stream(f"/{ADS_SERVICE}/DeltaAggregatedResources")
        stream = method(metadata=(("authorization", f"Bearer {token}"),))
        await stream.write(request.SerializeToString())
        async with asyncio.timeout(WITHIN_SECONDS):
            assert await stream.read() is not grpc.aio.EOF
            with pytest.raises(grpc.aio.AioRpcError, match="superseded"):
                await _exhaust(stream)

    async def ends() -> list[str]:
        events = (await system.events("east", zone="east"))[before:]
        return [event["change"].get("reason", "connected") for event in events
                if event["change"]["type"] in ("ProxyConnected", "ProxyDisconnected")]  # fmt: skip

    told = ["connected", "connected"]
    await eventually(ends, lambda seen: seen == told, "both changes of stream, and never offline", WITHIN_SECONDS)

    async def online() -> list[bool]:
        proxies = (await system.api("GET", "/proxies", zone="east"))["items"]
        return [row["online"] for row in proxies if row["proxy"] == node["id"]]

    await eventually(online, lambda seen: seen == [True], "online", WITHIN_SECONDS)


async def _exhaust(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


def overdue(system: Living, name: str) -> list[str]:
    """What a process says of parts that had to be ended, each of which has seconds of its own to end by itself."""
    said = ("did not stop in time", "envoy killed")
    return [line for line in system.log_of(name).splitlines() if any(word in line for word in said)]


async def test_a_sidecar_that_stops_goes_offline(system: Living) -> None:
    """SIGTERM of a sidecar: it ends with 0 within its grace, its zone shows it offline, and it can come back."""

    async def sidecar() -> dict[str, Any]:
        proxies = (await system.api("GET", "/proxies", zone="west"))["items"]
        return next(row for row in proxies if row["proxy"] == "default.app")

    async def online() -> list[bool]:
        return [(await sidecar())["online"]]

    # The tests before this one killed its zone: one that has not come back yet counts as online for a while.
    await eventually(sidecar, lambda row: bool(row["acked"]), "connected to the zone's present process", 30)
    assert await system.terminate("west-sidecar") == 0
    assert overdue(system, "west-sidecar") == []

    await eventually(online, lambda seen: seen == [False], "offline in west")
    await system.start("west-sidecar")
    await eventually(online, lambda seen: seen == [True], "online again")
    await eventually(
        lambda: system.call("west", "web.west.mesh", 8080), lambda a: a.status == 200, "serving again", WITHIN_SECONDS
    )


async def test_every_process_ends_when_told(system: Living) -> None:
    """SIGTERM ends each with 0, be its nats-server there or gone: nothing in it takes longer than its grace, and no log
    holds a traceback.
    """
    await system.kill("west-nats")
    told = {name: await system.terminate(name) for name in ("west-zone", "east-zone")}
    await system.kill("hub-nats")
    for name in ("global", "west-sidecar", "west-egress", "east-sidecar", "east-egress", "outside"):
        told[name] = await system.terminate(name)
    assert {name: code for name, code in told.items() if code} == {}
    for name in told:
        assert "Traceback" not in system.log_of(name), name
        assert overdue(system, name) == []
