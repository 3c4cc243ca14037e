"""What the machine allows: the bytes of real changes over the same NATS servers and into the same Envoy, barely.

The control planes are stopped first. A publisher with global's key writes to the hub's stream, a consumer with the
zone's key pulls through the leaf link: nothing decodes, decides or stores in between. Then an Envoy with the very
bootstrap of the zone's egress is pushed the clusters that the changes had made, by a server that only splices bytes.
"""

from __future__ import annotations

import asyncio
import importlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.bench.bare_ads import BareAds
from shared.bench.place import EGRESS, ZONE, Place
from shared.events.event import GLOBAL, Event, decode_event
from shared.events.history import History
from shared.keys.directory import KeysDirectory
from shared.nats import topology
from shared.nats.connection import Connection, MessageCallback, NatsSettings, connect
from shared.nats.pull import RawEvent

COMPILER = "zone_cp.replay"
AGENT = "zone_cp.agent"
TOKEN = "token.json"  # noqa: S105 - the name of a file
ADS_SETTLES_SECONDS = 30.0
PULL = b'{"batch":1000000,"expires":600000000000}'
OLD_PULLS_SECONDS = 1.5
"""Pulls of the stopped zone expire within a second; before that they would swallow messages."""

Step = Callable[[int], None]


async def measure(place: Place, first: int, warm_up: int, step: Step) -> tuple[float, ...]:
    """Microseconds per change after global's event `first`, without the first `warm_up` ones: NATS plus Envoy."""
    hub = await _connect(place.deployment.keys(GLOBAL), f"tls://127.0.0.1:{place.deployment.ports.nats}")
    async with hub:
        raws = [raw async for raw in topology.global_log(hub).read_raw()]
        own = [event async for event in topology.zone_log_on_hub(hub, ZONE).read()]
        await place.stop("egress", "zone", "global")
        await asyncio.sleep(OLD_PULLS_SECONDS)
        published = await _publish(place, hub, raws[first:], step)
    pushed = await _push(place, [decode_event(raw.data) for raw in raws], own, first, step)
    return tuple(there + into for there, into in zip(published[warm_up:], pushed[warm_up:], strict=True))


async def measure_pushes(place: Place, first: int, step: Step) -> list[float]:
    """Microseconds per change after global's event `first`, of services that changed once: Envoy alone."""
    hub = await _connect(place.deployment.keys(GLOBAL), f"tls://127.0.0.1:{place.deployment.ports.nats}")
    async with hub:
        events = [event async for event in topology.global_log(hub).read()]
        own = [event async for event in topology.zone_log_on_hub(hub, ZONE).read()]
    await place.stop("egress", "zone", "global")
    history = History.of(events, {ZONE: own})
    before, after = (_clusters_at(history, g) for g in (first, history.position(ZONE).g))
    changed = [[field] for name, field in after.items() if before.get(name) != field]
    return await _pushed(place, before, changed, step)


async def measure_empty(place: Place, kind: str, rest_seconds: float) -> int:
    """Resident bytes of an Envoy with the bootstrap of a proxy that was here, and nothing served to it."""
    certificate, key = place.deployment.keys(ZONE).ads_files
    admin = place.ports.sidecar_admin if kind == "sidecar" else place.ports.egress_admin
    async with BareAds(place.ports.ads, certificate.read_bytes(), key.read_bytes(), {}) as ads:
        await place.start(f"empty-{kind}", _envoy(place.workdir(kind)), admin)
        async with asyncio.timeout(ADS_SETTLES_SECONDS):
            await ads.settled()
        await asyncio.sleep(rest_seconds)
        found = place.resident_bytes(f"empty-{kind}")
        await place.stop(f"empty-{kind}")
    return found


# --- NATS -------------------------------------------------------------------------------------------------------


async def _connect(keys: KeysDirectory, url: str) -> Connection:
    return await connect(
        NatsSettings(url=url, nkey_seed_file=str(keys.nats_seed_file), ca_file=str(keys.ca_file), name="zonal-bench")
    )


async def _publish(place: Place, hub: Connection, raws: Sequence[RawEvent], step: Step) -> list[float]:
    zone = await _connect(place.deployment.keys(ZONE), f"tls://127.0.0.1:{place.ports.nats}")
    arrived: asyncio.Queue[int] = asyncio.Queue()

    async def receive(_: object) -> None:
        arrived.put_nowait(time.monotonic_ns())

    found = []
    async with zone:
        await _pull(zone, receive, after=raws[-1].sequence)
        for raw in raws:
            # A message id of its own, as every event has: the server would take the event's own for a repetition.
            headers = {"Nats-Msg-Id": uuid.uuid4().hex, "Nats-Expected-Stream": topology.EVENTS}
            started = time.monotonic_ns()
            acknowledged = asyncio.create_task(hub.request(raw.subject, raw.data, headers=headers))
            async with asyncio.timeout(ADS_SETTLES_SECONDS):
                found.append((await arrived.get() - started) / 1000)
            await acknowledged
            step(1)
    return found


async def _pull(zone: Connection, receive: MessageCallback, *, after: int) -> None:
    reader = f"{topology.EVENTS}.{topology.zone_reader(ZONE)}"
    await zone.api(f"{topology.HUB_API}.CONSUMER.RESET.{reader}", {"seq": after + 1})
    inbox = zone.new_inbox()
    await zone.subscribe(inbox, receive)
    await zone.publish(f"{topology.HUB_API}.CONSUMER.MSG.NEXT.{reader}", PULL, reply=inbox)
    await zone.flush()


# --- Envoy ------------------------------------------------------------------------------------------------------


async def _push(place: Place, hub: list[Event], own: list[Event], first: int, step: Step) -> list[float]:
    before, *changes = _clusters(History.of(hub, {ZONE: own}), first)
    steps, known = [], before
    for clusters in changes:
        steps.append([field for name, field in clusters.items() if known.get(name) != field])
        known = clusters
    return await _pushed(place, before, steps, step)


async def _pushed(
    place: Place, before: Mapping[str, bytes], changes: Sequence[Sequence[bytes]], step: Step
) -> list[float]:
    """Microseconds per change, on an Envoy that holds what was before them."""
    certificate, key = place.deployment.keys(ZONE).ads_files
    async with BareAds(place.ports.ads, certificate.read_bytes(), key.read_bytes(), before) as ads:
        await place.start("bare-egress", _envoy(place.workdir("egress")), place.ports.egress_admin)
        async with asyncio.timeout(ADS_SETTLES_SECONDS):
            await ads.settled()
        found = []
        for changed in changes:
            async with asyncio.timeout(ADS_SETTLES_SECONDS):
                found.append(await ads.push(changed))
            step(1)
        await place.stop("bare-egress")
    return found


def _envoy(workdir: Path) -> list[str]:
    """The command of the Envoy that the agent ran in `workdir`, with a token that nobody looks at."""
    bootstrap: Any = importlib.import_module(f"{AGENT}.bootstrap")
    (workdir / TOKEN).write_bytes(bootstrap.token_secret("none"))
    arguments = bootstrap.envoy_arguments(
        str(workdir / "bootstrap.json"),
        admin_address_path=str(workdir / "admin.address"),
        concurrency=0,
        log_level="warning",
    )
    return [str(importlib.import_module(f"{AGENT}.envoy").find_envoy()), *arguments]


def _clusters(history: History, first: int) -> list[dict[str, bytes]]:
    """What the egress held at global's event `first` and at each later one: encoded `resources` fields by name."""
    return [_clusters_at(history, g) for g in range(first, history.position(ZONE).g + 1)]


def _clusters_at(history: History, g: int) -> dict[str, bytes]:
    replay: Any = importlib.import_module(COMPILER)
    kind = importlib.import_module("zone_cp.xds.snapshot").CLUSTER
    last = history.position(ZONE)
    # The zone's own log as it is at the end: the egress was online for each of these changes.
    snapshot = replay.snapshot_at(history, ZONE, type(last)(g, last.z), EGRESS)
    return {name: encoded.field for name, encoded in snapshot.resources[kind].items()}
