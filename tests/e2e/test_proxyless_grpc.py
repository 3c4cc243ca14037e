"""A proxyless gRPC client: grpcio's own xds resolver is served an in-mesh service and follows it."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    Locality,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import ApiListener, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.google.protobuf import Any as AnyMessage
from grpc import aio
from immutables import Map

from shared.events.state import Position
from zone_cp.ads.delta import Acked, Nacked
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo, Refused, TlsFiles
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Encoded, Snapshot
from zone_cp.xds.wire import encode

PROXY, SERVICE = "default.client-1", "backend"
SECONDS = 20.0
DAY = dt.timedelta(days=1)
ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
pytestmark = pytest.mark.anyio

CLIENT = """
import sys, grpc
with grpc.insecure_channel("xds:///backend") as channel:
    call = channel.unary_unary("/test.Echo/Say")
    for line in sys.stdin:
        print(call(line.strip().encode(), timeout=15, wait_for_ready=True).decode(), flush=True)
"""
"""Says a line per call; its environment is read at start, so it is a process of its own."""


def service(position: int, cluster: str, port: int) -> Snapshot:
    """What a client of one in-mesh service holds: an API listener, its routes, a cluster and its endpoints."""
    router = HttpFilter(name="envoy.filters.http.router", typed_config=AnyMessage.pack(Router()))
    manager = HttpConnectionManager(rds=Rds(config_source=ADS, route_config_name=SERVICE), http_filters=[router])
    action = Route(match=RouteMatch(prefix=""), route=RouteAction(cluster=cluster))
    host = VirtualHost(name="all", domains=["*"], routes=[action])
    eds = ClusterEdsClusterConfig(eds_config=ADS)
    address = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=port))
    place = LocalityLbEndpoints(
        locality=Locality(region="east"),
        lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))],
        load_balancing_weight=1,
    )
    made: list[tuple[str, str, Any]] = [
        (LISTENER, SERVICE, Listener(name=SERVICE, api_listener=ApiListener(api_listener=AnyMessage.pack(manager)))),
        (ROUTE, SERVICE, RouteConfiguration(name=SERVICE, virtual_hosts=[host])),
        (CLUSTER, cluster, Cluster(name=cluster, type=ClusterDiscoveryType.EDS, eds_cluster_config=eds)),
        (ENDPOINT, cluster, ClusterLoadAssignment(cluster_name=cluster, endpoints=[place])),
    ]
    types: dict[str, Map[str, Encoded]] = {url: Map({name: encode(url, name, bytes(m))}) for url, name, m in made}
    return Snapshot(Position(position, 0), Map(types))


@asynccontextmanager
async def echo(name: str) -> AsyncGenerator[int]:
    """A gRPC service that says its name before what it is told."""

    async def say(request: bytes, _: object) -> bytes:
        return name.encode() + b" " + request

    method: Any = grpc.unary_unary_rpc_method_handler(say)
    server = aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def client(directory: Path, ads_port: int, creds: dict[str, Any]) -> AsyncGenerator[asyncio.subprocess.Process]:
    server = {"server_uri": f"localhost:{ads_port}", "server_features": ["xds_v3"], **creds}
    bootstrap = {
        "xds_servers": [server],
        "node": {"id": PROXY, "cluster": "client", "metadata": {"features": []}},
    }
    path = directory / "grpc.json"
    path.write_text(json.dumps(bootstrap))
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(path), "GRPC_VERBOSITY": "ERROR"}
    environment["GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS"] = "true"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


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


async def say(process: asyncio.subprocess.Process, word: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n".encode())
    async with asyncio.timeout(SECONDS):
        return (await process.stdout.readline()).decode().strip()


@pytest.mark.parametrize("secure", [True, False], ids=["TLS and a dataplane token", "plaintext"])
async def test_a_grpc_client_resolves_calls_and_follows_an_in_mesh_service(secure: bool) -> None:
    """LDS, RDS, CDS and EDS by name over SotW; an endpoint moves, then the route moves to another cluster."""
    facts: list[Acked | Nacked] = []
    nodes: list[NodeInfo] = []

    async def admit(node: NodeInfo, token: str | None) -> Admission:
        if secure and token != issued:
            return Refused(grpc.StatusCode.UNAUTHENTICATED, "this token is unknown")
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
            plane.offer(PROXY, service(1, "v1", one))
            async with client(directory, port, creds) as process:
                assert await say(process, "hello") == "one hello"
                for position, cluster, at, expected in ((2, "v1", two, "two"), (3, "v2", one, "one")):
                    plane.offer(PROXY, service(position, cluster, at))
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
