"""What the machine allows: the bytes of real changes over a road of the same kind and into an Envoy of the same kind.

The road is a second pair of NATS servers, configured as the first: a publisher with global's key writes to the hub's
stream, a consumer with the zone's key pulls through the leaf link, and nothing decodes, decides or stores in between.
The Envoy has the very bootstrap of the zone's egress but for its ports, and is pushed the clusters that the changes had
made, by a server that only splices bytes. Both stand beside the real ones while those are measured, and real and bare
changes take turns after equal pauses: each finds processors, caches and sleeping processes as the other does. Measured
alone and one right after the other, bare parts took a third of the time, and a ratio to that tells how cold a machine
is between changes.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from shared.bench.bare_ads import BareAds
from shared.bench.place import EGRESS, ZONE, Place
from shared.events.event import GLOBAL, decode_event
from shared.events.history import History
from shared.events.log import LogUnavailable
from shared.keys.directory import KeysDirectory
from shared.nats import topology
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.pull import RawEvent

COMPILER = "zone_cp.replay"
AGENT = "zone_cp.agent"
TOKEN = "token.json"  # noqa: S105 - the name of a file
BOOTSTRAP = "bootstrap.json"
ADS_SETTLES_SECONDS = 30.0
PULL = b'{"batch":1000000,"expires":600000000000}'
LINK_SECONDS = 0.1
PAUSE_SECONDS = 0.1
"""Before each change, real and bare: what the one before it leaves to be done behind it is over by then."""

Step = Callable[[int], None]
Change = Callable[[int], Coroutine[Any, Any, float]]
"""Makes the change with this number; microseconds that it took."""


async def take_turns(real: Change, bare: Change, count: int, step: Step) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Microseconds of `count` real changes and as many bare ones, after the same pause and one after the other."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(count):
        for change, taken in zip((real, bare), found, strict=True):
            await asyncio.sleep(PAUSE_SECONDS)
            taken.append(await change(number))
            step(1)
    return tuple(found[0]), tuple(found[1])


@asynccontextmanager
async def bare_changes(place: Place, first: int) -> AsyncIterator[Change]:
    """The changes that global's log holds after its event `first`, in their order: over the road and into Envoy."""
    raws, history = await _past(place)
    before, *after = (_clusters_at(history, g) for g in range(first, len(raws) + 1))
    pushes, known = [], before
    for clusters in after:
        pushes.append([field for name, field in clusters.items() if known.get(name) != field])
        known = clusters
    async with _road() as publish, _envoy(place, before) as ads:

        async def change(number: int) -> float:
            return await publish(raws[first + number]) + await _push(ads, pushes[number])

        yield change


@asynccontextmanager
async def bare_pushes(place: Place, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> AsyncIterator[Change]:
    """Changes of an Envoy that holds the clusters `before`: one cluster of `after` that differs, each."""
    pushes = [[field] for name, field in after.items() if before.get(name) != field]
    async with _envoy(place, before) as ads:

        async def change(number: int) -> float:
            return await _push(ads, pushes[number])

        yield change


async def egress_clusters(place: Place) -> dict[str, bytes]:
    """What the zone's egress holds: encoded `resources` fields by name."""
    raws, history = await _past(place)
    return _clusters_at(history, len(raws))


async def measure_empty(place: Place, kind: str, rest_seconds: float) -> int:
    """Resident bytes of an Envoy with the bootstrap of a proxy that was here, and nothing served to it."""
    async with _envoy(place, {}, kind):
        await asyncio.sleep(rest_seconds)
        return place.resident_bytes(f"bare-{kind}")


# --- NATS -------------------------------------------------------------------------------------------------------


async def _connect(keys: KeysDirectory, url: str) -> Connection:
    return await connect(
        NatsSettings(url=url, nkey_seed_file=str(keys.nats_seed_file), ca_file=str(keys.ca_file), name="zonal-bench")
    )


async def _hub_of(place: Place) -> Connection:
    return await _connect(place.deployment.keys(GLOBAL), f"tls://127.0.0.1:{place.deployment.ports.nats}")


async def _past(place: Place) -> tuple[list[RawEvent], History]:
    """Global's log as it stands, and both logs."""
    async with await _hub_of(place) as hub:
        raws = [raw async for raw in topology.global_log(hub).read_raw()]
        own = [event async for event in topology.zone_log_on_hub(hub, ZONE).read()]
    return raws, History.of([decode_event(raw.data) for raw in raws], {ZONE: own})


@asynccontextmanager
async def _road() -> AsyncIterator[Callable[[RawEvent], Coroutine[Any, Any, float]]]:
    """Two NATS servers with nobody else on them: microseconds from publishing an event to its arrival in the zone."""
    arrived: asyncio.Queue[int] = asyncio.Queue()

    async def receive(_: object) -> None:
        arrived.put_nowait(time.monotonic_ns())

    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(Place(bare=True))
        hub = await stack.enter_async_context(await _hub_of(place))
        await topology.ensure_hub(hub)
        await topology.ensure_zone_on_hub(hub, ZONE)
        keys, url = place.deployment.keys(ZONE), f"tls://127.0.0.1:{place.ports.nats}"
        zone = await stack.enter_async_context(await _connect(keys, url))
        inbox = zone.new_inbox()
        await zone.subscribe(inbox, receive)
        reader = f"{topology.EVENTS}.{topology.zone_reader(ZONE)}"
        async with asyncio.timeout(ADS_SETTLES_SECONDS):
            await _linked(zone, f"{topology.HUB_API}.CONSUMER.RESET.{reader}")
        await zone.publish(f"{topology.HUB_API}.CONSUMER.MSG.NEXT.{reader}", PULL, reply=inbox)
        await zone.flush()

        async def publish(raw: RawEvent) -> float:
            # A message id of its own, as every event has: the server would take the event's own for a repetition.
            headers = {"Nats-Msg-Id": uuid.uuid4().hex, "Nats-Expected-Stream": topology.EVENTS}
            started = time.monotonic_ns()
            acknowledged = asyncio.create_task(hub.request(raw.subject, raw.data, headers=headers))
            async with asyncio.timeout(ADS_SETTLES_SECONDS):
                taken = (await arrived.get() - started) / 1000
            await acknowledged
            return taken

        yield publish


async def _linked(zone: Connection, reset: str) -> None:
    """Position the zone's consumer at the beginning, as soon as the leaf link carries requests."""
    while True:
        try:
            await zone.api(reset, {"seq": 1})
        except LogUnavailable:
            await zone.pause(LINK_SECONDS)
        else:
            return


# --- Envoy ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _envoy(place: Place, first: Mapping[str, bytes], kind: str = "egress") -> AsyncIterator[BareAds]:
    """An Envoy as the agent of this kind of proxy runs it, that holds the clusters `first`."""
    certificate, key = place.deployment.keys(ZONE).ads_files
    # No sidecar runs while this does.
    admin = place.ports.sidecar_admin
    async with BareAds(certificate.read_bytes(), key.read_bytes(), first) as ads:
        await place.start(f"bare-{kind}", _command(place.workdir(kind), ads.port, admin), admin)
        try:
            async with asyncio.timeout(ADS_SETTLES_SECONDS):
                await ads.settled()
            yield ads
        finally:
            await place.stop(f"bare-{kind}")


async def _push(ads: BareAds, changed: Sequence[bytes]) -> float:
    async with asyncio.timeout(ADS_SETTLES_SECONDS):
        return await ads.push(changed)


def _command(workdir: Path, ads_port: int, admin_port: int) -> list[str]:
    """The command of the Envoy that an agent ran in `workdir`, with other ports and a token that nobody looks at."""
    bootstrap: Any = importlib.import_module(f"{AGENT}.bootstrap")
    own = workdir.with_name(f"bare-{workdir.name}")
    own.mkdir(exist_ok=True)
    (own / TOKEN).write_bytes(bootstrap.token_secret("none"))
    made = json.loads((workdir / BOOTSTRAP).read_text().replace(str(workdir), str(own)))
    made["admin"]["address"]["socket_address"]["port_value"] = admin_port
    (plane,) = made["static_resources"]["clusters"]
    (endpoint,) = plane["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = ads_port
    (own / BOOTSTRAP).write_text(json.dumps(made))
    arguments = bootstrap.envoy_arguments(
        str(own / BOOTSTRAP),
        admin_address_path=str(own / "admin.address"),
        concurrency=0,
        log_level="warning",
    )
    return [str(importlib.import_module(f"{AGENT}.envoy").find_envoy()), *arguments]


def _clusters_at(history: History, g: int) -> dict[str, bytes]:
    replay: Any = importlib.import_module(COMPILER)
    kind = importlib.import_module("zone_cp.xds.snapshot").CLUSTER
    last = history.position(ZONE)
    # The zone's own log as it is at the end: the egress was online for each of these changes.
    snapshot = replay.snapshot_at(history, ZONE, type(last)(g, last.z), EGRESS)
    return {name: encoded.field for name, encoded in snapshot.resources[kind].items()}
