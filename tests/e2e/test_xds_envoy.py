"""What the generator makes, in real Envoys: a sidecar, a zone egress, and real services outside."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from immutables import Map

from shared.model.inbound import Inbound
from shared.model.resource import Endpoint
from tests.conftest import take_port
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually, get
from tests.xds.outside import Outside, server_context
from tests.xds.views import (
    Authority,
    Secrets,
    egress,
    egress_view,
    mesh_view,
    outbound_to,
    secured,
    service,
    sidecar,
    zone_view,
)
from zone_cp.view.zone_view import EgressView, ExternalServiceView, Failure, MeshView, ProxyView
from zone_cp.xds.compile import compile_proxy

pytestmark = pytest.mark.e2e

NAME = "payments.test"


class World:
    """A zone of two Envoys and its outside."""

    def __init__(self, directory: Path, outside: Outside, authority: Authority) -> None:
        self.outside, self.authority, self.secrets = outside, authority, Secrets()
        self.port, self.egress_port, self.outbound_port = take_port(), take_port(), take_port()
        self.dead = take_port()
        self.log = directory / "access.log"
        self.log.touch()
        self.inbound_port = take_port()
        tags = Map({"kuma.io/service": "web"})
        inbound = Inbound(port=self.inbound_port, service_port=outside.http, tags=tags)
        outbound = outbound_to("plain", self.outbound_port)
        self.sidecar = sidecar("bind-vips", outbound=(outbound,), inbound=(inbound,))
        self.redirected = sidecar("redirect", redirect_port=self.port)
        self.egress = egress(self.egress_port, f"access-log={self.log}")
        ads = {"sidecar": take_port(), "egress": take_port()}
        self.ads = {name: DeltaServer(port) for name, port in ads.items()}
        self.services = self._services(authority)
        self.view = self.with_services(*self.services)
        self.show()
        self.envoys = {name: Envoy(directory, name, take_port(), ads[name]) for name in ads}

    def stop(self) -> None:
        for envoy in self.envoys.values():
            envoy.stop()
        for double in self.ads.values():
            double.stop()

    def _services(self, ca: Authority) -> list[ExternalServiceView]:
        outside, other = self.outside, Authority("other")
        here = [Endpoint(address="127.0.0.1", port=port) for port in (outside.http, outside.https, outside.tcp)]
        pair = ca.issue("zonal-client")

        def mutual(name: str, vip: str, ca_pem: str | None, server_name: str = NAME) -> ExternalServiceView:
            tls = secured(server_name)
            return service(name, vip=vip, port=self.port, tls=tls, ca=ca_pem, client=pair, endpoints=(here[1],))

        return [
            service("plain", vip="127.16.0.1", port=self.port, endpoints=(here[0],)),
            mutual("mutual", "127.16.0.2", ca.pem),
            mutual("distrusted", "127.16.0.3", other.pem),
            mutual("misnamed", "127.16.0.4", ca.pem, "other.test"),
            service("closed", vip="127.16.0.5", port=self.port, failure=Failure("Held", "a person closed it")),
            mutual("uncertain", "127.16.0.6", None),
            service(
                "socket", vip="127.16.0.7", port=self.port, endpoints=(Endpoint(address=f"unix://{outside.socket}"),)
            ),
            service(
                "rpc",
                vip="127.16.0.9",
                port=self.port,
                protocol="grpc",
                endpoints=(Endpoint(address="127.0.0.1", port=outside.rpc),),
            ),
            service(
                "failover",
                vip="127.16.0.8",
                port=self.port,
                endpoints=(
                    Endpoint(address="127.0.0.1", port=self.dead, priority=3),
                    Endpoint(address="localhost", port=outside.http, priority=7),
                ),
            ),
            service(
                "echo",
                vip="127.17.0.1",
                port=self.port,
                protocol="tcp",
                tls=secured(NAME),
                ca=ca.pem,
                endpoints=(here[2],),
            ),
        ]

    def named(self, name: str) -> ExternalServiceView:
        return next(one for one in self.services if one.name == name)

    def with_services(self, *services: ExternalServiceView, **changes: Any) -> Any:
        egresses: tuple[EgressView, ...] = changes.pop("egresses", (egress_view(self.egress_port),))
        mesh: MeshView = mesh_view(*services, **changes)
        return zone_view(mesh, egresses=egresses)

    def show(self, view: Any = None, *, sidecar_proxy: ProxyView | None = None) -> None:
        view = self.view if view is None else view
        self.ads["egress"].offer(compile_proxy(view, self.egress, self.secrets))
        self.ads["sidecar"].offer(compile_proxy(view, sidecar_proxy or self.sidecar, self.secrets))

    def get(self, vip: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        return get(vip, self.port, headers)

    def eventually(self, vip: str, status: int) -> str:
        seen = eventually(lambda: (found := self.get(vip))[0] == status and found, f"{status} from {vip}")
        return str(seen[1])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("xds")
    authority = Authority()
    pair = authority.issue(NAME, x509.DNSName(NAME))
    mutual = server_context(directory, pair, authority.pem)
    with Outside(directory, mutual, server_context(directory, pair)) as outside:
        made = World(directory, outside, authority)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture(autouse=True)
def as_it_was(world: World) -> Iterator[None]:
    world.show()
    world.eventually("127.16.0.1", 200)
    yield
    assert [fault for double in world.ads.values() for fault in double.nacks] == []


def test_plaintext_leaves_the_mesh_through_sidecar_and_egress(world: World) -> None:
    """A request to a VIP reaches the external service; nothing of the mesh's own headers goes with it."""
    status, body = world.get("127.16.0.1", {"x-zonal-cluster": "ads", "x-envoy-retry-on": "5xx", "x-app": "1"})
    headers = json.loads(body)["headers"]
    assert (status, headers["x-app"]) == (200, "1")
    assert [name for name in headers if name.startswith(("x-envoy-", "x-zonal-")) or name == "x-vip"] == []
    assert "x-forwarded-client-cert" not in headers


def test_the_egress_originates_verified_tls(world: World) -> None:
    """The external server sees the configured SNI, the client certificate and its own name as Host."""
    seen = json.loads(world.eventually("127.16.0.2", 200))
    assert (seen["sni"], seen["client"], seen["headers"]["host"]) == (NAME, ["zonal-client"], NAME)


@pytest.mark.parametrize("vip", ["127.16.0.3", "127.16.0.4"])
def test_a_server_that_does_not_verify_gets_no_request(world: World, vip: str) -> None:
    """Wrong CA and wrong name: 503 with Envoy's own reason, and a line in the access log for the agent."""
    body = world.eventually(vip, 503)
    assert "CERTIFICATE_VERIFY_FAILED" in body
    lines = eventually(lambda: [one for one in _log(world) if vip in one["cluster"]], "a line in the access log")
    assert (lines[-1]["code"], "CERTIFICATE_VERIFY_FAILED" in lines[-1]["reason"]) == (503, True)


@pytest.mark.parametrize(
    ("vip", "why"), [("127.16.0.5", "a person closed it"), ("127.16.0.6", "knows no system CA"), ("127.16.9.9", "")]
)
def test_a_closed_service_says_why(world: World, vip: str, why: str) -> None:
    """A service that cannot be served answers 503 with the reason; its neighbours are untouched."""
    if why:
        assert why in world.eventually(vip, 503)
    assert world.get("127.16.0.1")[0] == 200


def test_a_unix_socket_is_an_endpoint(world: World) -> None:
    """`unix:///path` is dialled on the host of the proxy that dials (decision 1)."""
    assert json.loads(world.eventually("127.16.0.7", 200))["instance"] == str(world.outside.socket)


def test_grpc_streams_in_both_directions(world: World) -> None:
    """Plaintext HTTP/2 from the application stays HTTP/2 all the way; closed services answer a gRPC status."""
    for address, expected in (("127.16.0.9", [b"one", b"two"]), ("127.16.0.5", "a person closed it")):
        with grpc.insecure_channel(f"{address}:{world.port}") as channel:
            talk: Any = channel.stream_stream("/test.Echo/Talk")
            try:
                said: object = list(talk(iter([b"one", b"two"]), timeout=10))
            except grpc.RpcError as fault:
                said = fault.details()
        assert said == expected or (isinstance(expected, str) and expected in str(said))


def test_a_dead_endpoint_gives_way_to_the_next_priority(world: World) -> None:
    """Priorities 3 and 7, the first one dead: the named one answers, and its name is the Host."""
    seen = json.loads(world.eventually("127.16.0.8", 200))
    assert (seen["instance"], seen["headers"]["host"]) == (world.outside.http, "localhost")
    assert [world.get("127.16.0.8")[0] for _ in range(5)] == [200] * 5


def test_tcp_goes_the_same_way(world: World) -> None:
    """A TCP service is TLS outside and plaintext inside."""
    assert eventually(lambda: _echo("127.17.0.1", world.port) == b"hello\n", "an echo")


def test_an_explicit_outbound_leads_to_its_service(world: World) -> None:
    """`backendRef` gives a listener on its own address and port."""
    eventually(lambda: get("127.0.0.1", world.outbound_port)[0] == 200, "an answer through the outbound")


def test_forbidden_access_is_refused_and_comes_back(world: World) -> None:
    """defaultForbidMeshExternalServiceAccess: 403 for HTTP, a closed connection for TCP; and back."""
    world.show(world.with_services(*world.services, forbid_external=True))
    assert "forbids" in world.eventually("127.16.0.1", 403)
    eventually(lambda: _echo("127.17.0.1", world.port) == b"", "a closed connection")
    world.show()
    world.eventually("127.16.0.1", 200)
    eventually(lambda: _echo("127.17.0.1", world.port) == b"hello\n", "an echo")


def test_without_an_egress_it_fails_closed(world: World) -> None:
    """No egress online: 503 that says so; never a silent way around."""
    world.show(world.with_services(*world.services, egresses=()))
    assert "no zone egress of zone east is online" in world.eventually("127.16.0.1", 503)


def test_redirected_traffic_needs_no_resource_per_service(world: World) -> None:
    """One listener for all VIPs: the SNI is made of the address dialled, and a client's header cannot change it."""
    world.show(sidecar_proxy=world.redirected)
    envoy: Envoy = world.envoys["sidecar"]
    eventually(lambda: envoy.listens("outbound/redirect"), "the redirect listener")
    eventually(lambda: not envoy.listens(f"outbound/127.16.0.1:{world.port}"), "the VIP listeners to go")
    assert json.loads(world.eventually("127.16.0.2", 200))["sni"] == NAME
    hostile = {
        "x-zonal-sni": f"v127.16.0.2.p{world.port}.default.mes",
        "x-zonal-cluster": world.named("mutual").cluster,
    }
    status, body = world.get("127.16.0.1", hostile)
    assert (status, json.loads(body)["instance"]) == (200, world.outside.http)
    assert "no MeshExternalService is served here" in world.eventually("127.16.9.9", 503)
    assert eventually(lambda: _echo("127.17.0.1", world.port) == b"hello\n", "an echo")
    assert _echo("127.17.9.9", world.port) == b""


@pytest.mark.parametrize(
    "sni", ["ads", "mes.default.mes", "v127.17.0.1.p1.other.mes", "..default.mes", "v127.16.0.1.p1.default.mes"]
)
@pytest.mark.parametrize("protocol", ["http/1.1", "mes-tcp"])
def test_a_hostile_sni_reaches_nothing(world: World, sni: str, protocol: str) -> None:
    """A workload with a valid certificate reaches services of its mesh and class, and nothing else."""
    status = _knock(world, sni, protocol, with_certificate=True)
    assert status in ("", "503")


def test_nobody_enters_the_egress_without_a_certificate_of_the_mesh(world: World) -> None:
    """Without a client certificate, or with another mesh's, there is no answer."""
    sni = world.named("plain").sni
    assert _knock(world, sni, "http/1.1", with_certificate=True) == "200"
    assert _knock(world, sni, "http/1.1", with_certificate=False) == ""
    foreign = Authority("foreign").issue("x", x509.UniformResourceIdentifier("spiffe://default/web"))
    assert _knock(world, sni, "http/1.1", with_certificate=True, pair=foreign) == ""


def test_an_inbound_lets_in_workloads_of_the_mesh_alone(world: World) -> None:
    """STRICT: a certificate of the mesh opens the application's port; nothing else does. PERMISSIVE: plaintext too.

    There, a sidecar is known by its ALPN; other TLS goes on to the application, which speaks none here.
    """
    port = world.inbound_port
    eventually(lambda: _knock(world, "", "x", with_certificate=True, port=port) == "200", "an answer")
    assert _knock(world, "", "x", with_certificate=False, port=port) == ""
    assert get("127.0.0.1", port)[0] == 0
    world.show(world.with_services(*world.services, permissive=True))
    eventually(lambda: get("127.0.0.1", port)[0] == 200, "plaintext to be let in")
    assert _knock(world, "", "kuma", with_certificate=True, port=port) == "200"
    assert _knock(world, "", "kuma", with_certificate=False, port=port) == ""


def test_direct_mode_carries_the_clusters_itself(world: World) -> None:
    """A mesh whose TLS is originated at the sidecar: same clusters, same answers, no egress needed."""
    world.show(world.with_services(*world.services, origination="sidecar", egresses=()))
    body = eventually(lambda: "a person closed it" in (found := world.get("127.16.0.5"))[1] and found[1], "direct mode")
    assert "a person closed it" in body
    seen = json.loads(world.eventually("127.16.0.2", 200))
    assert (seen["sni"], seen["client"]) == (NAME, ["zonal-client"])
    assert "CERTIFICATE_VERIFY_FAILED" in world.eventually("127.16.0.3", 503)
    eventually(lambda: _echo("127.17.0.1", world.port) == b"hello\n", "an echo")
    world.show(world.with_services(*world.services, origination="sidecar", egresses=(), forbid_external=True))
    world.eventually("127.16.0.1", 403)
    eventually(lambda: _echo("127.17.0.1", world.port) == b"", "a closed connection")


def _log(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.log.read_text().splitlines() if line]


def _echo(host: str, port: int) -> bytes:
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(b"hello\n")
            return connection.recv(64)
    except OSError:
        return b""


def _knock(
    world: World, sni: str, protocol: str, *, with_certificate: bool, pair: tuple[str, str] | None = None, port: int = 0
) -> str:
    """Speak to the egress (or another port) directly: the HTTP status it answers, "" when it closes the connection."""
    svid = world.secrets.identity("default", "spiffe://default/web")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    if with_certificate:
        chain, key = pair or (svid.chain_pem, svid.key_pem)
        path = world.log.with_name("knock.pem")
        path.touch(mode=0o600)
        path.write_text(chain + key)
        context.load_cert_chain(path)
    try:
        with (
            socket.create_connection(("127.0.0.1", port or world.egress_port), timeout=5) as raw,
            context.wrap_socket(raw, server_hostname=sni or None) as connection,
        ):
            connection.sendall(
                b"GET / HTTP/1.1\r\nhost: x\r\nx-zonal-cluster: mes/http/default/x\r\nconnection: close\r\n\r\n"
            )
            return connection.recv(4096).decode().partition(" ")[2][:3]
    except (OSError, ValueError):
        return ""
