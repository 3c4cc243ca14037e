"""Who is told what a hold must not keep: each situation is compiled once, and the past is asked once for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import msgspec
import pytest

from shared.events.event import Change, DataKeyWrapped, ProxyConnected
from shared.events.history import NoSuchMoment
from shared.events.log import LogUnavailable
from shared.events.state import Position
from shared.model.resource import DataSource, ExternalTls, Sealed, Secret, Verification, key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, mes, mesh, resource
from zone_cp.keeping import Keeping, Past, Situation, concerns_held
from zone_cp.replay import RedactedSecrets
from zone_cp.xds.fleet import Fleet, first_turn, next_turn
from zone_cp.xds.snapshot import Snapshot

pytestmark = pytest.mark.anyio

PROXIES = ("default.web-1", "default.web-2")


class World:
    """A zone with two sidecars in equal situation that dial a service themselves; what they were told while held."""

    def __init__(self) -> None:
        self.hub, self.zone = LogBuilder(), ZoneBuilder()
        self.hub.append(applied(mesh(labels={"zonal.io/mes-origination": "sidecar"})), applied(mes("api")))
        self.zone.follow(self.hub)
        for proxy in PROXIES:
            made = dataplane(proxy.removeprefix("default."))
            self.zone.apply(made)
            self.zone.write(ProxyConnected(proxy=proxy, key=key_of(made, "east"), connection="1"))
        self.kept = self.fleet()
        self.held: dict[str, Position | None] = {}
        self.told: list[tuple[str, Snapshot]] = []
        self.asked: list[Position] = []
        self.keeping = Keeping(self, RedactedSecrets())

    def fleet(self) -> Fleet:
        return first_turn(self.zone.state, RedactedSecrets()).fleet

    def deny(self) -> None:
        spec = {"targetRef": {"kind": "Mesh"}, "rules": [{"default": {}}]}
        self.hub.append(applied(resource(type="MeshTrafficPermission", name="nobody", mesh="default", spec=spec)))
        self.zone.follow(self.hub)

    def hold(self, *proxies: str, at: Position | None = None) -> None:
        self.held |= dict.fromkeys(proxies, at or self.kept.view.position)

    def look(self, before: Fleet | None, *, concerned: bool) -> None:
        self.keeping.look(before, self.fleet(), concerned=concerned)

    # -- the guard --

    def holding(self) -> Mapping[str, Position | None]:
        return self.held

    def keep(self, proxy: str, snapshot: Snapshot) -> None:
        self.told.append((proxy, snapshot))

    # -- the past --

    def past(self, *failures: Exception) -> Past:
        left = list(failures)

        async def past(position: Position, proxies: Collection[str]) -> Mapping[str, Situation]:
            self.asked.append(position)
            await asyncio.sleep(0)
            if left:
                raise left.pop(0)
            return {one: (self.kept.view, self.kept.situations[one]) for one in proxies}

        return past

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_what_is_kept_is_at_hand_when_a_hold_begins() -> None:
    """Proxies in equal situation are told the very same snapshot; again when something is taken, and not else."""
    world = World()
    world.look(None, concerned=True)
    assert world.told == []
    world.hold(*PROXIES)
    world.look(world.kept, concerned=False)
    assert [proxy for proxy, _ in world.told] == list(PROXIES)
    assert world.told[0][1] is world.told[1][1]
    assert world.told[0][1].resources == world.kept.snapshot(PROXIES[0]).resources  # type: ignore[union-attr]
    world.look(world.fleet(), concerned=False)
    assert len(world.told) == len(PROXIES)
    world.deny()
    world.look(world.fleet(), concerned=True)
    assert [proxy for proxy, _ in world.told[2:]] == list(PROXIES)
    assert world.told[2][1].resources != world.told[0][1].resources
    world.held.clear()
    world.look(world.fleet(), concerned=True)
    assert len(world.told) == 2 * len(PROXIES)


async def test_after_a_restart_the_past_is_asked_once_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when it cannot answer now, and for who comes later."""
    monkeypatch.setattr("zone_cp.keeping.RETRY_SECONDS", 0)
    world = World()
    world.keeping.past = world.past(LogUnavailable("away"))
    world.deny()
    world.hold(PROXIES[0])
    world.look(None, concerned=False)
    world.look(None, concerned=True)
    await world.settle()
    assert [proxy for proxy, _ in world.told] == [PROXIES[0]]
    assert len(world.asked) == 2
    world.hold(PROXIES[1])
    world.look(None, concerned=False)
    await world.settle()
    assert [proxy for proxy, _ in world.told] == list(PROXIES)
    assert len(world.asked) == 3


async def test_what_cannot_be_known_is_not_asked_again() -> None:
    """The proxy keeps what it has; others are told."""
    world = World()
    world.keeping.past = world.past(NoSuchMoment("not here"))
    world.hold(PROXIES[0])
    for _ in range(3):
        world.look(None, concerned=True)
        await world.settle()
    assert (len(world.asked), world.told) == (1, [])
    world.hold(PROXIES[1], at=Position(1, 1))
    world.look(None, concerned=True)
    await world.settle()
    assert [proxy for proxy, _ in world.told] == [PROXIES[1]]


async def test_what_concerns_held_proxies() -> None:
    """A Secret or its key that changed, a service that is closed now, who may use what; not what comes or moves."""
    hub, zone = LogBuilder(), ZoneBuilder()
    sealed = Sealed(kid="k", nonce="bg==", ciphertext="Yw==", digest="1")
    verified = ExternalTls(enabled=True, verification=Verification(ca_cert=DataSource(secret="ca")))
    hub.append(applied(mesh()), applied(Secret(name="ca", sealed=sealed)), applied(mes("api", tls=verified)))
    zone.follow(hub)
    fleet = first_turn(zone.state, RedactedSecrets()).fleet

    def concerned(change: Change) -> bool:
        nonlocal fleet
        hub.append(change)
        zone.follow(hub)
        turn = next_turn(fleet, zone.state, RedactedSecrets())
        fleet = turn.fleet
        return concerns_held(turn)

    assert not concerned(applied(mes("other")))
    assert not concerned(applied(mes("other", endpoints=("203.0.113.9:80",))))
    assert concerned(applied(Secret(name="ca", sealed=msgspec.structs.replace(sealed, digest="2"))))
    assert concerned(DataKeyWrapped(kid="k", recipient="east", wrapped="dw=="))
    missing = ExternalTls(enabled=True, verification=Verification(ca_cert=DataSource(secret="nowhere")))
    assert concerned(applied(mes("other", tls=missing)))
    assert not concerned(applied(mes("other")))
    assert concerned(applied(mesh(forbid=True)))
