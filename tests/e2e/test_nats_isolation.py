"""What a zone cannot do on the hub, tried with a zone's own keys through its own leaf link, over mutual TLS."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shared.demo.looking import eventually
from shared.events.log import LogUnavailable
from shared.nats import nkeys, topology
from shared.nats.connection import ApiError, Connection, NatsSettings, connect
from tests.builders import LogBuilder, applied, mes
from tests.nats.world import World, running_world, until, write_private

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

NO_JETSTREAM = 10039
FORGED = b'{"id":"forged"}'
PREFIXES = ("", "hub.", "hub.js.", "$JS.hub.API.", "$JS.API.")


async def positions(world: World) -> dict[str, tuple[int, int]]:
    """First and last sequence of every stream on the hub."""
    found = {}
    for stream in ("EV", "Z_east", "S_east", "R_east", "Z_west", "S_west", "R_west"):
        state = (await world.hub.api(f"$JS.API.STREAM.INFO.{stream}"))["state"]
        found[stream] = (state["first_seq"], state["last_seq"])
    return found


async def hub_answers(west: Connection, call: str, body: Any = None) -> bool:
    """Whether the API call gets an answer that speaks of the hub, under any of the prefixes a zone may think of.

    The hub does answer some calls to `$JS.hub.API`, namely that the zone's account has no JetStream there.
    """
    for prefix in ("hub.js.", "$JS.hub.API.", "hub.$JS.API."):
        try:
            await west.api(prefix + call, body, timeout_seconds=0.3)
        except LogUnavailable:
            continue
        except ApiError as error:
            if error.err_code == NO_JETSTREAM:
                continue
        return True
    return False


async def started(world: World) -> Connection:
    """Something in every stream of the hub, and west's connection, whose link works."""
    await topology.global_log(world.hub).append(LogBuilder().append(applied(mes("a")), applied(mes("b"))))
    for zone in ("east", "west"):
        log = LogBuilder(zone)
        await topology.zone_log_on_hub(world.hub, zone).append(log.append(applied(mes("own"), zone)))
        await topology.status_on_hub(world.hub, zone).put("k", b"{}")
        await topology.records(world.hub, zone).put("k", b"{}")
    west = world.zones["west"]
    source = topology.hub_log_from_zone(west, "west")
    async with asyncio.timeout(10):
        while True:
            try:
                assert await source.last() == 2
            except LogUnavailable:
                await west.pause(0.05)
            else:
                return west


async def test_a_zone_cannot_write_what_is_not_its_own(tmp_path: Path) -> None:
    """Events of global, events and statuses of another zone: published under any name, none is stored on the hub."""
    async with running_world(tmp_path, "east", "west") as world:
        west = await started(world)
        before = await positions(world)
        for prefix in PREFIXES:
            kinds = ("zone", "status", "record")
            for subject in ("mesh.v1.x", *(f"{kind}.v1.{zone}.x" for zone in ("east", "west") for kind in kinds)):
                await west.publish(prefix + subject, FORGED, reply="zone.v1.east.reply")
                await west.publish(prefix + subject, FORGED, reply="mesh.v1.reply")
        await west.flush()
        with pytest.raises(LogUnavailable):
            await west.request("hub.zone.v1.east.x", FORGED, timeout_seconds=0.5)
        # The one door that is open, to show that the link carries what may pass, after all of the above.
        await west.request("hub.status.v1.west.mine", b"{}")
        # Of its own subjects two each, and `mine`, are west's right.
        wanted = before | {"Z_west": (1, 3), "S_west": (1, 4), "R_west": (1, 3)}
        await eventually(lambda: positions(world), lambda now: now == wanted, "what may pass, alone")


async def test_a_zone_cannot_read_or_change_what_is_not_its_own(tmp_path: Path) -> None:
    """No info, message, consumer, purge, deletion, update or snapshot beyond the streams' read rights it has."""
    async with running_world(tmp_path, "east", "west") as world:
        west = await started(world)
        before = await positions(world)
        calls: list[tuple[str, Any]] = [("STREAM.NAMES", None), ("STREAM.LIST", None), ("INFO", None)]
        for stream in ("Z_east", "S_east", "R_east"):
            calls += [(f"STREAM.INFO.{stream}", None), (f"DIRECT.GET.{stream}", {"seq": 1})]
        for stream in before:
            consumer = {"stream_name": stream, "config": {"name": "c", "ack_policy": "none"}}
            push = {"stream_name": stream, "config": {"name": "c", "deliver_subject": "zone.v1.east.x"}}
            calls += [
                (f"STREAM.PURGE.{stream}", None),
                (f"STREAM.DELETE.{stream}", None),
                (f"STREAM.UPDATE.{stream}", {"name": stream, "subjects": ["x"]}),
                (f"STREAM.MSG.DELETE.{stream}", {"seq": 1}),
                (f"STREAM.MSG.GET.{stream}", {"seq": 1}),
                (f"STREAM.SNAPSHOT.{stream}", {"deliver_subject": "x"}),
                (f"CONSUMER.CREATE.{stream}", consumer),
                (f"CONSUMER.CREATE.{stream}.c", consumer),
                (f"CONSUMER.CREATE.{stream}.c", push),
                (f"CONSUMER.RESET.{stream}.zone-east", {"seq": 1}),
                (f"CONSUMER.MSG.NEXT.{stream}.zone-east", {"batch": 1}),
                (f"CONSUMER.DELETE.{stream}.zone-east", None),
                (f"CONSUMER.DELETE.{stream}.zone-west", None),
                (f"CONSUMER.PAUSE.{stream}.zone-west", {"pause_until": "2100-01-01T00:00:00Z"}),
            ]
        answers = await asyncio.gather(*(hub_answers(west, call, body) for call, body in calls))
        answered = [call for (call, _), answer in zip(calls, answers, strict=True) if answer]
        assert answered == []
        assert await positions(world) == before
        consumers = await world.hub.api("$JS.API.CONSUMER.NAMES.EV")
        assert sorted(consumers["consumers"]) == ["zone-east", "zone-west"]
        # What it may: see its own delivered events and the global log.
        assert await topology.outbox_target(west, "west").last() == 1
        assert len([raw async for raw in topology.hub_log_from_zone(west, "west").read_raw()]) == 2


async def test_a_reply_subject_carries_nothing_into_a_stream(tmp_path: Path) -> None:
    """The hijack of one-account set-ups: ask the hub for a stored forgery with a stream's subject as the reply."""
    async with running_world(tmp_path, "east", "west") as world:
        west = await started(world)
        await west.request("hub.zone.v1.west.evil", FORGED)
        before = await positions(world)
        requests = {
            "hub.js.DIRECT.GET.Z_west": {"seq": 2},
            "hub.js.STREAM.INFO.Z_west": None,
            "hub.js.CONSUMER.RESET.EV.zone-west": {"seq": 1},
            "hub.js.CONSUMER.MSG.NEXT.EV.zone-west": {"batch": 1},
            "hub.zone.v1.west.evil": None,
        }
        for reply in ("mesh.v1.forged", "zone.v1.east.forged", "hub.zone.v1.east.forged", "$JS.API.STREAM.PURGE.EV"):
            for subject, body in requests.items():
                await west.publish(subject, b"" if body is None else json.dumps(body).encode(), reply=reply)
        heard: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(message.data)

        # Not the hub but the zone's own account gets the reply.
        inbox = west.new_inbox()
        await west.subscribe(inbox, hear)
        await west.publish("hub.js.DIRECT.GET.Z_west", b'{"seq": 2}', reply=inbox)
        await until(lambda: heard == [FORGED], "the reply where it belongs")
        await topology.global_log(world.hub).last()
        # Only the four publishes to its own stream were stored.
        wanted = before | {"Z_west": (1, before["Z_west"][1] + 4)}
        await eventually(lambda: positions(world), lambda now: now == wanted, "what is its own, alone")


async def test_listening_hears_nothing_of_others(tmp_path: Path) -> None:
    """A zone that subscribes to everything hears no event of global or of another zone on its way into the hub."""
    async with running_world(tmp_path, "east", "west") as world:
        west = await started(world)
        heard: list[str] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)

        await west.subscribe(">", hear)
        await west.flush()
        await topology.status_on_hub(world.hub, "east").put("secret", b"{}")
        await world.zones["east"].request("hub.zone.v1.east.secret", FORGED)
        await topology.status_on_hub(world.hub, "west").put("secret", b"{}")
        # One round through the same link: what was sent before it would have come before it.
        await topology.outbox_target(west, "west").last()
        assert [subject for subject in heard if "secret" in subject] == []


async def test_strangers_are_refused(tmp_path: Path) -> None:
    """Without a key, with a wrong key, without trust in the CA, or in plaintext, no client gets in anywhere."""
    async with running_world(tmp_path, "west") as world:
        good = world.settings["west"]
        stranger = write_private(tmp_path / "stranger.nk", nkeys.generate().seed)
        refused = [
            NatsSettings(url=good.url, ca_file=good.ca_file),
            NatsSettings(url=good.url, ca_file=good.ca_file, nkey_seed_file=str(stranger)),
            NatsSettings(url=good.url.replace("tls:", "nats:"), nkey_seed_file=good.nkey_seed_file),
            NatsSettings(url=world.settings["hub"].url, ca_file=good.ca_file, nkey_seed_file=good.nkey_seed_file),
        ]
        for settings in refused:
            with pytest.raises(LogUnavailable):
                await connect(settings, timeout_seconds=0.7)
