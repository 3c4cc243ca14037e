"""A real Envoy on the ADS server: first load, update, NACK, supersession of the control plane, removal."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    DataSource,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    TlsCertificate,
)
from envoy_data_plane.google.protobuf import Any as AnyMessage
from immutables import Map

from shared.demo import certificates
from shared.events.state import Position
from zone_cp.ads.delta import Acked, Nacked
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo, Refused, Status, TlsFiles
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Encoded, Snapshot
from zone_cp.xds.wire import encode

ENVOY = Path(sysconfig.get_path("purelib")) / "envoy" / "_bin" / "envoy"
TOKEN = "a-dataplane-token"
PROXY = "default.web-1"
SECONDS = 20.0
ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
pytestmark = pytest.mark.anyio


class Upstream:
    """An HTTP server that says its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = self.name.encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


class ControlPlane:
    """An AdsServer that admits one token and remembers what it heard."""

    def __init__(self, port: int, material: Path) -> None:
        self.facts: list[Acked | Nacked] = []
        self.nodes: list[NodeInfo] = []
        self.heard = asyncio.Event()
        tls = TlsFiles((material / "server.pem").read_bytes(), (material / "server.key").read_bytes())
        self.server = AdsServer(
            "127.0.0.1",
            port,
            tls,
            admit=self.admit,
            on_connected=lambda _proxy, _connection, node: self.nodes.append(node),
            on_disconnected=lambda _proxy, _connection, _reason: None,
            on_ack=self.hear,
            on_nack=self.hear,
            on_observation=lambda _proxy, _seen: None,
        )

    async def admit(self, node: NodeInfo, token: str | None) -> Admission:
        if token != TOKEN:
            return Refused(Status.UNAUTHENTICATED, "this token is unknown")
        return Admitted(node.id)

    def hear(self, _proxy: str, fact: Acked | Nacked) -> None:
        self.facts.append(fact)
        self.heard.set()

    async def offer(self, snapshot: Snapshot) -> None:
        self.server.offer(PROXY, snapshot)
        await self.server.acked(PROXY, snapshot.position, SECONDS)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.heard.clear()
                await self.heard.wait()

    def carried(self) -> list[str]:
        """Names of all resources that any response carried."""
        out: list[str] = []
        for fact in self.facts:
            out.extend((name for name, _ in fact.versions) if isinstance(fact, Acked) else fact.names)
        return out


def bootstrap(ads_port: int, material: Path, api_type: str) -> dict[str, Any]:
    ads = {
        "api_type": api_type,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [
            {
                "envoy_grpc": {"cluster_name": "ads"},
                "initial_metadata": [{"key": "authorization", "value": f"Bearer {TOKEN}"}],
            }
        ],
    }
    http2 = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": certificates.SERVER_NAME,
        "common_tls_context": {"validation_context": {"trusted_ca": {"filename": str(material / "ca.pem")}}},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": ads_port}}
    cluster = {
        "name": "ads",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "load_assignment": {
            "cluster_name": "ads",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    over_ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "15s"}
    return {
        "node": {"id": PROXY, "cluster": "web", "metadata": {"features": ["bind-vips"]}},
        "static_resources": {"clusters": [cluster]},
        "dynamic_resources": {"ads_config": ads, "cds_config": over_ads, "lds_config": over_ads},
    }


@asynccontextmanager
async def envoy(directory: Path, config: dict[str, Any]) -> AsyncGenerator[None]:
    """Envoy, ended by the process we started. Its log is shown when the body fails."""
    path = directory / "bootstrap.json"
    path.write_text(json.dumps(config))
    log = (directory / "envoy.log").open("wb")
    flags = ("--concurrency", "1", "--disable-hot-restart", "--drain-time-s", "1", "--drain-strategy", "immediate")
    process = await asyncio.create_subprocess_exec(
        ENVOY, "-c", str(path), *flags, "--base-id", str(os.getpid()), stdout=log, stderr=log
    )
    try:
        yield
    except BaseException:
        print((directory / "envoy.log").read_text()[-6_000:])
        raise
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
        log.close()


# -- resources ------------------------------------------------------------------------------------------------------


def address_of(port: int) -> Address:
    return Address(socket_address=SocketAddress(address="127.0.0.1", port_value=port))


def cluster(name: str, timeout_seconds: int = 5) -> Encoded:
    from datetime import timedelta

    message = Cluster(
        name=name,
        type=ClusterDiscoveryType.EDS,
        connect_timeout=timedelta(seconds=timeout_seconds),
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ADS),
    )
    return encode(CLUSTER, name, bytes(message))


def assignment(name: str, port: int) -> Encoded:
    endpoints = [LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address_of(port)))])]
    return encode(ENDPOINT, name, bytes(ClusterLoadAssignment(cluster_name=name, endpoints=endpoints)))


def route(name: str, to: str) -> Encoded:
    action = Route(match=RouteMatch(prefix="/"), route=RouteAction(cluster=to))
    message = RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=[action])])
    return encode(ROUTE, name, bytes(message))


def listener(name: str, address: Address, route_name: str, prefix: str = "in") -> Encoded:
    router = HttpFilter(name="envoy.filters.http.router", typed_config=AnyMessage.pack(Router()))
    manager = HttpConnectionManager(
        stat_prefix=prefix, rds=Rds(config_source=ADS, route_config_name=route_name), http_filters=[router]
    )
    tls = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_certificate_sds_secret_configs=[SdsSecretConfig(name="server", sds_config=ADS)]
        )
    )
    chain = FilterChain(
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=AnyMessage.pack(manager))],
        transport_socket=TransportSocket(name="envoy.transport_sockets.tls", typed_config=AnyMessage.pack(tls)),
    )
    return encode(LISTENER, name, bytes(Listener(name=name, address=address, filter_chains=[chain])))


def secret(material: Path) -> Encoded:
    pair = TlsCertificate(
        certificate_chain=DataSource(inline_bytes=(material / "server.pem").read_bytes()),
        private_key=DataSource(inline_bytes=(material / "server.key").read_bytes()),
    )
    return encode(SECRET, "server", bytes(Secret(name="server", tls_certificate=pair)))


def snapshot(position: int, *resources: Encoded) -> Snapshot:
    types: dict[str, dict[str, Encoded]] = {}
    for encoded in resources:
        types.setdefault(encoded.type_url, {})[encoded.name] = encoded
    as_maps: Mapping[str, Map[str, Encoded]] = {url: Map(names) for url, names in types.items()}
    return Snapshot(Position(position, 0), Map(as_maps))


async def answered(port: int, material: Path, by: str) -> None:
    """Wait until this upstream answers: an ACK says what Envoy has taken, its worker may follow a moment later."""
    async with asyncio.timeout(SECONDS):
        while await fetch(port, material) != by:
            continue


async def fetch(port: int, material: Path) -> str:
    """One request over TLS, on a connection of its own, retried only while nothing listens yet."""
    trust = ssl.create_default_context(cafile=str(material / "ca.pem"))
    async with httpx.AsyncClient(verify=trust) as client, asyncio.timeout(SECONDS):
        while True:
            try:
                response = await client.get(
                    f"https://127.0.0.1:{port}/", extensions={"sni_hostname": certificates.SERVER_NAME}
                )
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                continue
            assert response.status_code == 200, response.text
            return response.text


@pytest.mark.parametrize("api_type", ["DELTA_GRPC", "GRPC"], ids=["delta", "sotw"])
async def test_envoy_is_served_updated_and_left_alone(api_type: str, free_port: Callable[[], int]) -> None:
    """Load, endpoint change, cluster swap, a refused listener, a restarted control plane: traffic flows throughout."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        material = directory / "pki"
        certificates.make(material)
        ads_port, port = free_port(), free_port()
        config = bootstrap(ads_port, material, api_type)
        await _story(directory, material, config, ads_port, port, free_port=free_port)


async def _story(
    directory: Path,
    material: Path,
    config: dict[str, Any],
    ads_port: int,
    port: int,
    *,
    free_port: Callable[[], int],
) -> None:
    delta = config["dynamic_resources"]["ads_config"]["api_type"] == "DELTA_GRPC"
    first_plane = ControlPlane(ads_port, material)
    await first_plane.server.start()
    async with Upstream("one") as one, Upstream("two") as two, envoy(directory, config):
        edge = (listener("edge", address_of(port), "edge"), secret(material))
        await first_plane.offer(snapshot(1, cluster("a"), assignment("a", one.port), route("edge", "a"), *edge))
        assert await fetch(port, material) == "one"
        assert first_plane.nodes[0].metadata == {"features": ["bind-vips"]}

        # an endpoint moves
        await first_plane.offer(snapshot(2, cluster("a"), assignment("a", two.port), route("edge", "a"), *edge))
        await answered(port, material, "two")

        # a changed cluster whose assignment Envoy already has is warm at once (rule 17; else 15 s)
        async with asyncio.timeout(10):
            await first_plane.offer(snapshot(3, cluster("a", 6), assignment("a", two.port), route("edge", "a"), *edge))
        assert await fetch(port, material) == "two"

        # the route moves to another cluster and the old one goes
        swapped = (cluster("b"), assignment("b", one.port), route("edge", "b"), *edge)
        await first_plane.offer(snapshot(4, *swapped))
        await answered(port, material, "one")
        removed = [f.removed for f in first_plane.facts if isinstance(f, Acked) and f.type_url == CLUSTER]
        assert removed[-1] == ("a",)

        # a listener that cannot be bound is refused; its neighbour in the same response is not held up
        other = free_port()
        unbindable = Address(socket_address=SocketAddress(address="not an address", port_value=1))
        good, bad = listener("other", address_of(other), "edge"), listener("bad", unbindable, "edge")
        before = len(first_plane.facts)
        await first_plane.offer(snapshot(5, *swapped, good, bad))
        refusals = [f for f in first_plane.facts[before:] if isinstance(f, Nacked) and f.rejected]
        assert [f.rejected[0][0] for f in refusals] == ["bad"]
        assert "not an address" in refusals[0].message
        assert await fetch(port, material) == await fetch(other, material) == "one"

        # the control plane restarts without knowing anything of before: nothing is sent again (SotW cannot prove what
        # a client holds and sends everything, which changes nothing)
        await first_plane.server.stop(5)
        second_plane = ControlPlane(ads_port, material)
        final = snapshot(6, *swapped, good)
        second_plane.server.offer(PROXY, final)
        await second_plane.server.start()
        try:
            await second_plane.server.acked(PROXY, final.position, SECONDS)
            assert set(second_plane.carried()) == (set() if delta else {"b", "edge", "other", "server"})
            assert not any(isinstance(fact, Nacked) for fact in second_plane.facts)
            assert await fetch(port, material) == "one"
            await second_plane.offer(snapshot(7, *swapped))
            (gone,) = (f for f in second_plane.facts if isinstance(f, Acked) and f.removed)
            assert (gone.type_url, gone.removed) == (LISTENER, ("other",))
        finally:
            await second_plane.server.stop(0)
