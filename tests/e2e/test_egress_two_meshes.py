"""One egress listener, two meshes: what a workload of one mesh, or anybody else, can reach of the other. Nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from immutables import Map

from shared.model.resource import Endpoint, Extension, Protocol
from tests.conftest import take_port
from tests.xds.clients import is_whole
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually
from tests.xds.views import Authority, Secrets, egress, mesh_view, service, zone_view
from zone_cp.view.zone_view import ExternalServiceView
from zone_cp.xds.compile import compile_proxy

pytestmark = pytest.mark.e2e

MESHES = ("alpha", "beta")
KINDS = ("http", "tcp", "page")
PORT = 8080


class _Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.reached.append(self.server.name)  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):
            data: bytes = self.request.recv(4096)
            body = json.dumps({"reached": self.server.name, "saw": data.decode("latin-1")}).encode()  # type: ignore[attr-defined]
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            self.wfile.write(head + body)


class Outside(socketserver.ThreadingTCPServer):
    """An external service that notes every connection."""

    daemon_threads = True

    def __init__(self, name: str, reached: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.name, self.reached = name, reached
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class World:
    """An egress that serves both meshes; `reached` names every service that anything got through to."""

    def __init__(self, directory: Path, *, on_demand: bool) -> None:
        self.on_demand = on_demand
        self.directory, self.secrets = directory, Secrets()
        self.reached: list[str] = []
        self.port, ads, admin = take_port(), take_port(), take_port()
        self.outside: list[Outside] = []
        self.services = {(mesh, kind): self._service(mesh, kind) for mesh in MESHES for kind in KINDS}
        self.ads = DeltaServer(ads)
        self.show()
        self.envoy = Envoy(directory, "egress", admin, ads)

    def _service(self, mesh: str, kind: str) -> ExternalServiceView:
        protocol: Protocol = "tcp" if kind == "tcp" else "http"
        number = MESHES.index(mesh) * len(KINDS) + KINDS.index(kind)
        vip = f"127.{17 if kind == 'tcp' else 16}.0.{number + 1}"
        if kind == "page":
            page = service(kind, mesh=mesh, vip=vip, port=PORT, endpoints=())
            config = Map({"status": 200, "body": f"page of {mesh}", "headers": Map({"content-type": "text/html"})})
            return msgspec.structs.replace(page, extension=Extension(type="static-response", config=config))
        server = Outside(f"{mesh}/{kind}", self.reached)
        self.outside.append(server)
        there = Endpoint(address="127.0.0.1", port=server.server_address[1])
        return service(kind, mesh=mesh, vip=vip, port=PORT, protocol=protocol, endpoints=(there,))

    def show(self, forbidding: str = "") -> None:
        views = [
            mesh_view(*(self.services[mesh, kind] for kind in KINDS), name=mesh, forbid_external=mesh == forbidding)
            for mesh in MESHES
        ]
        view, log = zone_view(*views), self.directory / "access.log"
        if self.on_demand:
            view = msgspec.structs.replace(view, on_demand_above=0)
        self.ads.offer(compile_proxy(view, egress(self.port, f"access-log={log}"), self.secrets))

    def stop(self) -> None:
        self.envoy.stop()
        self.ads.stop()
        for server in self.outside:
            server.shutdown()
            server.server_close()

    def context(self, protocols: list[str], pair: tuple[str, str] | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if protocols:
            context.set_alpn_protocols(protocols)
        if pair is not None:
            path = self.directory / "client.pem"
            path.touch(mode=0o600)
            path.write_text("".join(pair))
            context.load_cert_chain(path)
        return context

    def workload(self, mesh: str) -> tuple[str, str]:
        """A real certificate of a workload of the mesh."""
        svid = self.secrets.identity(mesh, f"spiffe://{mesh}/web")
        return svid.chain_pem, svid.key_pem

    def call(self, sni: str, context: ssl.SSLContext, headers: str = "", session: Any = None) -> tuple[str, Any]:
        """The whole answer, "" when the egress closes the connection; and the TLS session."""
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=5) as raw,
                context.wrap_socket(raw, server_hostname=sni or None, session=session) as connection,
            ):
                connection.sendall(f"GET / HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n".encode())
                received = b""
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    while not is_whole(received) and (data := connection.recv(4096)):
                        received += data
                return received.decode("latin-1"), connection.session
        except (OSError, ValueError):
            return "", None


@pytest.fixture(scope="module", params=["eager", "on-demand"])
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("meshes"), on_demand=request.param == "on-demand")
    try:
        eventually(lambda: made.envoy.listens("egress"), "the egress's listener")
        own = made.context(["http/1.1"], made.workload("alpha"))
        eventually(lambda: " 200 " in made.call(made.services["alpha", "http"].sni, own)[0], "alpha's service")
        yield made
        assert made.ads.nacks == []
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def nothing_yet(world: World) -> None:
    world.reached.clear()


ALPN = {"http": ["http/1.1"], "page": ["http/1.1"], "tcp": ["mes-tcp"]}


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_workload_reaches_its_own_mesh(world: World, mesh: str, kind: str) -> None:
    """What must not work across meshes does work within each, or this file would prove nothing."""
    answer, _ = world.call(world.services[mesh, kind].sni, world.context(ALPN[kind], world.workload(mesh)))
    assert " 200 " in answer
    assert world.reached == ([] if kind == "page" else [f"{mesh}/{kind}"])
    if kind == "page":
        assert answer.endswith(f"page of {mesh}")
        assert "content-type: text/html" in answer


def hostile(target: ExternalServiceView) -> str:
    """Headers that would choose a cluster if the egress believed its client."""
    lines = [f"x-zonal-cluster: {target.cluster}", f"x-zonal-sni: {target.sni}", f"x-vip: {target.vip}:{PORT}"]
    lines += [f"x-envoy-original-dst-host: {target.vip}:{PORT}", f"X-ZONAL-CLUSTER: {target.cluster}"]
    return "".join(f"{line}\r\n" for line in lines)


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h2"], ["mes-tcp"], ["mes-tcp", "h2", "http/1.1"], ["x"], []])
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_certificate_with_another_meshs_sni_reaches_nothing(
    world: World, kind: str, protocols: list[str]
) -> None:
    """A workload of alpha that names a service of beta is not even answered, whatever protocol it offers."""
    target = world.services["beta", kind]
    answer, _ = world.call(target.sni, world.context(protocols, world.workload("alpha")), hostile(target))
    assert (answer, world.reached) == ("", [])


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_headers_choose_nothing(world: World, kind: str) -> None:
    """With the SNI of its own mesh a workload reaches its own service, and the headers never arrive there."""
    answer, _ = world.call(
        world.services["alpha", "http"].sni,
        world.context(["http/1.1"], world.workload("alpha")),
        hostile(world.services["beta", kind]),
    )
    seen = json.loads(answer.partition("\r\n\r\n")[2])
    assert (seen["reached"], world.reached) == ("alpha/http", ["alpha/http"])
    assert not [line for line in seen["saw"].lower().splitlines() if line.startswith(("x-zonal", "x-vip", "x-envoy"))]


@pytest.mark.parametrize(("kind", "protocols"), [("http", ["mes-tcp"]), ("page", ["mes-tcp"]), ("tcp", ["http/1.1"])])
def test_the_protocol_of_the_other_class_reaches_nothing(world: World, kind: str, protocols: list[str]) -> None:
    """A service is reachable in its own class alone: not as raw bytes, and not through an HTTP connection manager."""
    target = world.services["alpha", kind]
    answer, _ = world.call(target.sni, world.context(protocols, world.workload("alpha")), hostile(target))
    assert world.reached == []
    assert answer == "" or " 503 " in answer.partition("\r\n")[0]


@pytest.mark.parametrize(
    "sni", ["{own}.beta.mes", "beta.mes", "{own}", "{there}.alpha.mes", "..beta.mes", "*.beta.mes"]
)
def test_an_sni_between_two_meshes_reaches_nothing(world: World, sni: str) -> None:
    """Names that are cut and joined of two meshes' names."""
    own, there = world.services["alpha", "http"].sni, world.services["beta", "http"].sni
    name = sni.format(own=own.removesuffix(".mes"), there=there.removesuffix(".mes"))
    for protocol in ("http/1.1", "mes-tcp"):
        answer, _ = world.call(name, world.context([protocol], world.workload("alpha")))
        assert world.reached == []
        assert answer == "" or " 503 " in answer.partition("\r\n")[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_of_one_mesh_opens_no_other(world: World, version: ssl.TLSVersion) -> None:
    """A session of alpha's chain, resumed with the SNI of beta, is a stranger's there."""
    context = world.context(["http/1.1"], world.workload("alpha"))
    context.minimum_version = context.maximum_version = version
    answer, session = world.call(world.services["alpha", "http"].sni, context)
    assert " 200 " in answer
    assert session is not None
    world.reached.clear()
    for kind in ("http", "page"):
        answer, _ = world.call(world.services["beta", kind].sni, context, session=session)
        assert (answer, world.reached) == ("", [])


def test_a_name_in_a_certificate_is_worth_nothing_without_its_authority(world: World) -> None:
    """beta's SPIFFE id signed by alpha's authority, by a foreign one, by itself; and no certificate at all."""
    uri = x509.UniformResourceIdentifier("spiffe://beta/web")
    forged = [world.secrets.authority("alpha").issue("x", uri), Authority("foreign").issue("x", uri), None]
    # alpha's authority did sign this one, but the name is of no workload of alpha.
    misnamed = world.secrets.authority("alpha").issue("x", uri)
    for pair in forged:
        for kind in KINDS:
            world.call(world.services["beta", kind].sni, world.context(ALPN[kind], pair))
    world.call(world.services["alpha", "http"].sni, world.context(["http/1.1"], misnamed))
    assert world.reached == []


def test_what_one_mesh_forbids_the_other_may(world: World) -> None:
    """403 for every HTTP service of alpha, one that an extension answers for included; beta goes on as before."""
    own, others = (world.context(["http/1.1"], world.workload(mesh)) for mesh in MESHES)
    world.show(forbidding="alpha")
    try:
        for kind in ("http", "page"):
            sni = world.services["alpha", kind].sni
            refused = partial(world.call, sni, own)
            eventually(lambda ask=refused: " 403 " in ask()[0], f"alpha's {kind} to be forbidden")  # type: ignore[misc]
            assert " 200 " in world.call(world.services["beta", kind].sni, others)[0]
    finally:
        world.show()
    eventually(lambda: " 200 " in world.call(world.services["alpha", "http"].sni, own)[0], "alpha may again")
