"""What the HTTP API shows and writes in a zone."""

from __future__ import annotations

from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.api.store import Put, Remove, ServiceStatus, Written
from shared.events.decide import Rejected
from shared.events.event import ProxyConnected
from shared.events.log import LogUnavailable, MemoryLog
from shared.events.state import ZoneState
from shared.keys.seal import Keyring, Sealer
from shared.model.resource import key_of
from tests.builders import LogBuilder, applied, dataplane, generator, mes, mesh, resource, service_key, settings
from tests.process.failing_log import REFUSED, FailingLog
from zone_cp.follow import ZoneOwner
from zone_cp.publish import Publisher
from zone_cp.store import ZoneStore

pytestmark = pytest.mark.anyio


class World:
    """A zone over logs in memory, following a global with one mesh and one service."""

    def __init__(self) -> None:
        self.log = FailingLog()
        self.owner = ZoneOwner("east", self.log, settings(), lambda _state, _events: None)
        self.rows: dict[str, ServiceStatus] = {}
        keyring = Keyring("east", X25519PrivateKey.generate())
        self.store = ZoneStore(
            self.owner,
            cast(Publisher, Compiles()),
            Sealer({"east": keyring.public}).seal,
            logs={},
            statuses=lambda: self.rows,
            addresses=lambda _: (),
            acked=lambda proxy: f"acked {proxy}",
            waits=lambda _: "",
            allowed=(),
            reserved=("242.0.0.0/8",),
        )

    async def begin(self) -> World:
        hub, copy = LogBuilder(), MemoryLog()
        hub.append(applied(mesh()), applied(generator()), applied(mes("shared")))
        await copy.append(hub.events)
        await self.owner.recover(copy)
        return self

    async def put(self, *commands: Put | Remove) -> Written | Rejected:
        return await self.store.write(commands, "ann")


class Compiles:
    """A publisher that has no view yet."""

    def compile(self, _proxy: object) -> None:
        return None


async def test_a_zone_writes_its_own_and_sees_both() -> None:
    """What it makes is of its origin; what global made is listed beside it, and is not its own to change."""
    world = await World().begin()
    written = await world.put(Put(mes("mine")))
    assert isinstance(written, Written)
    assert [(one.outcome, one.key.zone) for one in written.results] == [("created", "east")]
    found = await world.store.list("MeshExternalService", "default")
    assert {(one.key.name, one.key.zone) for one in found} == {("shared", ""), ("mine", "east")}
    assert await world.store.get(service_key("shared")) is not None
    assert await world.store.get(service_key("mine", zone="east")) is not None
    assert await world.store.get(service_key("mine", zone="west")) is None


async def test_the_version_is_that_of_the_written_event() -> None:
    """Not of what followed from it: a lease and its names come after, in the same append."""
    world = await World().begin()
    written = await world.put(Put(mes("a")), Put(mes("b")))
    assert isinstance(written, Written)
    for result in written.results:
        stored = await world.store.get(result.key)
        assert stored is not None
        assert stored.last.n == result.version
    assert written.sequence == len(world.log.events)


async def test_what_is_refused_writes_nothing() -> None:
    """A batch with one fault leaves the log as it is, and the reason comes back."""
    world = await World().begin()
    before = len(world.log.events)
    refused = await world.put(Put(mes("good")), Put(mes("bad", mesh="nowhere")))
    assert isinstance(refused, Rejected)
    assert len(world.log.events) == before


async def test_a_log_that_is_away_is_said_to_be() -> None:
    """LogUnavailable is for the API to answer 503 with; the next try is judged anew."""
    world = await World().begin()
    world.log.faults = [REFUSED]
    with pytest.raises(LogUnavailable):
        await world.put(Put(mes("a")))
    assert isinstance(await world.put(Put(mes("a"))), Written)


async def test_secrets_of_a_zone_are_sealed() -> None:
    """The zone's log, which goes to the hub, has no clear text."""
    world = await World().begin()
    secret = resource(type="Secret", name="s", mesh="default", data="aHVudGVyMg==")
    answer = await world.put(Put(secret))
    assert isinstance(answer, Written | Rejected)
    assert "hunter2" not in repr(world.log.events)
    assert "aHVudGVyMg" not in repr(world.log.events)


async def test_proxies_show_what_they_acked() -> None:
    """One row per proxy the zone knows, with the moment it holds."""
    world = await World().begin()
    sidecar = dataplane()

    def joins(_state: ZoneState) -> list[Any]:
        key = key_of(sidecar, "east")
        return [applied(sidecar, "east"), ProxyConnected(proxy="default.web-1", key=key, connection="c/1")]

    await world.owner.write(joins, actor="system:zone")
    (row,) = await world.store.proxies()
    assert (row.proxy, row.zone, row.online, row.acked) == ("default.web-1", "east", True, "acked default.web-1")
    assert await world.store.inspect("default.web-1") is None
    assert await world.store.inspect("default.nobody") is None
