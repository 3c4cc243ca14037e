"""What cannot be served as it was asked for is not served at all: 503 with the reason, TCP closed, a condition."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from shared.events.conditions import Condition, Delivery, Observed, service_conditions
from shared.keys.seal import Sealer
from shared.model.resource import ResourceKey, Secret
from tests.builders import EPOCH, applied
from tests.conftest import take_port
from tests.xds.clients import Answer, ask
from tests.xds.envoys import eventually
from tests.xds.loopback import DIRECT, MESH, ZONE, LoopbackZone, read
from tests.xds.servers import Server, Servers, server_context
from tests.xds.views import Authority
from zone_cp.agent.observe import outcome

pytestmark = pytest.mark.e2e

NAME = "closed.test"
GARBAGE = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"


class Case(msgspec.Struct, frozen=True):
    """A broken service: its verification, and the reason, words and field that it must be told with."""

    name: str
    verification: dict[str, Any]
    reason: str
    words: str
    field: str
    spec: dict[str, Any] = {}
    labels: dict[str, str] = {}


def _cases() -> tuple[Case, ...]:
    ca, pair = {"secret": "ca"}, {"clientCert": {"secret": "cert"}, "clientKey": {"secret": "key"}}
    where = "spec.tls.verification"
    unix = [{"address": "unix:///nowhere.sock"}, {"address": "name.test", "port": 1}]
    return (
        Case("no-ca", {}, "NoCertificateAuthority", "knows no system CA and caCert is not set", f"{where}.caCert"),
        Case("no-ca-names-only", {"mode": "SkipSAN"}, "NoCertificateAuthority", "no system CA", f"{where}.caCert"),
        Case(
            "no-secret",
            {"caCert": {"secret": "x"}},
            "SecretMissing",
            "mesh default has no Secret x",
            f"{where}.caCert.secret",
        ),
        Case("no-pem", {"caCert": {"secret": "key"}}, "InvalidMaterial", "not a PEM certificate", f"{where}.caCert"),
        Case("garbage", {"caCert": {"inlineString": GARBAGE}}, "InvalidMaterial", "not a PEM", f"{where}.caCert"),
        Case("sealed", {"caCert": {"secret": "west"}}, "MaterialMissing", "not wrapped for east", f"{where}.caCert"),
        Case(
            "no-key",
            {"caCert": ca, "clientCert": {"secret": "cert"}, "clientKey": {"secret": "x"}},
            "SecretMissing",
            "mesh default has no Secret x",
            f"{where}.clientKey.secret",
        ),
        Case(
            "other-key",
            {"caCert": ca, **pair, "clientKey": {"secret": "other-key"}},
            "InvalidMaterial",
            "client key does not belong to the client certificate",
            f"{where}.clientKey",
        ),
        Case(
            "key-is-no-key",
            {"caCert": ca, **pair, "clientKey": {"secret": "ca"}},
            "InvalidMaterial",
            "not an unencrypted PEM private key",
            f"{where}.clientKey",
        ),
        Case(
            "cert-is-a-key",
            {"mode": "SkipAll", **pair, "clientCert": {"secret": "key"}},
            "InvalidMaterial",
            "not a PEM certificate",
            f"{where}.clientCert",
        ),
        Case(
            "mixed",
            {"mode": "SkipAll"},
            "MixedEndpoints",
            "a socket and a DNS name",
            "spec.endpoints",
            {"endpoints": unix},
        ),
        Case(
            "extended",
            {"mode": "SkipAll"},
            "UnknownExtension",
            "no extension of type Lambda",
            "spec.extension.type",
            {"extension": {"type": "Lambda"}},
        ),
        Case(
            "elsewhere",
            {"mode": "SkipAll"},
            "ZonePinned",
            "through zone west only",
            'labels["kuma.io/zone"]',
            labels={"kuma.io/zone": "west"},
        ),
    )


CASES = _cases()


class World:
    """A zone with every broken service twice, as HTTP and as TCP, one good neighbour, and one with an expired CA."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.ca = Authority()
        self.pair, self.other = self.ca.issue("client"), self.ca.issue("other")
        good = self.ca.issue("server", x509.DNSName(NAME))
        self.server = servers.add("good", server_context(directory, good, clients=self.ca.pem))
        old = Authority("an expired CA", expired=True)
        context = server_context(directory, old.issue("server", x509.DNSName(NAME)))
        self.outdated = servers.add("outdated", context)
        self.port = take_port()
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        self.zone = LoopbackZone(directory, dataplane, name="closed")
        for name, text in (
            ("ca", self.ca.pem),
            ("old-ca", old.pem),
            ("cert", self.pair[0]),
            ("key", self.pair[1]),
            ("other-key", self.other[1]),
        ):
            self.secret(name, text)
        self._secret_of_west()
        right = {"caCert": {"secret": "ca"}, "clientCert": {"secret": "cert"}, "clientKey": {"secret": "key"}}
        self.zone.apply(self.service("good", right, self.server), self.service("good-tcp", right, self.server, "tcp"))
        dated = {"caCert": {"secret": "old-ca"}, "serverName": NAME}
        self.zone.apply(self.service("outdated", dated, self.outdated))
        self.zone.show()

    def secret(self, name: str, text: str) -> None:
        data = b64encode(text.encode()).decode()
        self.zone.apply(f"type: Secret\nname: {name}\nmesh: default\ndata: {data}\n")

    def _secret_of_west(self) -> None:
        # A Secret whose data key this zone was not given.
        sealed, wraps = Sealer({"west": X25519PrivateKey.generate().public_key()}).seal(self.ca.pem.encode())
        self.zone.hub.append(*wraps, applied(Secret(name="west", sealed=sealed)))
        self.zone.zone.follow(self.zone.hub)

    def service(
        self, name: str, verification: dict[str, Any], server: Server, protocol: str = "http", **rest: Any
    ) -> str:
        labels = rest.pop("labels", {})
        spec = {
            "match": {"port": self.port, "protocol": protocol},
            "endpoints": [{"address": "127.0.0.1", "port": server.port}],
            "tls": {"enabled": True, "verification": {"serverName": NAME, **verification}},
            **rest,
        }
        whole = {"type": "MeshExternalService", "name": name, "mesh": "default", "labels": labels, "spec": spec}
        return yaml.safe_dump(whole)

    def ask(self, name: str, protocol: str = "http") -> Answer:
        return asyncio.run(ask(protocol, self.zone.service(name).vip, self.port))

    def place(self, placement: str) -> None:
        """Egress or sidecar; waits until it is so."""
        self.zone.apply(DIRECT if placement == "sidecar" else MESH)
        self.zone.show()
        self.zone.answered()
        clusters = [one.cluster for one in self.zone.view.meshes["default"].services.values()]
        self.zone.settled(clusters, direct=placement == "sidecar")
        wanted = "outside/default" if placement == "sidecar" else "mesh/default"
        sidecar = self.zone.envoys["closed-sidecar"]
        eventually(lambda: wanted in sidecar.admin("/config_dump?resource=dynamic_listeners"), "the new listener")
        eventually(lambda: self.ask("good").status == 200, "the neighbour")

    def conditions(self, name: str, observed: Observed | None = None) -> dict[str, Condition]:
        """The conditions of a service, with what the compiler found, as the status board derives them."""
        key = ResourceKey("MeshExternalService", "default", name)
        failure = self.zone.closed().get(key)
        delivery = Delivery(acked=True)
        if failure is not None:
            said = f"{failure.field}: {failure.message}"
            delivery = Delivery(acked=True, refused=said, reason=failure.reason)
        state = self.zone.zone.state
        found = service_conditions(key, state.hub, state.own, ZONE, delivery=delivery, observed=observed)
        return {one.type: one for one in found}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("closed"), servers)
        try:
            yield made
        finally:
            made.zone.stop()


class Neighbour(msgspec.Struct):
    """What the good services answered while the broken ones arrived, and how many new connections that took."""

    statuses: list[int] = []
    connections: int = 0


@pytest.fixture(scope="module")
def neighbour(world: World) -> Neighbour:
    """Every broken service is applied, one after the other, as HTTP and as TCP."""
    world.place("egress")
    found, before = Neighbour(), world.server.connections
    for case in CASES:
        for name, protocol in ((case.name, "http"), (f"{case.name}-tcp", "tcp")):
            world.zone.apply(
                world.service(name, case.verification, world.server, protocol, labels=case.labels, **case.spec)
            )
        world.zone.show()
        found.statuses += [world.ask("good").status for _ in range(3)] + [world.ask("good-tcp", "tcp").status]
    found.connections = world.server.connections - before
    return found


def test_broken_services_leave_their_neighbour_alone(world: World, neighbour: Neighbour) -> None:
    """While each broken service arrives, the good ones answer every request, on the connections they have."""
    assert neighbour.statuses == [200] * 4 * len(CASES)
    # Every TCP client has a connection of its own; HTTP keeps the pool it has.
    assert neighbour.connections == len(CASES)
    assert world.zone.nacks() == []


@pytest.mark.parametrize("placement", ["egress", "sidecar"])
def test_a_broken_service_says_why(world: World, neighbour: Neighbour, placement: str) -> None:
    """503 with reason, sentence and field; TCP is closed; nothing is sent in clear, unverified or past the egress."""
    world.place(placement)
    seen = world.server.seen
    for case in CASES:
        answer = world.ask(case.name)
        told = f"MeshExternalService/default/{case.name}: {case.reason}: "
        assert (answer.status, answer.body.startswith(told)) == (503, True), (case.name, answer.body)
        assert case.words in answer.body
        assert answer.body.endswith(f"({case.field})\n")
        assert world.ask(f"{case.name}-tcp", "tcp").status == 0
    assert world.server.seen == seen
    assert [world.ask("good").status, world.ask("good-tcp", "tcp").status] == [200, 200]


@pytest.mark.parametrize("case", CASES, ids=lambda one: one.name)
def test_a_broken_service_has_a_condition(world: World, neighbour: Neighbour, case: Case) -> None:
    """Ready is False with the same reason, and its message names the field."""
    world.place("egress")
    ready = world.conditions(case.name)["Ready"]
    assert (ready.status, ready.reason) == ("False", case.reason)
    assert case.words in ready.message
    if case.reason not in ("ZonePinned", "UnknownExtension"):
        assert case.field.removesuffix(".secret") in ready.message or case.reason == "SecretMissing"
    assert world.conditions("good")["Ready"].status == "True"


@pytest.mark.parametrize("placement", ["egress", "sidecar"])
def test_an_expired_ca_is_told_by_the_handshake(world: World, placement: str) -> None:
    """While no event came after the expiry: the date is the 503's reason, and the condition names the field."""
    world.place(placement)
    seen = world.outdated.seen
    answer = world.ask("outdated")
    assert answer.status == 503
    assert "MeshExternalService/default/outdated" in answer.body
    assert "certificate_has_expired" in answer.body
    assert world.outdated.seen == seen
    cluster = world.zone.service("outdated").cluster

    def noticed() -> str:
        lines = [outcome(line) for line in world.zone.access_log.read_bytes().splitlines()]
        return next((one.reason for one in lines if one and one.cluster == cluster and one.failing), "")

    reason = eventually(noticed, "a line in the access log")
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    found = world.conditions("outdated", Observed(failing=True, reason=reason, at=at))["Reachable"]
    assert (found.status, found.reason) == ("False", "CaExpired")
    assert found.message.startswith("spec.tls.verification.caCert: the last of the CA certificates expired at ")


def test_an_expired_ca_closes_its_service(world: World) -> None:
    """With the first event after the expiry: 503 with reason, date and field, and a condition that says the same."""
    world.place("egress")
    dated = {"caCert": {"secret": "old-ca"}, "serverName": NAME}
    world.zone.apply(world.service("outdated-tcp", dated, world.outdated, "tcp"))
    seen, connections = world.outdated.seen, world.outdated.connections
    yesterday = datetime.now(UTC) - timedelta(days=1)
    world.zone.hub.append(applied(read("{type: Mesh, name: another}")[0]), seconds=(yesterday - EPOCH).total_seconds())
    world.zone.zone.follow(world.zone.hub)
    world.zone.show()
    world.zone.answered()
    answer = eventually(lambda: "CaExpired" in (found := world.ask("outdated")).body and found, "a 503 that says why")
    told = "MeshExternalService/default/outdated: CaExpired: the last of the CA certificates expired at "
    assert (answer.status, answer.body.startswith(told)) == (503, True), answer.body
    assert answer.body.endswith("(spec.tls.verification.caCert)\n")
    assert world.ask("outdated-tcp", "tcp").status == 0
    assert (world.outdated.seen, world.outdated.connections) == (seen, connections)
    ready = world.conditions("outdated")["Ready"]
    assert (ready.status, ready.reason) == ("False", "CaExpired")
    assert ready.message.startswith("spec.tls.verification.caCert: ")
    assert world.ask("good").status == 200
    # Whoever renews the CA opens the service again. Its server shows a certificate of the old one.
    world.secret("old-ca", world.ca.pem)
    world.zone.show()
    eventually(lambda: "CaExpired" not in world.ask("outdated").body, "the handshake to be tried again")
    assert world.zone.nacks() == []


def test_a_service_that_breaks_closes_and_comes_back(world: World) -> None:
    """A Secret that turns into garbage closes the service that reads it; the mended one opens it again."""
    world.place("egress")
    text = {"caCert": {"secret": "turning"}, "clientCert": {"secret": "cert"}, "clientKey": {"secret": "key"}}
    world.secret("turning", world.ca.pem)
    world.zone.apply(world.service("turning", text, world.server))
    world.zone.show()
    eventually(lambda: world.ask("turning").status == 200, "an answer")
    world.secret("turning", GARBAGE)
    world.zone.show()
    answer = eventually(
        lambda: "InvalidMaterial" in (found := world.ask("turning")).body and found, "the service to be closed"
    )
    assert answer.status == 503
    assert world.conditions("turning")["Ready"].reason == "InvalidMaterial"
    world.secret("turning", world.ca.pem)
    world.zone.show()
    eventually(lambda: world.ask("turning").status == 200, "an answer")
    assert world.zone.nacks() == []


ROTATIONS = {
    "another key": ("key", "InvalidMaterial", "client key does not belong to the client certificate", "clientKey"),
    "a key that is none": ("key", "InvalidMaterial", "not an unencrypted PEM private key", "clientKey"),
    "no CA": ("ca", "SecretMissing", "has no Secret spun-ca", "caCert.secret"),
    "no client certificate": ("cert", "SecretMissing", "has no Secret spun-cert", "clientCert.secret"),
}


@pytest.mark.parametrize("placement", ["egress", "sidecar"])
def test_whatever_a_rotation_breaks_closes_and_stays_closed(world: World, placement: str) -> None:
    """HTTP says which field, TCP takes nobody new, and an Envoy that starts anew meanwhile opens nothing either; who
    is mended serves again. The neighbour notices none of it.
    """
    world.place(placement)
    texts = {"ca": world.ca.pem, "cert": world.pair[0], "key": world.pair[1]}
    text = {"caCert": {"secret": "spun-ca"}, "clientCert": {"secret": "spun-cert"}, "clientKey": {"secret": "spun-key"}}
    broken = {"another key": world.other[1], "a key that is none": GARBAGE}
    for name, one in texts.items():
        world.secret(f"spun-{name}", one)
    world.zone.apply(world.service("spun", text, world.server), world.service("spun-tcp", text, world.server, "tcp"))
    world.zone.show()
    for how, (which, reason, words, field) in ROTATIONS.items():
        eventually(lambda: world.ask("spun").status == world.ask("spun-tcp", "tcp").status == 200, "answers")
        if how in broken:
            world.secret(f"spun-{which}", broken[how])
        else:
            world.zone.delete(ResourceKey("Secret", "default", f"spun-{which}"))
        world.zone.show()
        world.zone.answered()
        told = f"MeshExternalService/default/spun: {reason}: "
        answer = eventually(lambda told=told: (got := world.ask("spun")).body.startswith(told) and got, how)  # type: ignore[misc]
        assert (answer.status, words in answer.body) == (503, True), answer.body
        assert answer.body.endswith(f"(spec.tls.verification.{field})\n"), answer.body
        world.zone.restart(placement)
        answer = eventually(lambda told=told: (got := world.ask("spun")).body.startswith(told) and got, how)  # type: ignore[misc]
        seen = world.server.seen
        assert (answer.status, world.ask("spun-tcp", "tcp").status, world.server.seen) == (503, 0, seen)
        assert (world.ask("good").status, world.ask("good-tcp", "tcp").status) == (200, 200)
        world.secret(f"spun-{which}", texts[which])
        world.zone.show()
    eventually(lambda: world.ask("spun").status == world.ask("spun-tcp", "tcp").status == 200, "answers")
    assert world.zone.nacks() == []
