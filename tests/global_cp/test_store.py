"""What the HTTP API shows and writes on global."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from global_cp.authorities import Authorities
from global_cp.follow import GlobalOwner
from global_cp.store import GlobalStore
from shared.api.store import Put, Remove, ServiceStatus, Written
from shared.events.decide import Rejected
from shared.events.event import ProxyConnected
from shared.events.log import MemoryLog
from shared.keys.seal import Keyring, Sealer
from shared.model.resource import ResourceKey, key_of
from tests.builders import LogBuilder, applied, dataplane, mes, mesh, resource, service_key

pytestmark = pytest.mark.anyio


def row(zone: str, name: str) -> ServiceStatus:
    return ServiceStatus(
        zone=zone, mesh="default", name=name, origin="global", protocol="http", port=80, vip="242.0.0.1",
        hostnames=(), conditions=(), position="g1.z1",
    )  # fmt: skip


class World:
    """A global with two zones, in memory."""

    def __init__(self) -> None:
        keyring = Keyring("global", X25519PrivateKey.generate())
        self.sealer = Sealer({"global": keyring.public})
        self.log = MemoryLog()
        authorities = Authorities(keyring, self.sealer, lambda: datetime.now(UTC))
        self.owner = GlobalOwner(self.log, ("east", "west"), authorities, lambda: None)
        self.statuses: dict[str, dict[str, ServiceStatus]] = {"west": {}, "east": {}}
        self.store = GlobalStore(self.owner, self.sealer.seal, {}, self.statuses)

    async def put(self, *commands: Put | Remove) -> Written | Rejected:
        return await self.store.write(commands, "ann")


async def test_written_resources_have_the_version_of_their_event() -> None:
    """Each result says what became of it and where it stands; the answer says where the log is."""
    world = World()
    written = await world.put(Put(mesh("default", mtls=False)), Put(mes("a")))
    assert isinstance(written, Written)
    assert [(one.outcome, one.version) for one in written.results] == [("created", 1), ("created", 2)]
    assert written.sequence == 2
    again = await world.put(Put(mes("a")), Put(mes("b")), Remove(service_key("a")))
    assert isinstance(again, Written | Rejected)
    stored = await world.store.get(service_key("a"))
    assert stored is None or stored.last.n == 2


async def test_a_refusal_is_an_answer_and_writes_nothing() -> None:
    """All or nothing."""
    world = World()
    refused = await world.put(Put(mes("a", mesh="nowhere")))
    assert isinstance(refused, Rejected)
    assert world.log.events == []


async def test_secrets_are_sealed_before_they_are_recorded() -> None:
    """The log has no clear text, in no field."""
    world = World()
    await world.put(Put(mesh("default", mtls=False)))
    secret = resource(type="Secret", name="s", mesh="default", data="aHVudGVyMg==")
    assert isinstance(await world.put(Put(secret)), Written)
    assert "hunter2" not in repr(world.log.events)
    assert "aHVudGVyMg" not in repr(world.log.events)


async def test_what_zones_made_is_visible_but_not_global() -> None:
    """Zone-origin resources are found under their zone's key, and listed beside global's."""
    world = World()
    await world.put(Put(mesh("default", mtls=False)), Put(mes("a")))
    east = LogBuilder("east")
    sidecar = dataplane()
    east.append(applied(mes("island"), "east"), applied(sidecar, "east"))
    east.append(ProxyConnected(proxy="default.web-1", key=key_of(sidecar, "east"), connection="c/1"))
    await world.owner.zone_events("east", east.events)
    found = await world.store.list("MeshExternalService")
    assert {(one.key.name, one.key.zone) for one in found} == {("a", ""), ("island", "east")}
    assert await world.store.get(service_key("island", zone="east")) is not None
    assert await world.store.get(service_key("island")) is None
    assert await world.store.get(service_key("island", zone="north")) is None
    assert [(one.zone, one.proxy, one.online) for one in await world.store.proxies()] == [
        ("east", "default.web-1", True)
    ]
    assert await world.store.inspect("default.web-1") is None


async def test_statuses_come_by_zone_and_name() -> None:
    """In an order that does not depend on when they arrived."""
    world = World()
    world.statuses["west"] = {"mes.default._.a": row("west", "a")}
    world.statuses["east"] = {"mes.default._.b": row("east", "b"), "mes.default._.a": row("east", "a")}
    assert [(one.zone, one.name) for one in await world.store.statuses()] == [
        ("east", "a"), ("east", "b"), ("west", "a"),
    ]  # fmt: skip


async def test_listing_one_mesh() -> None:
    """The other meshes' resources stay out."""
    world = World()
    await world.put(Put(mesh("default", mtls=False)), Put(mesh("other", mtls=False)))
    await world.put(Put(mes("a")), Put(mes("b", mesh="other")))
    assert [one.key for one in await world.store.list("MeshExternalService", "other")] == [
        ResourceKey("MeshExternalService", "other", "b")
    ]
    assert {one.key.name for one in await world.store.list("Mesh")} == {"default", "other"}
