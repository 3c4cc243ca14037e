"""Access that is taken away: who loses a service loses the connections it has open, and nobody else loses any.

And access that is not there: for who is denied nothing is dialled, and nothing is heard of what a server says first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from immutables import Map

from shared.events.event import ProxyConnected, ResourceDeleted
from shared.model.resource import ResourceKey, key_of
from tests.conftest import take_port
from tests.e2e.governed import DATAPLANE, Held, service
from tests.e2e.test_policies import EVERYBODY, WEB, permission
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually
from tests.xds.loopback import DIRECT, MESH, ZONE, LoopbackZone, read
from tests.xds.servers import Servers
from zone_cp.view.project import proxy_view
from zone_cp.view.zone_view import ProxyView

pytestmark = pytest.mark.e2e

SERVICES = ("lines", "quiet", "slow")
GREETING = b"220 at your service\n"
"""What `mail` says to everybody who connects, before they say anything."""
BOUND_SECONDS = 10
"""More than the Envoys' drain time of one second; in production it is five."""
HANGS_SECONDS = 60
"""A health check that comes to nothing for longer than a test takes."""
JOB = ("Exact", "spiffe://default/job")
FORBIDDING = "\nrouting: {defaultForbidMeshExternalServiceAccess: true}\n"


class Two(LoopbackZone):
    """A zone with a second sidecar, of the workload `job`, which reaches services at explicit outbounds.

    leads_to: what an outbound to a service says. own: ports of such outbounds of the first sidecar, by service.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        mesh: str,
        *,
        on_demand: bool,
        leads_to: Callable[[str], dict[str, Any]],
        own: Mapping[str, int] = Map(),
    ) -> None:
        self.port, self.outbounds = take_port(), {one: take_port() for one in (*SERVICES, "mail", "chat")}

        def dataplane(port: int, outbounds: Mapping[str, int]) -> str:
            refs = [{"address": "127.0.0.1", "port": at, **leads_to(one)} for one, at in outbounds.items()]
            return DATAPLANE.format(inbound=take_port(), port=port) + f"  outbound: {json.dumps(refs)}\n"

        super().__init__(directory, dataplane(self.port, own), name=name, mesh=mesh, on_demand=on_demand)
        text = dataplane(take_port(), self.outbounds)
        text = text.replace("name: sidecar", "name: second").replace("service: web", "service: job")
        self.apply(text, origin=ZONE)
        key = key_of(read(text)[0], ZONE)
        self.zone.write(ProxyConnected("default.second", key, "second", self.features, ""))
        port = take_port()
        self.ads[f"{name}-second"] = DeltaServer(port)
        self.envoys[f"{name}-second"] = Envoy(directory, f"{name}-second", take_port(), port)

    def proxies(self) -> tuple[ProxyView, ...]:
        second = proxy_view(self.zone.state, "default.second")
        return (*super().proxies(), *((second,) if second is not None else ()))


class World:
    """The services `lines`, `quiet`, `mail` (tcp) and `slow` (http), used by the workloads `web` and `job`."""

    def __init__(self, directory: Path, servers: Servers, name: str, mesh: str) -> None:
        self.mesh, self.opened = mesh, ExitStack()
        self.dials = f"{name}-{'egress' if mesh == MESH else 'sidecar'}"
        self.zone = self.made(directory, name)
        self.servers = {one: servers.add(one) for one in self.zone.outbounds}
        self.servers["mail"].greeting = GREETING
        with ExitStack() as failing:
            failing.callback(self.zone.stop)
            self.change(*(self.declared(one, server.port) for one, server in self.servers.items()))
            self.begins()
            failing.pop_all()

    def made(self, directory: Path, name: str) -> Two:
        """The zone, not yet with services."""

        def leads_to(one: str) -> dict[str, Any]:
            return {"backendRef": {"kind": "MeshExternalService", "name": one}}

        return Two(directory, name, self.mesh, on_demand=name == "on-demand", leads_to=leads_to)

    def declared(self, name: str, port: int) -> str:
        """A service whose server listens at port."""
        return service(name, self.zone.port, port)

    def place(self, who: str, name: str) -> tuple[str, int]:
        """Where a workload connects to."""
        if who == "web":
            return self.zone.service(name).vip, self.zone.port
        return "127.0.0.1", self.zone.outbounds[name]

    def begins(self) -> None:
        """Wait until both workloads are answered by everything that is open to all."""
        for who in ("web", "job"):
            eventually(lambda who=who: all(self.works(who, one) for one in SERVICES), f"answers for {who}")  # type: ignore[misc]

    def change(self, *texts: str) -> None:
        """Apply, and wait until every Envoy has answered for it."""
        self.zone.apply(*texts)
        self.zone.show()
        self.zone.answered()

    def undo(self) -> None:
        """The mesh as it was, without permissions."""
        for kind in ("MeshTrafficPermission", "TrafficPermission"):
            for key in self.zone.hub.state.kinds.get(kind, Map()):
                self.zone.hub.append(ResourceDeleted(key=key))
        self.change(self.mesh)

    def open(self, who: str, name: str) -> Held:
        """A connection of a workload that stays open until the test ends."""
        held = Held(*self.place(who, name))
        self.opened.callback(held.close)
        return held

    def works(self, who: str, name: str) -> bool:
        """Whether a new connection does."""
        try:
            return answers(self.open(who, name), name)
        except OSError:
            return False

    def leads(self, who: str, name: str) -> str:
        """Which server answers on a new connection, which then stays open; "" when it is closed."""
        try:
            held = self.open(who, name)
            return held.server(greeted=name == "mail")
        except OSError:
            return ""

    def hears(self, who: str) -> bytes:
        """What `mail` says to a workload before it says anything; b"" when its connection is closed."""
        try:
            return self.open(who, "mail").heard()
        except OSError:
            return b""

    def replaced(self) -> dict[str, str]:
        """How often each Envoy has replaced chains of a listener."""
        return {name: envoy.admin("/stats?filter=in_place_updated") for name, envoy in self.zone.envoys.items()}


W = TypeVar("W", bound=World)


def answers(held: Held, name: str) -> bool:
    return held.get() == 200 if name == "slow" else held.talk()


def living(world: W) -> Iterator[W]:
    """A world for a module's tests; no Envoy of it may refuse anything."""
    try:
        yield world
    finally:
        world.zone.stop()
    assert world.zone.nacks() == []


def as_it_was(world: W) -> Iterator[W]:
    """The world for one test, after which everybody may use everything again."""
    with world.opened:
        yield world
        world.undo()
        world.begins()


@pytest.fixture(scope="module", params=["egress", "on-demand", "sidecar"])
def placed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    """TLS at the zone egress, at one that loads its clusters when they are first used, and in direct mode."""
    with Servers() as servers:
        mesh = DIRECT if request.param == "sidecar" else MESH
        yield from living(World(tmp_path_factory.mktemp(request.param), servers, request.param, mesh))


@pytest.fixture
def world(placed: World) -> Iterator[World]:
    yield from as_it_was(placed)


@pytest.mark.parametrize(("who", "other"), [("web", "job"), ("job", "web")])
def test_who_is_denied_loses_the_connections_that_are_open(world: World, who: str, other: str) -> None:
    """They are closed within the proxy's drain time; another workload's stay, and so does everybody's HTTP."""
    lost, http = world.open(who, "lines"), world.open(who, "slow")
    kept = {one: world.open(other, one) for one in SERVICES}
    assert answers(lost, "lines")
    assert answers(http, "slow")
    assert all(answers(held, one) for one, held in kept.items())
    denied = ("Exact", f"spiffe://default/{who}")
    world.change(permission("a", "lines", allow=[EVERYBODY], deny=[denied]))
    assert lost.closed_within(BOUND_SECONDS)
    eventually(lambda: not world.works(who, "lines"), "new connections to be refused")
    assert all(answers(held, one) for one, held in kept.items())
    assert answers(http, "slow")
    assert world.works(who, "quiet")


def test_who_gains_loses_nothing(world: World) -> None:
    """A permission that is lifted, widened or given closes no connection; through the egress it replaces no chain."""
    world.change(permission("a", "lines", allow=[WEB], deny=[JOB]))
    eventually(lambda: not world.works("job", "lines"), "a refusal")
    kept = {(who, one): world.open(who, one) for who in ("web", "job") for one in ("quiet", "slow")}
    kept["web", "lines"] = world.open("web", "lines")
    assert all(answers(held, one) for (_, one), held in kept.items())
    before = world.replaced()
    world.change(permission("a", "lines", allow=[WEB, JOB]))
    eventually(lambda: world.works("job", "lines"), "a permission")
    world.change(permission("b", "lines", allow=[EVERYBODY]))
    world.undo()
    world.change(service("more", world.zone.port, 1))
    if not world.zone.on_demand:
        more = world.zone.service("more").cluster
        eventually(lambda: more in world.zone.envoys[world.dials].admin("/clusters"), "it")
    if world.mesh == MESH and not world.zone.on_demand:
        assert world.replaced() == before
    assert not kept["web", "lines"].closed_within(2)  # longer than the drain time
    assert all(answers(held, one) for (_, one), held in kept.items())


def test_what_the_mesh_forbids_is_closed_too(world: World) -> None:
    """defaultForbidMeshExternalServiceAccess: open TCP connections are closed; a request on an open one gets 403."""
    lost = [world.open(who, "quiet") for who in ("web", "job")]
    http = [world.open(who, "slow") for who in ("web", "job")]
    assert all(answers(held, "quiet") for held in lost)
    assert all(answers(held, "slow") for held in http)
    world.change(world.mesh.rstrip() + FORBIDDING)
    for held in reversed(http):  # that of `job` is closed in a moment
        eventually(lambda held=held: held.get() == 403, "a refusal on the connection that is open")  # type: ignore[misc]
    assert all(held.closed_within(BOUND_SECONDS) for held in lost)


def socket_of(world: World, who: str, name: str) -> Held:
    """A WebSocket of a workload that works."""
    held = world.open(who, name)
    assert held.upgrade()
    assert held.talk()
    return held


def test_who_is_denied_loses_the_streams_that_have_begun(world: World) -> None:
    """Where a listener leads to the one service alone; other services' streams and other workloads' go on."""
    lost, request = socket_of(world, "job", "slow"), world.open("job", "slow")
    kept = {"chat": socket_of(world, "job", "chat"), "web": socket_of(world, "web", "slow")}
    assert answers(request, "slow")
    world.change(permission("a", "slow", allow=[WEB]))
    assert request.get() == 403
    assert lost.closed_within(BOUND_SECONDS)
    assert all(held.talk() for held in kept.values())
    again = world.open("job", "chat")
    world.change(permission("a", "slow", allow=[WEB, JOB]))
    eventually(lambda: world.works("job", "slow"), "a permission")
    assert not kept["chat"].closed_within(2)  # longer than the drain time
    assert all(held.talk() for held in kept.values())
    assert answers(again, "slow")


def test_one_of_many_services_behind_one_listener_ends_no_stream(world: World) -> None:
    """The limit: a redirected workload has one listener for HTTP, whose drain would hit what it may still use."""
    begun, other = socket_of(world, "web", "slow"), socket_of(world, "web", "chat")
    world.change(permission("a", "slow", allow=[JOB]))
    eventually(lambda: world.open("web", "slow").get() == 403, "a refusal")
    assert not begun.closed_within(2)
    assert begun.talk()
    assert other.talk()


ODD = [
    (kind, f"spiffe://default/{name}") for kind in ("Exact", "Prefix") for name in ("it's", ")%", "\\", "ü", "{", "a b")
]
GIVES = {
    "not allowed": [permission("a", "mail", allow=[JOB])],
    "not allowed among odd ones": [permission("a", "mail", allow=[*ODD, JOB])],
    "denied": [permission("a", "mail", allow=[EVERYBODY], deny=[WEB])],
    "denied as one of several": [permission("a", "mail", allow=[EVERYBODY], deny=[("Prefix", "spiffe://default/w")])],
    "forbidden": [permission("a", "mail", allow=[JOB]), FORBIDDING],
}


@pytest.mark.parametrize("given", GIVES)
def test_nothing_is_dialled_for_who_is_denied(world: World, given: str) -> None:
    """Not a byte of a server that speaks first is heard, and it sees no connection; who is allowed keeps its own."""
    kept = world.open("job", "mail")
    assert kept.heard() == GREETING
    world.change(*(world.mesh.rstrip() + one if one == FORBIDDING else one for one in GIVES[given]))
    eventually(lambda: world.hears("web") == b"", "a connection that is closed")
    assert kept.talk()  # that a mesh forbids closes the open connections of all, a drain time later
    mail = world.servers["mail"]
    before = mail.connections
    assert [world.hears("web") for _ in range(5)] == [b""] * 5
    assert mail.connections == before
    assert world.hears("job") == GREETING
    assert given == "forbidden" or kept.talk()
    # Also while one of who is allowed stays open, as this last one does.
    assert [world.hears("web") for _ in range(5)] == [b""] * 5
    assert mail.connections == before + 1


GUARDED = ("lines", "quiet", "mail")


@pytest.mark.parametrize("first", ["web", "job"])
def test_what_one_keeps_open_leads_no_other_there(world: World, first: str) -> None:
    """Whichever connections to guarded services are open: each is judged by itself, and led to its own service or
    nowhere.
    """
    second, ids = "job" if first == "web" else "web", {"web": WEB, "job": JOB}
    only = {"lines": (WEB, JOB), "quiet": (ids[second],), "mail": (ids[first],)}
    world.change(*(permission(f"only-{one}", one, allow=[*who]) for one, who in only.items()))
    eventually(lambda: world.leads(second, "mail") == world.leads(first, "quiet") == "", "refusals")
    for _ in range(3):
        for who in (first, second):
            meant = [one if ids[who] in only[one] else "" for one in GUARDED]
            assert [world.leads(who, one) for one in GUARDED] == meant


@pytest.mark.parametrize("placed", ["egress"], indirect=True)
def test_access_waits_for_no_cluster(world: World) -> None:
    """While a cluster warms up for long (its first health check hangs), a denial holds at once, and so does the guard
    of a service that comes with it: Envoy answers for clusters only when all of them are warm.
    """
    spec = {
        "targetRef": {"kind": "Mesh"},
        "to": [
            {
                "targetRef": {"kind": "MeshExternalService", "name": "other"},
                "default": {
                    "interval": "1s",
                    "timeout": f"{HANGS_SECONDS}s",
                    "http": {"path": f"/slow/{HANGS_SECONDS}"},
                },
            }
        ],
    }
    check = f"{{type: MeshHealthCheck, name: hangs, mesh: default, spec: {json.dumps(spec)}}}"
    mail, slow = world.servers["mail"], world.servers["slow"]
    world.zone.apply(
        check,
        service("other", world.zone.port, slow.port),
        service("more", world.zone.port, mail.port),
        permission("more", "more", allow=[JOB]),
    )
    world.zone.show()
    more = world.zone.service("more")
    eventually(lambda: more.cluster in world.zone.envoys[world.dials].admin("/clusters"), "it")
    held = Held(more.vip, world.zone.port)
    world.opened.callback(held.close)
    assert held.heard() == b""
    assert world.hears("web") == GREETING
    world.zone.apply(permission("a", "mail", allow=[JOB]))
    world.zone.show()
    eventually(lambda: world.hears("web") == b"", "a denial", HANGS_SECONDS / 2)
    egress = world.zone.ads["egress-egress"].stream
    assert egress.delivered != world.zone.view.position
    world.zone.delete(ResourceKey("MeshHealthCheck", "default", "hangs"))
    world.zone.delete(*(ResourceKey("MeshExternalService", "default", one) for one in ("other", "more")))


def test_a_mesh_that_forbids_all_lets_nobody_hear(world: World) -> None:
    """defaultForbidMeshExternalServiceAccess without a permission: no connection, for any workload."""
    world.change(world.mesh.rstrip() + FORBIDDING)
    for who in ("web", "job"):
        eventually(lambda who=who: world.hears(who) == b"", "a connection that is closed")  # type: ignore[misc]
        before = world.servers["mail"].connections
        assert [world.hears(who) for _ in range(5)] == [b""] * 5
        assert world.servers["mail"].connections == before
