"""The seeds' examples carry traffic: applied as they stand, but for the host and port that loopback can reach."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from msgspec.structs import replace

from shared.model.resource import Endpoint, MeshExternalService, ResourceKey
from tests.conftest import take_port
from tests.xds.clients import Answer, http1, tcp
from tests.xds.envoys import eventually
from tests.xds.loopback import MESH, ZONE, LoopbackZone, read
from tests.xds.servers import Server, Servers, server_context
from tests.xds.views import Authority

pytestmark = pytest.mark.e2e

SEEDS = Path(__file__).parent / "seeds"
FORMS = {"universal": "", "kubernetes": ZONE}
"""Each form is applied where its page applies it: Universal on global, Kubernetes in a zone."""
SNI = {
    "mes-tcp-tls": "tcpbin.com",
    "mes-https": "httpbin.org",
    "httpbin-tls": "httpbin.org",
    "mes-grpcs": "grpcbin.test.k6.io",
    "grpc-api": "grpcbin.test.k6.io",
    "database": "postgres.external.example.com",
    "api-gateway": "api.example.com",
    "private-api": "internal.corp.example.com",
    "spiffe-service": "service.example.com",
}
PLAIN = ("mes-tcp", "mes-http", "httpbin", "mes-grpc")
NAMES = (*PLAIN, *SNI, "local-service", "mes-tcp-mtls")
SPIFFE = "spiffe://example.com/ns/production/api"


def seed(name: str) -> str:
    return (SEEDS / f"{name}.yaml").read_text()


class World:
    """The external services that the seeds name, and a zone whose sidecar has an outbound to each."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.public, self.corporate, self.clients = Authority("public"), Authority("corporate"), Authority("clients")
        self.hosts: dict[str, list[Endpoint]] = {}
        self.servers: dict[str, list[Server]] = {}
        for name in PLAIN:
            self._at(name, servers.add(name))
        for name, sni in SNI.items():
            ca = self.corporate if name == "private-api" else self.public
            san: x509.GeneralName = (
                x509.UniformResourceIdentifier(SPIFFE) if name == "spiffe-service" else x509.DNSName(sni)
            )
            clients = self.clients.pem if name == "database" else None
            context = server_context(directory, ca.issue(name, san), clients=clients)
            count = 3 if name == "api-gateway" else 1
            self._at(name, *(servers.add(f"{name}-{one}", context) for one in range(count)))
        path = str(directory / "service.sock")
        self.servers["local-service"] = [servers.add("local-service", path=path)]
        self.hosts["local-service"] = [Endpoint(address=f"unix://{path}")]
        self.openssl = OpenSsl(directory, self.public.issue("tcpbin.com", x509.DNSName("tcpbin.com")))
        self.hosts["mes-tcp-mtls"] = [Endpoint(address="localhost", port=self.openssl.port)]
        self.ports = {name: take_port() for name in NAMES}
        system_ca = directory / "system-ca.pem"
        system_ca.write_text(self.public.pem)
        self.zone = LoopbackZone(directory, self.dataplane(), system_ca_path=str(system_ca), name="seeds")
        pair = self.clients.issue("zonal")
        self._secrets({"postgres-client-cert": pair[0], "postgres-client-key": pair[1]})
        self._secrets({"corporate-ca-cert": self.corporate.pem})

    def _at(self, name: str, *servers: Server) -> None:
        self.servers[name] = [*servers]
        hosts = ("localhost", "localhost", "127.0.0.1")
        self.hosts[name] = [Endpoint(address=host, port=one.port) for host, one in zip(hosts, servers, strict=False)]

    def _secrets(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            data = b64encode(text.encode()).decode()
            self.zone.apply(f"type: Secret\nname: {name}\nmesh: default\ndata: {data}\n")

    def dataplane(self) -> str:
        """A Dataplane that is redirected and has an explicit outbound to every service by name."""
        outbound = "".join(
            f"    - {{port: {port}, backendRef: {{kind: MeshExternalService, name: {name}}}}}\n"
            for name, port in self.ports.items()
        )
        return (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  transparentProxying: {{redirectPortOutbound: {take_port()}}}\n  outbound:\n{outbound}"
        )

    def reachable(self, name: str, form: str) -> MeshExternalService:
        """A seed as it stands, its endpoints moved to loopback one for one."""
        (resource,) = read(seed(f"{name}-{form}"))
        assert isinstance(resource, MeshExternalService)
        assert len(resource.spec.endpoints) == len(self.hosts[name])
        return replace(resource, spec=replace(resource.spec, endpoints=tuple(self.hosts[name])))

    def place(self, form: str) -> None:
        """Apply every MeshExternalService and HostnameGenerator of one form."""
        origin = FORMS[form]
        self.zone.apply(MESH)
        self.zone.apply(seed(f"generator-example-{form}"))
        self.zone.apply(*(self.reachable(name, form) for name in NAMES), origin=origin)
        self.zone.become(self.dataplane(), "redirect")
        self.zone.show()
        self.zone.answered()
        self.zone.settled([self.zone.service(name, origin).cluster for name in NAMES])
        sidecar = self.zone.envoys["seeds-sidecar"]
        names = [f"outbound/127.0.0.1:{port}" for port in self.ports.values()]
        eventually(lambda: all(sidecar.listens(one) for one in names), "an outbound for every service")

    def http(self, name: str) -> Answer:
        return asyncio.run(http1("127.0.0.1", self.ports[name]))

    def tcp(self, name: str) -> Answer:
        return asyncio.run(tcp("127.0.0.1", self.ports[name]))

    def grpc(self, name: str) -> tuple[list[bytes], str]:
        """Two messages there and back with grpcio's own client, and a trailer."""
        with grpc.insecure_channel(f"127.0.0.1:{self.ports[name]}") as channel:
            talk: Any = channel.stream_stream("/test.Echo/Talk")
            call = talk(iter([b"one", b"two"]), timeout=10)
            return list(call), dict(call.trailing_metadata()).get("x-trailer", "")

    def stop(self) -> None:
        self.zone.stop()
        self.openssl.stop()


class OpenSsl:
    """A TLS server that asks for a client certificate and takes any: the seeds' own has long expired."""

    def __init__(self, directory: Path, pair: tuple[str, str]) -> None:
        self.port = take_port()
        for name, text in zip(("tcpbin.pem", "tcpbin.key"), pair, strict=True):
            (directory / name).touch(mode=0o600)
            (directory / name).write_text(text)
        self.log = directory / "openssl.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [
                    *("openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-verify", "1", "-rev"),
                    *("-cert", directory / "tcpbin.pem", "-key", directory / "tcpbin.key"),
                ],
                stdout=out,
                stderr=out,
            )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("seeds"), servers)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module", params=FORMS)
def form(world: World, request: pytest.FixtureRequest) -> str:
    """Universal, on global; then Kubernetes, in the zone: the outbounds' names now mean the zone's own."""
    world.place(request.param)
    eventually(lambda: world.http("mes-http").status == 200, "an answer")
    return str(request.param)


def test_every_service_of_the_seeds_is_tried_here() -> None:
    """No example of a MeshExternalService is left out."""
    # Those are tried in test_legacy.py and test_gateway.py.
    kinds = ("generator", "mesh-default", "dataplane", "fragment", "legacy", "gateway")
    files = {path.stem.rpartition("-")[0] for path in SEEDS.glob("*.yaml") if not path.stem.startswith(kinds)}
    assert files == set(NAMES)


def test_nothing_is_closed_and_nothing_refused(world: World, form: str) -> None:
    """Envoy takes all of it, and no service is closed for a reason."""
    assert world.zone.nacks() == []
    assert dict(world.zone.closed()) == {}


@pytest.mark.parametrize("name", ["mes-http", "httpbin"])
def test_http(world: World, form: str, name: str) -> None:
    """Plain HTTP reaches the service, under its own name."""
    answer = world.http(name)
    assert (answer.status, answer.seen["server"], answer.seen["version"]) == (200, name, None)
    assert answer.seen["headers"]["host"] == "localhost"


@pytest.mark.parametrize("name", ["mes-https", "httpbin-tls", "spiffe-service", "private-api"])
def test_https(world: World, form: str, name: str) -> None:
    """TLS with the system's CA, with an own CA from a Secret, and with a SAN matched by prefix."""
    answer = world.http(name)
    assert (answer.status, answer.seen["server"], answer.seen["sni"]) == (200, f"{name}-0", SNI[name])


def test_several_endpoints(world: World, form: str) -> None:
    """Requests go to all three endpoints, two names and an IP, each with the SNI that is set."""
    answers = [world.http("api-gateway") for _ in range(12)]
    assert {one.seen["server"] for one in answers} == {"api-gateway-0", "api-gateway-1", "api-gateway-2"}
    assert {one.seen["sni"] for one in answers} == {"api.example.com"}


def test_a_unix_socket(world: World, form: str) -> None:
    """`unix://` is dialled on the egress's host."""
    assert world.http("local-service").seen["server"] == "local-service"


@pytest.mark.parametrize("name", ["mes-tcp", "mes-tcp-tls", "database"])
def test_tcp(world: World, form: str, name: str) -> None:
    """TCP, TCP in TLS, and TCP in mutual TLS with certificate and key from Secrets."""
    seen = world.tcp(name).seen
    expected = (
        (None, None, []) if name == "mes-tcp" else (SNI[name], "TLSv1.3", ["zonal"] if name == "database" else [])
    )
    assert (seen["sni"], seen["version"], seen["client"]) == expected


def test_tcp_with_the_seeds_own_client_certificate(world: World, form: str) -> None:
    """The certificate and key that the page shows inline are presented; the key stands sealed in the log."""
    answer = asyncio.run(tcp("127.0.0.1", world.ports["mes-tcp-mtls"], b"echo this\n"))
    assert answer.body == "siht ohce\n"
    eventually(lambda: "CN = tcpbin.com-client" in world.openssl.log.read_text(), "the certificate")
    stored = world.zone.zone.state.resource(ResourceKey("MeshExternalService", "default", "mes-tcp-mtls", FORMS[form]))
    assert stored is not None
    assert isinstance(stored.resource, MeshExternalService)
    assert stored.resource.spec.tls is not None
    key = stored.resource.spec.tls.verification.client_key
    assert key is not None
    assert (key.inline, key.sealed is not None) == (None, True)


@pytest.mark.parametrize("name", ["mes-grpc", "mes-grpcs", "grpc-api"])
def test_grpc(world: World, form: str, name: str) -> None:
    """gRPC and gRPC in TLS: streams both ways, trailers kept."""
    assert world.grpc(name) == ([b"one", b"two"], "kept")


def test_names_of_the_generator(world: World, form: str) -> None:
    """The seeds' HostnameGenerator names services of zone origin, and no others."""
    hostnames = world.zone.service("mes-tcp", FORMS[form]).hostnames
    assert hostnames == (("mes-tcp.svc.meshext.local",) if form == "kubernetes" else ())


def test_a_name_means_the_zones_own_first(world: World, form: str) -> None:
    """`backendRef.name`: with only a global service it means that one; a service of the zone comes before it."""

    def meant() -> bool:
        config = world.zone.envoys["seeds-sidecar"].admin("/config_dump?resource=dynamic_listeners")
        other = form == "kubernetes" and world.zone.service("mes-http", "").sni in config
        return world.zone.service("mes-http", FORMS[form]).sni in config and not other

    # A listener that was replaced stays in the dump while it drains.
    eventually(meant, "the listener of the service that is meant, alone")


def _busy(*ports: int) -> bool:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return True
    return False


@pytest.mark.parametrize(("name", "port"), [("example", 8080), ("backend", 10080)])
def test_the_seeds_dataplanes(world: World, form: str, name: str, port: int) -> None:
    """The Dataplanes of the pages, as they stand, reach `mes-http` and `httpbin` through their outbounds."""
    if _busy(port, *((16379,) if name == "example" else ())):
        pytest.skip(f"a port that the seed names is taken on this machine: {port}")
    try:
        world.zone.become(seed(f"dataplane-{name}"), "redirect")
        world.zone.become(seed(f"dataplane-{name}"))
        world.zone.show()
        answer = eventually(
            lambda: (found := asyncio.run(http1("127.0.0.1", port))).status == 200 and found, "an answer"
        )
        assert answer.seen["server"] == {"example": "mes-http", "backend": "httpbin"}[name]
    finally:
        world.place(form)
        eventually(lambda: world.http("mes-http").status == 200, "an answer")


@pytest.mark.parametrize("text", ["mesh-default-universal", "mesh-default-kubernetes"])
def test_the_seeds_mesh_forbids_access(world: World, form: str, text: str) -> None:
    """defaultForbidMeshExternalServiceAccess as the pages write it: HTTP 403, TCP closed; and back."""
    world.zone.apply(seed(text))
    world.zone.show()
    try:
        eventually(lambda: world.http("mes-http").status == 403, "HTTP to be forbidden")
        eventually(lambda: world.tcp("mes-tcp").status == 0, "TCP to be closed")
    finally:
        world.place(form)
        eventually(lambda: world.http("mes-http").status == 200, "an answer")


def test_the_fragments(world: World, form: str) -> None:
    """`match` and `tls` as the guide explains them. TLS is off unless enabled, so this goes out in clear.

    Its `endpoints` mix an IP, a name and a socket: accepted, and closed with a reason (see test_fail_closed.py).
    """
    parts = {one: seed(f"fragment-{one}").replace("\n", "\n  ").rstrip() for one in ("match", "tls")}
    text = "type: MeshExternalService\nname: fragments\nmesh: default\nspec:\n  " + "\n  ".join(parts.values())
    port = world.servers["mes-tcp"][0].port
    world.zone.apply(f"{text}\n  endpoints: [{{address: localhost, port: {port}}}]\n")
    assert world.zone.service("fragments").failure is None
    assert world.zone.service("fragments").tls is None
