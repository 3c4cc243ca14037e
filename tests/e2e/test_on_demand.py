"""A zone egress that loads a service when it is first used: what is sent, what is answered, what stays bounded."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
import yaml
from cryptography import x509

from shared.events.state import Position
from shared.model.resource import ResourceKey
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually
from tests.xds.knocks import KeptOpen, Workload, http1
from tests.xds.loopback import LoopbackZone
from tests.xds.servers import Servers, server_context
from tests.xds.views import Authority
from zone_cp.ads import on_demand
from zone_cp.xds.inspect import short_type
from zone_cp.xds.snapshot import CLUSTER, Snapshot
from zone_cp.xds.wire import encode, piece

pytestmark = pytest.mark.e2e

HTTP, TCP = ("http/1.1",), ("mes-tcp",)
DATAPLANE = (
    "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
    "  transparentProxying: {redirectPortOutbound: 15001}\n"
)
RANDOM_NAMES = 10_000
MEMORY_BYTES = 2 << 20
"""What random names may leave allocated in an egress; a cluster each would be 400 MiB, a subscription each 4."""


class World:
    """A zone whose egress loads on demand; `servers` stand outside."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.zone = LoopbackZone(directory, DATAPLANE, name="on-demand", on_demand=True)
        self.workload = Workload(self.zone, directory)
        self.ads: DeltaServer = self.zone.ads["on-demand-egress"]
        self.envoy: Envoy = self.zone.envoys["on-demand-egress"]
        authority = Authority("outside")
        secured = server_context(directory, authority.issue("secured", x509.IPAddress(ip_address("127.0.0.1"))))
        self.plain, self.secured = servers.add("plain"), servers.add("secured", secured)
        verification = {"caCert": {"inlineString": authority.pem}}
        self.tls = {"enabled": True, "verification": verification}

    def manifest(self, name: str, protocol: str = "http", *, secured: bool = False, timeouts: int = 0) -> str:
        """A service; `timeouts` makes its cluster differ."""
        port = self.secured.port if secured else self.plain.port
        endpoints = [{"address": "127.0.0.1", "port": port, "priority": 0}] * (1 + timeouts)
        spec = {"match": {"port": 80, "protocol": protocol}, "endpoints": endpoints}
        if secured:
            spec["tls"] = self.tls
        return yaml.safe_dump({"type": "MeshExternalService", "name": name, "mesh": "default", "spec": spec})

    def apply(self, *manifests: str) -> None:
        self.zone.apply(*manifests)
        self.zone.show()

    def delete(self, *names: str) -> None:
        self.zone.delete(*(ResourceKey("MeshExternalService", "default", name) for name in names))
        self.zone.show()

    def sni(self, name: str) -> str:
        return self.zone.service(name).sni

    def ask(self, sni: str, protocols: tuple[str, ...] = HTTP) -> bytes:
        return self.workload.knock("default", sni, protocols, http1() if protocols == HTTP else b"?\n")

    def connection(self, sni: str) -> KeptOpen:
        return KeptOpen(self.workload.dial("default", sni, HTTP))

    def said(self, since: int) -> list[tuple[str, list[str], list[str]]]:
        """What the egress was sent since then: type, resources, removals."""
        responses = [one for one in self.ads.sent[since:] if one.resources or one.removed_resources]
        return [
            (short_type(one.type_url), [each.name for each in one.resources], list(one.removed_resources))
            for one in responses
        ]

    def held(self) -> set[str]:
        """The clusters of services that Envoy holds."""
        return set(re.findall(r"^(mes/.+?)::observability_name::", self.envoy.admin("/clusters"), re.MULTILINE))

    def allocated(self) -> int:
        """Bytes that Envoy has allocated, without what its allocator keeps."""
        return int(re.findall(r'"allocated": "(\d+)"', self.envoy.admin("/memory"))[0])

    def settled(self) -> None:
        """Wait until the egress has answered all of what is offered."""
        position = self.zone.view.position
        eventually(lambda: self._answered() == position, "the egress's answers")

    def _answered(self) -> Position | None:
        """What the egress has answered all of; what it loads on demand is of no new moment."""
        return None if self.ads.stream.unanswered else self.ads.stream.delivered


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("on-demand"), servers)
        try:
            eventually(lambda: made.envoy.listens("egress"), "the egress's listener")
            yield made
        finally:
            made.zone.stop()


@pytest.mark.parametrize(("name", "protocols"), [("web", HTTP), ("line", TCP), ("sealed", HTTP)])
def test_a_service_is_loaded_when_it_is_first_used(world: World, name: str, protocols: tuple[str, ...]) -> None:
    """Adding it sends no cluster; the first client waits for it; the second finds it. Secrets follow their cluster."""
    world.apply(world.manifest(name, "tcp" if protocols == TCP else "http", secured=name == "sealed"))
    world.settled()
    cluster, since = world.zone.service(name).cluster, len(world.ads.sent)
    assert cluster not in world.held()
    assert b'"server"' in world.ask(world.sni(name), protocols)
    sent = [said for said in world.said(since) if said[0] != "Secret"]
    assert sent == [("Cluster", [cluster], [])]
    secrets = [named for kind, names, _ in world.said(since) if kind == "Secret" for named in names]
    assert len(secrets) == (name == "sealed")
    since = len(world.ads.sent)
    assert b'"server"' in world.ask(world.sni(name), protocols)
    assert world.said(since) == []


def test_one_change_among_many_is_one_response_with_one_resource(world: World) -> None:
    """Of a service that is loaded; of one that is not, nothing is sent."""
    world.apply(*(world.manifest(f"many-{number}") for number in range(300)))
    world.settled()
    for number in (1, 2):
        assert b" 200 " in world.ask(world.sni(f"many-{number}"))
    since = len(world.ads.sent)
    world.apply(world.manifest("many-1", timeouts=1))
    world.settled()
    assert world.said(since) == [("Cluster", [world.zone.service("many-1").cluster], [])]
    since = len(world.ads.sent)
    world.apply(world.manifest("many-3", timeouts=1))
    world.settled()
    assert world.said(since) == []


def test_a_service_that_goes_answers_at_once_and_comes_back_in_place(world: World) -> None:
    """A tombstone that says so, on an open connection too; applied again, the same name serves again."""
    world.apply(world.manifest("passing"))
    sni, cluster = world.sni("passing"), world.zone.service("passing").cluster
    world.settled()  # its name is let in
    assert b" 200 " in world.ask(sni)
    with world.connection(sni) as connection:
        world.delete("passing")
        world.settled()
        assert cluster in world.held()
        for _ in range(2):
            assert connection.get() == (503, f"no MeshExternalService is served as {sni}\n")
        assert b" 503 " in world.ask(sni)
        world.apply(world.manifest("passing"))
        world.settled()
        assert world.sni("passing") == sni
        assert connection.get()[0] == 200
    assert b" 200 " in world.ask(sni)


def test_names_that_clients_make_up_are_asked_of_nobody(world: World) -> None:
    """10,000 of them, of both classes: no subscription, no cluster, and neither Envoy nor control plane grows."""
    world.settled()
    chosen = random.Random(4)
    names = [
        f"v127.16.{chosen.randrange(256)}.{chosen.randrange(256)}.p{chosen.randrange(81, 65536)}.default.mes"
        for _ in range(RANDOM_NAMES)
    ]
    assert b" 503 " in world.ask(names[0])
    held, heard, before = world.held(), len(world.ads.heard), world.allocated()
    half = len(names) // 2
    answers = world.workload.storm("default", names[:half], HTTP, http1(), 32)
    assert answers == {b"HTTP/1.1 503 Service Unavailable"}
    assert world.workload.storm("default", names[half:], TCP, b"?\n", 32) == {b""}
    assert (world.held(), len(world.ads.heard)) == (held, heard)
    # Connections that Envoy has yet to close are not what stays.
    eventually(lambda: world.allocated() < before + MEMORY_BYTES, "Envoy to free what clients took")


def test_tombstones_are_few(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many loaded services that go, Envoy keeps the newest tombstones; the others' names answer as fast."""
    monkeypatch.setattr(on_demand, "MAX_TOMBSTONES", few := 8)
    names = [f"brief-{number}" for number in range(4 * few)]
    world.apply(*(world.manifest(name) for name in names))
    world.settled()
    snis = [world.sni(name) for name in names]
    clusters = {world.zone.service(name).cluster for name in names}
    assert world.workload.storm("default", snis, HTTP, http1(), 32) == {b"HTTP/1.1 200 OK"}
    assert clusters <= world.held()
    world.delete(*names)
    world.settled()
    eventually(lambda: len(world.held() & clusters) == few, "old tombstones to go")
    assert world.workload.storm("default", snis, HTTP, http1(), 32) == {b"HTTP/1.1 503 Service Unavailable"}
    assert len(world.held() & clusters) == few


def test_what_is_loaded_outlives_its_control_plane_and_is_not_sent_again(world: World) -> None:
    """While it is away loaded services serve; when it is back Envoy says what it has and gets nothing of it."""
    world.apply(world.manifest("steady"), world.manifest("unused"))
    sni, unused = world.sni("steady"), world.sni("unused")
    world.settled()  # their names are let in
    assert b" 200 " in world.ask(sni)
    world.settled()
    held, since, heard = world.held(), len(world.ads.sent), len(world.ads.heard)
    world.ads.stop()
    assert b" 200 " in world.ask(sni)
    assert b" 503 " in world.ask(unused), "not loaded, and nobody to ask"
    world.ads.start()
    back = eventually(lambda: [one for one in world.ads.heard[heard:] if one.type_url == CLUSTER], "Envoy's return")
    assert world.zone.service("steady").cluster in back[0].resource_names_subscribe
    world.settled()
    assert [said for said in world.said(since) if said[0] == "Cluster" and held & {*said[1]}] == []
    assert held <= world.held()
    assert b" 200 " in world.ask(unused)


def test_a_change_of_mode_breaks_nothing(world: World) -> None:
    """From on demand to all and back: open connections of both classes go on, new ones are served throughout."""
    world.apply(world.manifest("web"), world.manifest("line", "tcp"))
    sni, line = world.sni("web"), world.sni("line")
    failures: list[object] = []
    stop = threading.Event()

    def traffic() -> None:
        with world.connection(sni) as open_one:
            while not stop.is_set():
                failures.extend(
                    one for one in (open_one.get()[0], world.ask(sni).split()[1]) if one not in (200, b"200")
                )

    with world.workload.dial("default", line, TCP) as raw:
        calling = threading.Thread(target=traffic)
        calling.start()
        try:
            for lazy in (False, True, False, True):
                world.zone.on_demand = lazy
                world.zone.show()
                world.settled()
                raw.sendall(b"still here\n")
                assert raw.recv(64) == b"still here\n"
        finally:
            world.zone.on_demand = True
            stop.set()
            calling.join(20)
        assert failures == []
    draining = re.findall(r"total_filter_chains_draining: (\d+)", world.envoy.admin("/stats?filter=draining"))
    assert draining == ["0"]


def test_a_cluster_that_envoy_refuses_on_demand_answers_at_once(world: World) -> None:
    """The refusal is known, its clients do not wait, and the mended one takes its place."""
    world.apply(world.manifest("broken"))
    service = world.zone.service("broken")
    good = world.zone.compiled()
    bad = encode(
        CLUSTER, service.cluster, piece(1, service.cluster) + piece(4, b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
    )
    clusters = good.resources[CLUSTER].set(service.cluster, bad)
    broken: Snapshot = msgspec.structs.replace(good, resources=good.resources.set(CLUSTER, clusters))
    world.ads.offer(broken)
    world.settled()
    refused = len(world.ads.refusals)
    assert b" 503 " in world.ask(service.sni)
    assert b"this proxy has refused the configuration of" in world.ask(service.sni)
    assert [name for one in world.ads.refusals[refused:] for name, _ in one.rejected] == [service.cluster]
    world.ads.offer(good)
    eventually(lambda: b" 200 " in world.ask(service.sni), "the mended cluster")
