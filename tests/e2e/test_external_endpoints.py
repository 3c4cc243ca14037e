"""Endpoints of external services: balancing, priorities that fail over, names that move, IPv6, a name each in TLS."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from shared.events.event import ProxyConnected, ProxyDisconnected
from shared.model.resource import key_of
from tests.conftest import take_port
from tests.xds.clients import Answer, http1, tcp
from tests.xds.envoys import eventually
from tests.xds.loopback import ZONE, LoopbackZone, read
from tests.xds.names import Names, bootstrap
from tests.xds.servers import Server, Servers, server_context
from tests.xds.views import Authority

pytestmark = pytest.mark.e2e

EJECTION_TIME = "outlier_detection.base_ejection_time_ms"
RUNTIME = {
    "layered_runtime": {
        "layers": [
            {"name": "often", "static_layer": {"outlier_detection.interval_ms": 100}},
            {"name": "by the test", "admin_layer": {}},
        ]
    }
}
"""Whoever was ejected is looked at often, and comes back when the test says that the time is over."""


class World:
    """A zone whose Envoys ask the test's own DNS server."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.servers, self.ca, self.names = servers, Authority(), Names()
        self.names.start(servers.loop)
        self.directory, self.port = directory, take_port()
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        self.zone = LoopbackZone(directory, dataplane, name="endpoints", bootstrap=bootstrap(self.names.port) | RUNTIME)

    def tls_server(self, name: str, *names: str) -> Server:
        pair = self.ca.issue(name, *(x509.DNSName(one) for one in names))
        return self.servers.add(name, server_context(self.directory, pair))

    def serve(
        self, name: str, *endpoints: dict[str, Any], protocol: str = "http", tls: dict[str, Any] | None = None
    ) -> None:
        spec: dict[str, Any] = {
            "match": {"port": self.port, "protocol": protocol},
            "endpoints": [*endpoints],
        }
        if tls is not None:
            spec["tls"] = {"enabled": True, "verification": {"caCert": {"inlineString": self.ca.pem}, **tls}}
        whole = {"type": "MeshExternalService", "name": name, "mesh": "default", "spec": spec}
        self.zone.apply(yaml.safe_dump(whole))
        self.zone.show()
        self.zone.settled([self.zone.service(name).cluster])

    def get(self, name: str, path: str = "/") -> Answer:
        return asyncio.run(http1(self.zone.service(name).vip, self.port, path))

    def line(self, name: str) -> Answer:
        return asyncio.run(tcp(self.zone.service(name).vip, self.port))

    def count(self, name: str, requests: int) -> Counter[str]:
        """Who answers; "" for a failure."""
        return Counter(self.get(name).seen.get("server", "") for _ in range(requests))

    def gauge(self, name: str, what: str, value: int) -> None:
        """Wait until a gauge of the service's cluster has this value."""
        line = f"cluster.{self.zone.service(name).cluster}.{what}: {value}"
        egress = self.zone.envoys["endpoints-egress"]
        eventually(lambda: line in egress.admin(f"/stats?filter={what}").splitlines(), line)

    def ejected(self, name: str) -> None:
        """Wait until an endpoint is ejected: Envoy's main thread does it, after the answer that is the reason."""
        self.gauge(name, "outlier_detection.ejections_active", 1)

    def dies(self, server: Server, name: str) -> None:
        """A server ends, with its connections, and Envoy knows: a request on one of them would be lost."""
        self.servers.stop(server)
        self.gauge(name, "upstream_cx_active", 0)

    @contextmanager
    def no_ejection_time(self) -> Iterator[None]:
        """Let everybody who is ejected come back."""
        place = f"http://127.0.0.1:{self.zone.envoys['endpoints-egress'].admin_port}/runtime_modify?{EJECTION_TIME}="
        try:
            urllib.request.urlopen(f"{place}1", data=b"").close()
            yield
        finally:
            urllib.request.urlopen(place, data=b"").close()


def at(server: Server, host: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
    return {"address": host, "port": server.port, **more}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("endpoints"), servers)
        try:
            yield made
        finally:
            made.zone.stop()
    assert made.zone.nacks() == []


def test_requests_are_spread_evenly(world: World) -> None:
    """Thirty requests over three endpoints, one of them a Unix socket: ten for each."""
    path = str(world.directory / "third.sock")
    servers = [world.servers.add("first"), world.servers.add("second"), world.servers.add("third", path=path)]
    world.serve("spread", at(servers[0]), at(servers[1]), {"address": f"unix://{path}"})
    eventually(lambda: world.get("spread").status == 200, "an answer")
    assert world.count("spread", 30) == {"first": 10, "second": 10, "third": 10}


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_priorities_fail_over_and_come_back(world: World, protocol: str) -> None:
    """The first priority answers while it lives; then the next one, at once, and the first again when it is back."""
    ask = world.get if protocol == "http" else world.line
    one, spare = (world.servers.add(f"{protocol}-{name}") for name in ("one", "spare"))
    name = f"failover-{protocol}"
    world.serve(name, at(one, priority=2), at(spare, priority=9), protocol=protocol)
    eventually(lambda: ask(name).status == 200, "an answer")
    assert {ask(name).seen["server"] for _ in range(8)} == {one.name}
    world.dies(one, name)
    answers = [ask(name) for _ in range(12)]
    assert [(found.status, found.seen.get("server")) for found in answers] == [(200, spare.name)] * 12, answers
    if protocol == "http":
        world.servers.again(one)
        with world.no_ejection_time():
            eventually(lambda: ask(name).seen.get("server") == one.name, "the first priority to come back")


def test_no_connection_is_lost_at_a_failover(world: World) -> None:
    """Of forty at once that meet a dead first priority each is carried to the next one, again and again."""
    one, spare = world.servers.add("falling"), world.servers.add("standing")
    world.serve("falling", at(one, priority=0), at(spare, priority=1), protocol="tcp")
    vip = world.zone.service("falling").vip

    async def at_once() -> list[Answer]:
        return await asyncio.gather(*(tcp(vip, world.port, b"?\n") for _ in range(40)))

    for _ in range(5):
        with world.no_ejection_time():
            eventually(lambda: world.line("falling").seen.get("server") == one.name, "the first priority")
        world.dies(one, "falling")
        assert Counter(found.seen.get("server") for found in asyncio.run(at_once())) == {spare.name: 40}
        world.servers.again(one)


@contextmanager
def dead_egress(world: World) -> Iterator[None]:
    """A second zone egress, of which nobody knows that it is dead."""
    text = f"type: ZoneEgress\nname: dead\nzone: {ZONE}\nnetworking: {{address: 127.0.0.1, port: {take_port()}}}\n"
    world.zone.apply(text, origin=ZONE)
    world.zone.zone.write(ProxyConnected(".dead", key_of(read(text)[0], ZONE), "dead", (), ""))
    world.zone.show()
    world.zone.answered()
    try:
        yield
    finally:
        world.zone.zone.write(ProxyDisconnected(".dead", "dead"))
        world.zone.show()
        world.zone.answered()


def test_no_connection_is_lost_to_a_dead_egress(world: World) -> None:
    """TCP and HTTP of one workload, many at once."""
    server = world.servers.add("behind-two")
    for protocol in ("tcp", "http"):
        world.serve(f"{protocol}-two", at(server), protocol=protocol)
    eventually(lambda: world.line("tcp-two").status == world.get("http-two").status == 200, "answers")
    tcp_vip, http_vip = (world.zone.service(f"{one}-two").vip for one in ("tcp", "http"))

    async def at_once() -> list[Answer]:
        calls = (*(tcp(tcp_vip, world.port) for _ in range(100)), *(http1(http_vip, world.port) for _ in range(50)))
        return await asyncio.gather(*calls)

    with dead_egress(world):
        assert Counter(one.status for _ in range(3) for one in asyncio.run(at_once())) == {200: 450}


def test_an_endpoint_that_answers_502_gives_way(world: World) -> None:
    """Five gateway errors in a row eject the endpoint of a service with priorities; a 500 is the service's own."""
    first, spare = world.servers.add("first"), world.servers.add("spare")
    world.serve("gateway", at(first, priority=0), at(spare, priority=1))
    eventually(lambda: world.get("gateway").status == 200, "an answer")
    first.status = 500
    assert {world.get("gateway").status for _ in range(8)} == {500}
    first.status = 502
    assert [world.get("gateway").status for _ in range(5)] == [502] * 5
    world.ejected("gateway")
    answer = world.get("gateway")
    assert (answer.status, answer.seen["server"]) == (200, "spare")


def test_a_dead_endpoint_costs_no_request(world: World) -> None:
    """Without priorities: a request that reached nobody is tried at another endpoint."""
    alive, dead = world.servers.add("alive"), world.servers.add("dead")
    world.servers.stop(dead)
    world.serve("half", at(alive), at(dead))
    eventually(lambda: world.get("half").status == 200, "an answer")
    assert world.count("half", 12) == {"alive": 12}


def test_two_dead_endpoints_of_three_cost_no_request(world: World) -> None:
    """Each further try goes to an endpoint that was not tried yet, however many requests try again at once."""
    alive, *dead = (world.servers.add(name) for name in ("alive", "dead-1", "dead-2"))
    for server in dead:
        world.servers.stop(server)
    world.serve("third", *(at(one) for one in (*dead, alive)))
    eventually(lambda: world.get("third").status == 200, "an answer")

    async def at_once(requests: int) -> list[Answer]:
        vip = world.zone.service("third").vip
        return await asyncio.gather(*(http1(vip, world.port) for _ in range(requests)))

    answers = [one for _ in range(3) for one in asyncio.run(at_once(40))]
    assert Counter(one.seen.get("server", one.body) for one in answers) == {"alive": 120}


def test_names_are_resolved_again(world: World) -> None:
    """When a name moves, so does the traffic; when the DNS server fails, the known address stays in use."""
    before = world.servers.add("before", host="127.0.0.2")
    after = world.servers.add("after", host="127.0.0.3", port=before.port)
    world.names.hosts["moving.test"] = ["127.0.0.2"]
    world.serve("moving", at(before, "moving.test"))
    eventually(lambda: world.get("moving").seen.get("server") == "before", "the first address")
    world.names.hosts["moving.test"] = ["127.0.0.3"]
    answer = eventually(lambda: (found := world.get("moving")).seen.get("server") == "after" and found, "the new one")
    assert answer.seen["headers"]["host"] == "moving.test"
    world.names.failing = True
    asked = world.names.asked["moving.test"]
    try:
        eventually(lambda: world.names.asked["moving.test"] > asked, "another query")
        assert world.get("moving").seen["server"] == "after"
    finally:
        world.names.failing = False
    assert after.seen >= 2


def test_all_addresses_of_a_name_are_used(world: World) -> None:
    """A name with two addresses is two endpoints."""
    one = world.servers.add("one", host="127.0.0.2")
    world.servers.add("other", host="127.0.0.3", port=one.port)
    world.names.hosts["several.test"] = ["127.0.0.2", "127.0.0.3"]
    world.serve("several", at(one, "several.test"))
    eventually(lambda: world.get("several").status == 200, "an answer")
    assert world.count("several", 12) == {"one": 6, "other": 6}


def test_a_name_that_nobody_knows_harms_nobody(world: World) -> None:
    """503 that says so; services that come after it work at once, and it works itself when the name appears."""
    server = world.servers.add("late")
    world.serve("unknown", at(server, "unknown.test"))
    why = "none of its endpoints can be used right now"
    answer = eventually(lambda: why in (found := world.get("unknown")).body and found, why)
    assert answer.status == 503
    world.serve("behind", at(server))
    eventually(lambda: world.get("behind").status == 200, "the service behind it", 10)
    world.names.hosts["unknown.test"] = ["127.0.0.1"]
    eventually(lambda: world.get("unknown").status == 200, "the name to appear")


def test_ipv6(world: World) -> None:
    """An IPv6 literal is dialled as one."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    server = world.servers.add("six", host="::1")
    world.serve("six", at(server, "::1"))
    assert eventually(lambda: (found := world.get("six")).status == 200 and found, "an answer").seen["server"] == "six"


def test_every_endpoint_has_its_own_name_in_tls(world: World) -> None:
    """Without serverName each host is asked for, and verified, by its own name; Host follows it (decision 8)."""
    a, b = world.tls_server("a", "a.test"), world.tls_server("b", "b.test")
    world.names.hosts |= {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]}
    world.serve("named", at(a, "a.test"), at(b, "b.test"), tls={})
    eventually(lambda: world.get("named").status == 200, "an answer")
    seen = {(one["server"], one["sni"], one["headers"]["host"]) for one in (world.get("named").seen for _ in range(8))}
    assert seen == {("a", "a.test", "a.test"), ("b", "b.test", "b.test")}


def test_an_endpoint_with_anothers_certificate_is_refused(world: World) -> None:
    """Of two hosts the one that shows the other's certificate gets no request."""
    a, liar = world.tls_server("honest", "a.test"), world.tls_server("liar", "a.test")
    world.names.hosts |= {"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]}
    world.serve("liars", at(liar, "b.test"), tls={})
    answer = eventually(
        lambda: (found := world.get("liars")).status == 503 and "VERIFY" in found.body and found, "a refusal"
    )
    assert "SAN" in answer.body
    world.serve("liars", at(liar, "b.test"), at(a, "a.test"), tls={})
    eventually(lambda: world.get("liars").status == 200, "an answer")
    assert world.count("liars", 8) == {"honest": 8}
    assert liar.seen == 0


def test_server_name_is_for_all_endpoints(world: World) -> None:
    """With serverName every endpoint is asked for that name, and shows it in its certificate."""
    a, b = world.tls_server("a", "both.test"), world.tls_server("b", "both.test")
    world.serve("both", at(a), at(b), tls={"serverName": "both.test"})
    eventually(lambda: world.get("both").status == 200, "an answer")
    assert {world.get("both").seen["sni"] for _ in range(6)} == {"both.test"}
