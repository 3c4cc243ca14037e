"""Publishing: names only behind what egresses hold, every proxy its newest snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from immutables import Map

from shared.events.event import ProxyConnected, ProxyDisconnected, ResourceApplied, ResourceDeleted
from shared.events.fold import fold
from shared.events.state import Position, ZoneState
from shared.model.resource import Dataplane, ZoneEgress, key_of
from tests.builders import (
    LogBuilder,
    ZoneBuilder,
    applied,
    dataplane,
    deleted,
    egress,
    generator,
    mes,
    mesh,
    resource,
    service_key,
)
from tests.xds.views import services_of
from tests.zone_cp.judged import lets_in
from zone_cp import grace, order
from zone_cp.ads.names import DnsTable
from zone_cp.gate import PENDING_LIMIT, NameGate, Tables
from zone_cp.identity.svid import Svid
from zone_cp.publish import EgressWatch, Publisher
from zone_cp.view.names import NO_NAMES, whole
from zone_cp.view.project import project
from zone_cp.view.zone_view import ProxyView, TlsMaterial, ZoneView
from zone_cp.xds.compile import compile_whole
from zone_cp.xds.fleet import Fleet, Turn, next_turn
from zone_cp.xds.parts import Compiled
from zone_cp.xds.secrets import MaterialMissing
from zone_cp.xds.snapshot import EXTENSION_CONFIG, LISTENER, Snapshot

EGRESS, SIDECAR = ".egress-1", "default.web-1"


def at(g: int) -> Position:
    return Position(g, 0)


def table(**names: str) -> Tables:
    return Map({"default": whole({f"{name}.ext.local": ip for name, ip in names.items()})})


def names(tables: Tables) -> dict[str, str]:
    return {name.removesuffix(".ext.local"): ip for name, ip in tables.get("default", NO_NAMES).table.items()}


# --- the gate ---------------------------------------------------------------------------------------------------


def test_a_name_waits_for_every_egress() -> None:
    """It is answered once the last of them has ACKed the position that brought it, or a later one."""
    gate = NameGate()
    assert names(gate.want(at(1), table(a="1"), ["x", "y"])) == {}
    assert names(gate.acked("x", at(1))) == {}
    assert names(gate.acked("y", at(0))) == {}
    assert names(gate.acked("y", at(2))) == {"a": "1"}


def test_without_an_egress_nothing_waits() -> None:
    """No egress online: names are answered, and what they lead to says why it is closed."""
    assert names(NameGate().want(at(1), table(a="1"), [])) == {"a": "1"}


def test_removal_comes_first() -> None:
    """A name that goes is gone at once, ACKed or not, while a new one waits."""
    gate = NameGate()
    gate.want(at(1), table(a="1", b="2"), [])
    assert names(gate.want(at(2), table(b="2", c="3"), ["x"])) == {"b": "2"}
    assert names(gate.acked("x", at(2))) == {"b": "2", "c": "3"}


def test_a_name_that_moves_goes_before_it_comes_back() -> None:
    """With another VIP behind it, it is answered by neither until the egresses hold the new one."""
    gate = NameGate()
    gate.want(at(1), table(a="1"), [])
    assert names(gate.want(at(2), table(a="9"), ["x"])) == {}
    assert names(gate.acked("x", at(2))) == {"a": "9"}


def test_a_name_that_came_and_went_is_never_answered() -> None:
    """An ACK of the moment that brought it does not bring back what a later moment took away."""
    gate = NameGate()
    gate.want(at(1), table(a="1"), ["x"])
    gate.want(at(2), table(), ["x"])
    assert names(gate.acked("x", at(1))) == {}
    assert names(gate.acked("x", at(2))) == {}


def test_nobody_waits_for_an_egress_that_left() -> None:
    """Going offline, it frees what only it had not ACKed."""
    gate = NameGate()
    gate.want(at(1), table(a="1"), ["x", "y"])
    gate.acked("y", at(1))
    assert names(gate.want(at(2), table(a="1"), ["y"])) == {"a": "1"}


def test_what_an_egress_refuses_gets_no_new_name() -> None:
    """A NACKed cluster holds back its name only; a name that was answered before stays."""
    gate = NameGate()
    gate.want(at(1), table(old="1"), ["x"])
    gate.acked("x", at(1))
    gate.want(at(2), table(old="1", new="2", good="3"), ["x"])
    gate.refuse(frozenset({"1", "2"}))
    assert names(gate.acked("x", at(2))) == {"old": "1", "good": "3"}
    assert names(gate.refuse(frozenset())) == {"old": "1", "new": "2", "good": "3"}


def test_more_waits_than_the_limit_wait_together() -> None:
    """An egress that never ACKs costs a bounded number of tables, and the newest is among them."""
    gate = NameGate()
    for g in range(1, 3 * PENDING_LIMIT):
        assert names(gate.want(at(g), table(a="1", **{f"n{g}": "2"}), ["x"])) == {}
    assert names(gate.acked("x", at(3 * PENDING_LIMIT))) == {"a": "1", f"n{3 * PENDING_LIMIT - 1}": "2"}


# --- the watch --------------------------------------------------------------------------------------------------


class Delivery:
    """What the publisher needs of the ADS server, with ACKs by hand."""

    def __init__(self) -> None:
        self.snapshots: dict[str, Snapshot] = {}
        self.tables: dict[str, DnsTable] = {}
        self.position: Position | None = None
        self.left: list[str] = []
        self._held: dict[str, Position] = {}
        self._changed = asyncio.Condition()
        self._offered = asyncio.Event()

    def offer(self, proxy: str, snapshot: Snapshot, leads_to: Snapshot | None = None) -> None:
        self.snapshots[proxy] = snapshot
        self._offered.set()

    async def offered(self, proxy: str, wanted: Callable[[Snapshot], bool]) -> None:
        """Wait until the proxy is offered what is wanted."""
        async with asyncio.timeout(5):
            while not wanted(self.snapshots[proxy]):
                self._offered.clear()
                await self._offered.wait()

    def advance(self, position: Position) -> None:
        self.position = position

    def leave(self, proxy: str, position: Position | None = None) -> None:
        self.left.append(proxy)

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        self.tables[proxy] = table

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> object:
        async with asyncio.timeout(timeout_seconds), self._changed:
            await self._changed.wait_for(lambda: self._held.get(proxy, Position(-1, -1)) >= position)
        return None

    async def ack(self, proxy: str, position: Position) -> None:
        async with self._changed:
            self._held[proxy] = position
            self._changed.notify_all()
        for _ in range(10):
            await asyncio.sleep(0)


def view(g: int) -> ZoneView:
    hub = LogBuilder()
    hub.append(*(applied(mesh(f"m-{n}")) for n in range(g)))
    zone = ZoneBuilder()
    zone.follow(hub)
    return project(zone.state)


@pytest.mark.anyio
async def test_the_watch_tells_who_holds_the_newest_view() -> None:
    """Each ACK is told with those that are still waited for; views in between are passed over."""
    delivery = Delivery()
    told: list[tuple[str, int, tuple[str, ...]]] = []
    watch = EgressWatch(delivery, lambda proxy, seen, waiting: told.append((proxy, seen.position.g, waiting)))
    one, three = view(1), view(3)
    watch.expect(one, ["x", "y"])
    await delivery.ack("x", one.position)
    watch.expect(view(2), ["x", "y"])
    watch.expect(three, ["x", "y"])
    await delivery.ack("y", three.position)
    await delivery.ack("x", three.position)
    assert told[0] == ("x", 1, ("y",))
    assert {g for _, g, _ in told} == {1, 3}
    assert told[-1] == ("x", 3, ())
    watch.expect(three, [])


@pytest.mark.anyio
async def test_an_egress_that_left_is_not_watched() -> None:
    """Its ACKs mean nothing until it is expected again, and then it is asked anew."""
    delivery = Delivery()
    told: list[tuple[str, tuple[str, ...]]] = []
    watch = EgressWatch(delivery, lambda proxy, _view, waiting: told.append((proxy, waiting)))
    one = view(1)
    watch.expect(one, ["x", "y"])
    watch.expect(one, ["y"])
    await delivery.ack("x", one.position)
    await delivery.ack("y", one.position)
    assert told == [("y", ())]
    watch.expect(one, ["x", "y"])
    await delivery.ack("x", one.position)
    assert told == [("y", ()), ("x", ())]
    watch.expect(one, [])


@pytest.mark.anyio
async def test_a_wait_that_takes_long_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ACK that comes after several waits is told like any other."""
    monkeypatch.setattr("zone_cp.publish.ACK_SECONDS", 0.001)
    delivery, told = Delivery(), asyncio.Event()
    watch = EgressWatch(delivery, lambda _proxy, _view, _waiting: told.set())
    one = view(1)
    watch.expect(one, ["x"])
    await asyncio.sleep(0.02)
    await delivery.ack("x", one.position)
    await asyncio.wait_for(told.wait(), 5)
    watch.expect(one, [])


# --- the publisher ----------------------------------------------------------------------------------------------


class NoSecrets:
    """A zone without any key."""

    def text(self, material: TlsMaterial) -> bytes:
        raise MaterialMissing(material.name)

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        raise MaterialMissing(mesh)

    def trust_bundle(self, mesh: str) -> str:
        raise MaterialMissing(mesh)


class World:
    """A zone with a sidecar and an egress, and a publisher of it."""

    def __init__(self) -> None:
        self.hub = LogBuilder()
        self.hub.append(applied(mesh()), applied(generator()))
        self.zone = ZoneBuilder()
        self.zone.follow(self.hub)
        self.connect(SIDECAR, dataplane())
        self.connect(EGRESS, egress())
        self.delivery = Delivery()
        self.published: list[tuple[ZoneState, tuple[str, ...]]] = []
        self.publisher = Publisher(NoSecrets(), self.delivery, lambda _view: (), self._published, compare=True)

    def _published(self, turn: Turn) -> None:
        self.published.append((turn.fleet.state, tuple(turn.fleet.egresses())))

    def connect(self, proxy: str, resource: Dataplane | ZoneEgress) -> None:
        self.zone.apply(resource)
        self.zone.write(ProxyConnected(proxy=proxy, key=key_of(resource, "east"), connection="c/1"))

    def declare(self, *services: str) -> None:
        self.hub.append(*(applied(mes(name)) for name in services))
        self.zone.follow(self.hub)

    async def publish(self) -> None:
        """Let the publisher's task take what there is."""
        task = asyncio.create_task(self.publisher.run())
        self.publisher.changed(self.zone.state)
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()

    def names(self) -> set[str]:
        return {name.split(".")[0] for name in self.delivery.tables[SIDECAR].names}


@pytest.mark.anyio
async def test_snapshots_at_once_names_after_the_ack() -> None:
    """Proxies are offered the new state; the sidecar's DNS follows when the egress has ACKed."""
    world = World()
    world.declare("a")
    await world.publish()
    assert {proxy: one.position for proxy, one in world.delivery.snapshots.items()} == dict.fromkeys(
        (SIDECAR, EGRESS), world.zone.state.position
    )
    assert SIDECAR not in world.delivery.tables
    world.publisher.acked(EGRESS, world.zone.state.position)
    assert world.names() == {"a"}
    assert world.published[-1] == (world.zone.state, (EGRESS,))


def listeners(snapshot: Snapshot) -> int:
    return len([name for name in snapshot.resources[LISTENER] if name.startswith("outbound/")])


@pytest.mark.anyio
async def test_a_sidecars_listener_waits_for_the_egress() -> None:
    """A sidecar without redirect: a new listener after the egress's ACK; one that goes at once, its cluster later."""
    world = World()
    world.declare("a")
    await world.publish()
    first = world.delivery.snapshots[SIDECAR]
    world.declare("b")
    await world.publish()
    assert (world.delivery.snapshots[SIDECAR], world.delivery.left) == (first, [SIDECAR])
    assert len(services_of(world.delivery.snapshots[EGRESS])) == 2
    world.publisher.acked(EGRESS, world.zone.state.position)
    assert listeners(world.delivery.snapshots[SIDECAR]) == listeners(first) + 1
    world.hub.append(ResourceDeleted(key=key_of(mes("a"))))
    world.zone.follow(world.hub)
    await world.publish()
    assert listeners(world.delivery.snapshots[SIDECAR]) == listeners(first)
    assert len(services_of(world.delivery.snapshots[EGRESS])) == 2


@pytest.mark.anyio
async def test_an_egress_that_says_nothing_delays_a_listener_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded time the sidecar is told in any case, and the egress drops what it kept."""
    monkeypatch.setattr(order, "EGRESS_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(grace, "GRACE_SECONDS", 0.02)
    world = World()
    world.declare("a")
    await world.publish()
    first = world.delivery.snapshots[SIDECAR]
    world.hub.append(ResourceDeleted(key=key_of(mes("a"))), applied(mes("b")))
    world.zone.follow(world.hub)
    await world.publish()
    await world.delivery.offered(SIDECAR, lambda one: one is not first)
    await world.delivery.offered(EGRESS, lambda one: len(services_of(one)) == 1)


WEB, JOB = "spiffe://default/web", "spiffe://default/job"


def led(snapshot: Snapshot, cluster: str) -> set[str]:
    """Who of two workloads an egress leads to a service."""
    filter_ = snapshot.resources[EXTENSION_CONFIG]["access/http/default"]
    return {who for who in (WEB, JOB) if cluster in services_of(snapshot) and lets_in(filter_.body, cluster, who)}


def guard(name: str, *allowed: str) -> ResourceApplied:
    allow = [{"spiffeID": {"type": "Exact", "value": one}} for one in allowed]
    spec = {"targetRef": {"kind": "Mesh"}, "rules": [{"default": {"allow": allow}}]}
    return applied(resource(type="MeshTrafficPermission", name=name, mesh="default", spec=spec))


@pytest.mark.anyio
async def test_what_is_guarded_and_goes_is_kept_with_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """For whom it was, and no longer for who loses it meanwhile; lifting the guard opens it to nobody."""
    world = World()
    world.hub.append(guard("g", WEB))
    world.declare("a", "b")
    await world.publish()
    (a, b) = (world.zone.vip(service_key(one)) for one in "ab")
    was = world.delivery.snapshots[EGRESS]
    gone, stays = (next(name for name in services_of(was) if f"v{ip}." in name) for ip in (a, b))
    assert (led(was, gone), led(was, stays)) == ({WEB}, {WEB})
    world.hub.append(ResourceDeleted(key=key_of(mes("a"))), deleted(guard("g").resource))
    world.zone.follow(world.hub)
    await world.publish()
    now = world.delivery.snapshots[EGRESS]
    assert (led(now, gone), led(now, stays)) == ({WEB}, {WEB, JOB})
    world.hub.append(guard("g", JOB))
    world.zone.follow(world.hub)
    await world.publish()
    now = world.delivery.snapshots[EGRESS]
    assert (led(now, gone), led(now, stays)) == (set(), {JOB})
    monkeypatch.setattr(grace, "GRACE_SECONDS", 0.02)
    world.hub.append(ResourceDeleted(key=key_of(mes("b"))))
    world.zone.follow(world.hub)
    await world.publish()
    await world.delivery.offered(EGRESS, lambda one: stays not in services_of(one))


@pytest.mark.anyio
async def test_who_gains_a_service_gains_it_as_it_is_then() -> None:
    """One turn lets another workload in and moves the service: until the egress has the new cluster, it is let in
    nowhere.
    """
    world = World()
    world.hub.append(guard("g", WEB))
    world.declare("a")
    await world.publish()
    (name,) = services_of(world.delivery.snapshots[EGRESS])
    world.publisher.acked(EGRESS, world.zone.state.position)
    world.hub.append(guard("g", WEB, JOB), applied(mes("a", endpoints=("203.0.113.9:80",))))
    world.zone.follow(world.hub)
    await world.publish()
    assert led(world.delivery.snapshots[EGRESS], name) == {WEB}
    world.publisher.acked(EGRESS, world.zone.state.position)
    assert led(world.delivery.snapshots[EGRESS], name) == {WEB, JOB}


@pytest.mark.anyio
async def test_a_burst_is_compiled_once() -> None:
    """The task takes the newest state, whatever came before it."""
    world = World()
    for number in range(20):
        world.declare(f"s-{number}")
        world.publisher.changed(world.zone.state)
    await world.publish()
    assert len(world.published) == 1


@pytest.mark.anyio
async def test_proxies_that_are_gone_are_offered_nothing() -> None:
    """An egress that went offline is no longer waited for."""
    world = World()
    world.zone.write(ProxyDisconnected(proxy=EGRESS, connection="c/1"))
    world.declare("a")
    await world.publish()
    assert set(world.delivery.snapshots) == {SIDECAR}
    assert world.names() == {"a"}


@pytest.mark.anyio
async def test_one_proxy_that_cannot_be_compiled_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are served (decision 28)."""
    world = World()

    def compiled(seen: ZoneView, situation: ProxyView, secrets: NoSecrets, only: Any = None) -> Compiled:
        if isinstance(situation.resource, Dataplane):
            raise RuntimeError("broken")
        return compile_whole(seen, situation, secrets, only)

    monkeypatch.setattr("zone_cp.xds.fleet.compile_whole", compiled)
    await world.publish()
    assert set(world.delivery.snapshots) == {EGRESS}
    assert len(world.published) == 1


@pytest.mark.anyio
async def test_a_refused_cluster_gets_no_name_until_it_is_accepted() -> None:
    """The sidecar's DNS leaves out the one service that the egress refuses."""
    world = World()
    world.declare("good", "bad")
    await world.publish()
    assert world.publisher.view is not None
    services = world.publisher.view.meshes["default"].services.values()
    cluster = next(one.cluster for one in services if one.key.name == "bad")
    world.publisher.refuse({cluster})
    world.publisher.acked(EGRESS, world.zone.state.position)
    assert world.names() == {"good"}
    world.publisher.refuse(())
    assert world.names() == {"good", "bad"}


@pytest.mark.anyio
async def test_a_turn_made_ahead_is_offered_when_its_state_comes_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not before; a state that does not come about leaves nothing behind (the comparison is on)."""
    world = World()
    world.declare("a", "b")
    await world.publish()
    offered = dict(world.delivery.snapshots)
    fleet_turns: list[ZoneState] = []

    def counted(fleet: Fleet, state: ZoneState, *rest: Any, **named: Any) -> Turn:
        fleet_turns.append(state)
        return next_turn(fleet, state, *rest, **named)

    monkeypatch.setattr("zone_cp.publish.next_turn", counted)
    (event,) = world.hub.append(applied(mes("a", endpoints=("203.0.113.9:1",))))
    void = msgspec.structs.replace(world.zone.state, hub=fold(world.zone.hub, event))
    world.publisher.look_ahead(void, (event,))
    assert world.delivery.snapshots == offered
    world.zone.follow(world.hub)
    await world.publish()
    assert fleet_turns == [void, world.zone.state]
    (event,) = world.hub.append(applied(mes("b", endpoints=("203.0.113.9:2",))))
    world.zone.follow(world.hub)
    coming = world.zone.state
    world.publisher.look_ahead(coming, (event,))
    task = asyncio.create_task(world.publisher.run())
    world.publisher.changed(coming, (event,))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    assert len(fleet_turns) == 3
    assert world.delivery.snapshots[EGRESS].position == coming.position
