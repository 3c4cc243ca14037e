"""What a sidecar cannot listen at: who is told, who yields, and when it is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, cast

import pytest

from shared.events.event import ProxyConnected, ProxyDisconnected, VipsYielded
from shared.events.state import Position
from shared.model.resource import ResourceKey
from shared.nats.status import StatusStream
from shared.pb.agent_pb2 import ListenerLost
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from tests.ads.stream_pair import snapshot
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, mes, mesh
from zone_cp import addresses
from zone_cp.addresses import Addresses, Next
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.facts import Acked, Nacked
from zone_cp.ads.hub import Hub, Stream
from zone_cp.follow import Decided
from zone_cp.view.project import project
from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.snapshot import LISTENER, Snapshot

pytestmark = pytest.mark.anyio

A, B = "default.a", "default.b"
VIPS = ("outbound/242.0.0.1:80", "outbound/242.0.0.2:80")
OWN = "outbound/127.0.0.1:7000"
IN_USE = "Error adding/updating listener(s) x: cannot bind '242.0.0.1:80': Address already in use"


class Statuses:
    """What is written for global."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {"dp.default.east.old": b"{}"}

    async def keys(self) -> set[str]:
        return set(self.rows)

    async def put(self, key: str, data: bytes) -> None:
        self.rows[key] = data


class World:
    """Two sidecars at one address with a stream each, what they are offered, and what is said of them."""

    def __init__(self) -> None:
        self.zone = ZoneBuilder()
        log = LogBuilder()
        log.append(applied(mesh()), applied(mes("web")))
        self.zone.follow(log)
        self.hub, self.offered, self.statuses = Hub(), dict[str, Snapshot](), Statuses()
        self.addresses = Addresses(
            cast(Next, self),
            self.hub,
            cast(StatusStream, self.statuses),
            lambda: (self.zone.state, self.view),
            self.record,
        )
        self.streams = {name: self._stream(name) for name in (A, B)}
        self.nonces = 0

    @property
    def view(self) -> ZoneView:
        return project(self.zone.state)

    def _stream(self, proxy: str) -> Stream:
        name = proxy.partition(".")[2]
        key = ResourceKey("Dataplane", "default", name, "east")
        connected = ProxyConnected(
            proxy=proxy, key=key, connection="1", features=("bind-vips", "exclusive-ports"), system_ca_path=""
        )
        self.zone.write(applied(dataplane(name), "east"), connected)
        stream = Stream(cast(Any, None), proxy, "1", 1, xds=DeltaStream(), scope="")
        self.hub.attach(stream)
        stream.xds.receive(DeltaDiscoveryRequest(type_url=LISTENER))
        return stream

    def offer(self, proxy: str, found: Snapshot, leads_to: Snapshot | None = None) -> None:
        self.offered[proxy] = found
        self.hub.offer(proxy, found)

    def record(self, decided: Decided, _actor: str) -> None:
        """Recorded at once, and published."""
        changes = decided(self.zone.state)
        if changes:
            self.zone.write(*changes)
            self.addresses.advance(self.zone.state.position)

    def advance(self, position: Position) -> None:
        self.hub.advance(position)

    def leave(self, proxy: str, position: Position | None = None) -> None:
        self.hub.leave(proxy, position)

    def forget(self, proxy: str) -> None:
        self.offered.pop(proxy, None)

    def give(self, proxy: str, *names: str) -> None:
        """What is compiled for it."""
        self.addresses.offer(proxy, snapshot(1, LDS=names))

    def holds(self, proxy: str, *names: str) -> None:
        subscription = self.streams[proxy].xds.subscription(LISTENER)
        assert subscription is not None
        for name in names:
            one = snapshot(1, LDS=[name]).resources[LISTENER][name]
            subscription.held[name], subscription.known[name] = one, one.version

    def version(self, proxy: str, name: str) -> str:
        found: str = self.offered[proxy].resources[LISTENER][name].version
        return found

    def refuses(self, proxy: str, *names: str, message: str = IN_USE) -> bool:
        pairs = tuple((name, "1") for name in names)
        subscription = self.streams[proxy].xds.subscription(LISTENER)
        assert subscription is not None
        subscription.rejected.update(dict.fromkeys(pairs, message))
        return self.addresses.refused(proxy, Nacked(LISTENER, "1", Position(1, 1), message, names, pairs))

    def accepts(self, proxy: str, *names: str) -> None:
        self.addresses.accepted(proxy, Acked(LISTENER, "2", Position(1, 1), tuple((name, "1") for name in names), ()))

    def listeners(self, proxy: str) -> set[str]:
        return set(self.offered[proxy].resources[LISTENER])

    def rejected(self, proxy: str) -> set[str]:
        subscription = self.streams[proxy].xds.subscription(LISTENER)
        assert subscription is not None
        return {name for name, _ in subscription.rejected}

    def recorded(self) -> list[VipsYielded]:
        return [one.change for one in self.zone.own.events if isinstance(one.change, VipsYielded)]

    def said(self, name: str) -> str:
        found = self.addresses.conditions(ResourceKey("Dataplane", "default", name, "east"))
        return " ".join(f"{one.type}={one.status} {one.reason}: {one.message}" for one in found)

    async def turn(self, until: Awaitable[object] | None = None) -> None:
        """Let it run until it has done what there is to do, or as long as something takes."""
        running = asyncio.create_task(self.addresses.run())
        await (until or asyncio.sleep(0.01))
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def world() -> World:
    made = World()
    for proxy in (A, B):
        made.give(proxy, *VIPS, OWN)
    return made


async def test_it_says_who_has_it(world: World) -> None:
    """Envoy's words, the addresses, and the sidecar of the same address that holds them; told to global, too."""
    world.holds(A, *VIPS)
    assert world.refuses(B, VIPS[0])
    (first,) = world.addresses.conditions(ResourceKey("Dataplane", "default", "b", "east"))
    assert world.refuses(B, VIPS[0])
    assert world.addresses.conditions(ResourceKey("Dataplane", "default", "b", "east")) == (first,)  # no news
    await world.turn()
    said = world.said("b")
    assert said.startswith("Listening=False AddressTaken: proxy default.a listens at 242.0.0.1:80, and what")
    assert "it is given no VIP" in said
    assert "Address already in use" in said
    assert world.said("a") == ""
    assert b'"reason":"AddressTaken"' in world.statuses.rows["dp.default.east.b"]
    assert world.statuses.rows["dp.default.east.old"] == b""  # of an earlier life
    world.addresses.gone(B)
    await world.turn()
    assert world.statuses.rows["dp.default.east.b"] == b""


async def test_who_yields_has_no_vips(world: World) -> None:
    """None of them, new ones neither; its own outbounds stay. Once the other is gone it has all of them again."""
    world.holds(A, *VIPS)
    world.refuses(B, VIPS[0])
    await world.turn()
    assert world.listeners(B) == {OWN}
    world.give(B, *VIPS, "outbound/242.0.0.3:80", OWN)
    assert world.listeners(B) == {OWN}
    world.zone.write(ProxyDisconnected(proxy=A, connection="1", reason="lost"))
    await world.turn()
    assert world.listeners(B) == {*VIPS, "outbound/242.0.0.3:80", OWN}
    assert VIPS[0] not in world.rejected(B)  # to be sent again
    world.accepts(B, VIPS[0])
    assert world.said("b") == ""


async def test_who_gets_what_it_yields_after_all_has_all_again(world: World) -> None:
    """An ACK that was on its way when its VIPs were taken back."""
    world.holds(A, *VIPS)
    world.refuses(B, VIPS[0])
    await world.turn()
    world.accepts(B, VIPS[0])
    await world.turn()
    assert (world.listeners(B), world.said("b")) == ({*VIPS, OWN}, "")


async def test_who_comes_back_is_tried_anew(world: World) -> None:
    """What a proxy without a stream yielded is there for it when it is back, though nothing else has changed."""
    world.holds(A, *VIPS)
    world.refuses(B, VIPS[0])
    await world.turn()
    world.addresses.gone(B)
    assert world.listeners(B) == {*VIPS, OWN}


async def test_of_two_that_share_one_yields(world: World) -> None:
    """Each was first at one of the VIPs: the later name gives up its own, and the other is tried again."""
    world.holds(A, VIPS[0])
    world.holds(B, VIPS[1])
    world.refuses(A, VIPS[1])
    world.refuses(B, VIPS[0])
    await world.turn()
    assert (world.listeners(A), world.listeners(B)) == ({*VIPS, OWN}, {OWN})


async def test_another_process_leaves_the_rest_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no sidecar of the zone holds is taken by somebody else: nothing is taken away, one is tried at a time."""
    monkeypatch.setattr(addresses, "TRY_SECONDS", 0.02)
    rung = asyncio.Event()
    world.streams[B].ring = rung.set
    world.refuses(B, *VIPS, OWN)
    await world.turn(rung.wait())
    assert world.listeners(B) == {*VIPS, OWN}
    assert len(world.rejected(B)) == 2
    assert "another process of its host listens at 127.0.0.1:7000, 242.0.0.1:80, 242.0.0.2:80, and" in world.said("b")
    world.accepts(B, VIPS[0])
    assert world.rejected(B) == set()  # all at once, as soon as one is to be had


async def test_what_is_not_declared_any_more_is_not_taken(world: World) -> None:
    """The condition goes with the listener."""
    world.refuses(B, VIPS[0])
    world.give(B, OWN)
    await world.turn()
    assert world.said("b") == ""


async def test_other_reasons_of_the_host(world: World) -> None:
    """A port that the process may not listen at is nobody else's."""
    assert world.refuses(B, OWN, message="cannot bind '127.0.0.1:80': Permission denied")
    said = "Listening=False CannotListen: it cannot listen at 127.0.0.1:7000 as it should, on its host. Envoy says: "
    assert world.said("b").startswith(said + "cannot bind '127.0.0.1:80': Permission denied; ports below 1024")
    assert world.refuses(B, OWN, message="unable to open file '/nope/x': No such file or directory\n")
    assert world.said("b") == said + "unable to open file '/nope/x': No such file or directory"
    assert not world.refuses(B, OWN, message="no such filter")


@pytest.mark.parametrize("acked_first", [True, False])
async def test_what_envoy_drops_is_refused(world: World, *, acked_first: bool) -> None:
    """Two that bind at once: the later one's agent says so, before or after its ACK has come."""
    subscription = world.streams[B].xds.subscription(LISTENER)
    assert subscription is not None
    lost = ListenerLost(name=VIPS[0], reason="cannot listen() errno=98")
    if acked_first:
        world.holds(B, VIPS[0])
        world.addresses.lost(B, lost)
    else:
        subscription.known[VIPS[0]] = "1"
        world.addresses.lost(B, lost)
        assert world.said("b") == ""
        world.holds(B, VIPS[0])
        world.accepts(B, VIPS[0])
    assert "errno=98" in world.said("b")
    assert VIPS[0] in world.rejected(B)
    assert VIPS[0] not in subscription.held


async def test_a_proxy_that_is_another_now(world: World) -> None:
    """Nothing that was made for the one before is offered to it."""
    world.holds(A, *VIPS)
    world.refuses(B, VIPS[0])
    await world.turn()
    world.addresses.forget(B)
    assert B not in world.offered
    assert world.said("b") == ""
    world.zone.write(ProxyDisconnected(proxy=A, connection="1", reason="lost"))
    await world.turn()
    assert B not in world.offered


async def test_a_redirect_listener_is_no_vip(world: World) -> None:
    """It has no address of its own in its name: who cannot listen there is told so, and the zone goes on."""
    world.give(A, "outbound/redirect")
    world.refuses(A, "outbound/redirect")
    await world.turn()
    assert "AddressTaken" in world.said("a")
    assert world.listeners(A) == {"outbound/redirect"}


async def test_who_yields_is_in_the_log(world: World) -> None:
    """From when to when, and to whom: what is offered is offered of a moment of which the log says so."""
    world.holds(A, *VIPS)
    world.refuses(B, VIPS[0])
    await world.turn()
    assert world.recorded() == [VipsYielded(proxy=B, to=A)]
    assert world.zone.state.own.yields[B].to == A
    assert world.offered[B].position == world.zone.state.position
    world.zone.write(ProxyDisconnected(proxy=A, connection="1", reason="lost"))
    await world.turn()
    assert world.recorded() == [VipsYielded(proxy=B, to=A), VipsYielded(proxy=B, to="")]
    assert not world.zone.state.own.yields
    assert world.offered[B].position == world.zone.state.position


async def test_who_yields_and_goes_yields_no_more(world: World) -> None:
    """When it is back, on another host perhaps, it is given what there is."""
    world.holds(A, *VIPS)
    world.refuses(B, VIPS[0])
    await world.turn()
    world.addresses.gone(B)
    assert world.recorded()[-1] == VipsYielded(proxy=B, to="")
    assert world.listeners(B) == {*VIPS, OWN}


async def test_a_life_begins_with_nobody_yielding(world: World) -> None:
    """Who yielded when the control plane ended is given VIPs, and is refused them anew where it still is so."""
    world.zone.write(VipsYielded(proxy=B, to=A))
    world.give(B, *VIPS, OWN)
    assert world.listeners(B) == {OWN}
    await world.turn()
    assert world.listeners(B) == {*VIPS, OWN}


async def test_what_is_not_up_to_date_is_not_made_to_look_so(world: World) -> None:
    """A proxy that waits for its zone egress is offered what it yields with what it waits for, not before."""
    world.holds(A, *VIPS)
    world.addresses.leave(B)
    world.refuses(B, VIPS[0])
    await world.turn()
    assert world.zone.state.own.yields
    assert world.listeners(B) == {*VIPS, OWN}
    world.give(B, *VIPS, OWN)
    assert world.listeners(B) == {OWN}
