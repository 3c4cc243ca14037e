"""A proxyless gRPC client: grpcio's own xds resolver is served an in-mesh service and follows it."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from immutables import Map

from shared.events.state import Position
from tests.e2e.grpc_client import SECONDS, client, echo, say
from tests.xds.views import Secrets, mesh_view, sidecar, zone_view
from zone_cp.ads.delta import Acked, Nacked
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo, Refused, Status, TlsFiles
from zone_cp.view.policies import NOTHING_SAID
from zone_cp.view.workloads import Instance, Workloads, WorkloadService
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.in_mesh import Destination, in_mesh_resources
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot
from zone_cp.xds.wire import encode

PROXY, SERVICE = "default.client-1", "backend"
pytestmark = pytest.mark.anyio


def offered(position: int, version: str, port: int) -> Snapshot:
    """What a zone compiles for a client of a service with one instance, the routes led to those of one version."""
    tags = Map({"kuma.io/service": SERVICE, "version": version})
    instances: Map[tuple[str, int], Instance] = Map(
        {
            ("b-1", 0): Instance(
                dataplane="b-1",
                address="127.0.0.1",
                port=port,
                zone="east",
                tags=tags,
                protocol="grpc",
                guarded=True,
                idle="",
                sources=(),
            )
        }
    )
    workloads = Workloads(Map({SERVICE: WorkloadService(SERVICE, "grpc", instances)}))
    mesh = mesh_view(workloads=workloads)
    resources = compile_proxy(zone_view(mesh), sidecar("proxyless"), Secrets()).resources
    subset = Destination(SERVICE, (("version", version),))
    name, target = Destination(SERVICE).cluster(mesh.name), subset.cluster(mesh.name)
    led = RouteConfiguration.parse(resources[ROUTE][name].body)
    action = led.virtual_hosts[0].routes[0].route
    assert action is not None
    action.cluster = target
    for one in (encode(ROUTE, name, bytes(led)), *in_mesh_resources(mesh, subset, NOTHING_SAID, plain=True)):
        resources = resources.set(one.type_url, resources[one.type_url].set(one.name, one))
    for kind in (CLUSTER, ENDPOINT):
        resources = resources.set(kind, resources[kind].delete(name))
    return Snapshot(Position(position, 0), resources)


def material(directory: Path, token: str) -> tuple[TlsFiles, dict[str, Any]]:
    """The server's certificate, and what a client's bootstrap says of it and of its own token."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(days=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    (directory / "ca.pem").write_bytes(certificate)
    (directory / "token").write_text(token)
    ca = {"ca_certificate_file": str(directory / "ca.pem")}
    bearer = {"type": "jwt_token_file", "config": {"jwt_token_file": str(directory / "token")}}
    creds = {"channel_creds": [{"type": "tls", "config": ca}], "call_creds": [bearer]}
    return TlsFiles(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())), creds


@pytest.mark.parametrize("secure", [True, False], ids=["TLS and a dataplane token", "plaintext"])
async def test_a_grpc_client_resolves_calls_and_follows_an_in_mesh_service(secure: bool) -> None:
    """LDS, RDS, CDS and EDS by name over SotW; an endpoint moves, then the route moves to another cluster."""
    facts: list[Acked | Nacked] = []
    nodes: list[NodeInfo] = []

    async def admit(node: NodeInfo, token: str | None) -> Admission:
        if secure and token != issued:
            return Refused(Status.UNAUTHENTICATED, "this token is unknown")
        return Admitted(node.id)

    issued = jwt.encode({"exp": int(time.time()) + 600}, "k" * 32)
    directory = Path(tempfile.mkdtemp())
    tls, creds = None, {"channel_creds": [{"type": "insecure"}]}
    if secure:
        tls, creds = material(directory, issued)
    plane = AdsServer(
        "127.0.0.1",
        0,
        tls,
        admit=admit,
        on_connected=lambda _proxy, _connection, node: nodes.append(node),
        on_disconnected=lambda _proxy, _connection, _reason: None,
        on_ack=lambda _proxy, fact: facts.append(fact),
        on_nack=lambda _proxy, fact: facts.append(fact),
        on_observation=lambda _proxy, _seen: None,
    )
    port = await plane.start()
    try:
        async with echo("one") as one, echo("two") as two:
            plane.offer(PROXY, offered(1, "v1", one))
            async with client(directory, port, creds, {"id": PROXY, "metadata": {"features": []}}) as process:
                assert await say(process, "hello") == "one hello"
                for position, version, at, expected in ((2, "v1", two, "two"), (3, "v2", one, "one")):
                    plane.offer(PROXY, offered(position, version, at))
                    await plane.acked(PROXY, Position(position, 0), SECONDS)
                    async with asyncio.timeout(SECONDS):
                        while await say(process, "again") != f"{expected} again":
                            pass
    finally:
        await plane.stop(0)
        shutil.rmtree(directory)
    assert nodes[0].id == PROXY
    assert {fact.type_url for fact in facts if isinstance(fact, Acked)} == {LISTENER, ROUTE, CLUSTER, ENDPOINT}
    assert not any(isinstance(fact, Nacked) for fact in facts)
