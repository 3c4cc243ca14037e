"""`zonal proxy` for real: the agent's process, a real Envoy under it, and a control plane over real gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socketserver
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from shared.demo import certificates, services
from shared.demo.looking import eventually
from shared.pb import agent_pb2 as pb
from tests.agent.control_plane import CDS, LDS, WAIT_SECONDS, ControlPlane

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

TOKEN = "eyJhbGciOiJub25lIn0.first.token"
CLUSTER = "mes/http/default/v242-0-0-5.p80.default.mes"

DATAPLANE = """\
type: Dataplane
name: app
mesh: default
networking:
  address: 127.0.0.1
  inbound:
    - port: 18080
      tags:
        kuma.io/service: shop
"""

RUN = """
import sys, msgspec
from shared.process import logs
from shared.process.settings import ProxySettings
from zone_cp.agent.app import run
settings = msgspec.json.decode(sys.argv[1], type=ProxySettings)
logs.configure(settings.log_level)
sys.exit(run(settings))
"""


class Agent:
    """One agent process, its ready line and its log."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path) -> None:
        self.child = child
        self.log = log
        self.ready: dict[str, Any] = {}

    async def wait_ready(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            line = await self.child.stdout.readline()
        assert line, self.log.read_text()
        self.ready = json.loads(line)
        return self.ready

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.child.wait()


class World:
    """A control plane, a directory, and agents started in it."""

    def __init__(self, directory: Path, plane: ControlPlane, free_port: Callable[[], int]) -> None:
        self.directory = directory
        self.plane = plane
        self.free_port = free_port
        self.token = directory / "token"
        self.token.write_text(TOKEN + "\n")

    @asynccontextmanager
    async def agent(self, **settings: Any) -> AsyncIterator[Agent]:
        given = {
            "kind": "sidecar",
            "cp_address": f"https://127.0.0.1:{self.plane.port}",
            "ca_cert_file": str(self.plane.ca_file),
            "dataplane": DATAPLANE,
            "dataplane_token_file": str(self.token),
            "workdir": str(self.directory / "proxy"),
            "admin_port": self.free_port(),
            "dns_port": self.free_port(),
            "concurrency": 1,
            "log_level": "debug",
        } | settings
        log = self.directory / "agent.log"
        with log.open("ab") as stderr:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", RUN, json.dumps(given), stdout=asyncio.subprocess.PIPE, stderr=stderr
            )
        agent = Agent(child, log)
        try:
            yield agent
        finally:
            if child.returncode is None:
                await agent.end(signal.SIGKILL)


@pytest.fixture
async def world(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[World]:
    plane = ControlPlane(tmp_path)
    await plane.start()
    yield World(tmp_path, plane, free_port)
    await plane.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while alive(pid):  # noqa: ASYNC110 - the kernel tells only the parent
            await asyncio.sleep(0.02)


async def fetch(url: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def lookup(ready: dict[str, Any], name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    host, _, port = ready["dns"].rpartition(":")
    ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await ask(dns.message.make_query(name, kind), host, port=int(port), timeout=5)


def addresses(answer: dns.message.Message) -> list[str]:
    return [record.to_text() for records in answer.answer for record in records]


async def test_start_and_graceful_stop(world: World) -> None:
    """The proxy says who it is, shows its token to nobody but the control plane, and stops with nothing left."""
    async with world.agent() as agent:
        ready = await agent.wait_ready()
        assert ready["ready"] is True
        place = world.directory / "proxy"
        assert json.loads((place / "ready.json").read_text()) == ready
        node = await world.plane.until(lambda: world.plane.nodes and world.plane.nodes[0])
        assert (node.id, node.cluster) == ("default.app", "shop")
        metadata = node.metadata
        assert metadata["dataplane.proxyType"] == "dataplane"
        assert json.loads(metadata["dataplane.resource"])["networking"]["inbound"][0]["port"] == 18080
        assert list(metadata["features"]) == ["bind-vips", "exclusive-ports", f"access-log={place}/access.log"]
        await world.plane.until(lambda: world.plane.hellos)
        assert world.plane.hellos[0].proxy == "default.app"
        assert set(world.plane.ads_tokens + world.plane.attach_tokens) == {f"Bearer {TOKEN}"}
        _, dump = await fetch(f"http://{ready['admin']}/config_dump")
        assert TOKEN not in dump
        assert TOKEN not in (place / "bootstrap.json").read_text()
        assert TOKEN not in agent.log.read_text()
        for name in ("bootstrap.json", "token.json", "access.log"):
            assert stat.S_IMODE((place / name).stat().st_mode) == 0o600
        assert await agent.end() == 0
        assert not alive(ready["envoy_pid"])
        assert not (place / "token.json").exists()
        assert not (place / "ready.json").exists()


async def test_killed_agent_takes_envoy_along(world: World) -> None:
    """kill -9 of the agent leaves no Envoy; the next agent starts in the same directory."""
    async with world.agent() as agent:
        ready = await agent.wait_ready()
        await agent.end(signal.SIGKILL)
        await gone(ready["envoy_pid"])
    async with world.agent() as agent:
        assert (await agent.wait_ready())["envoy_pid"] != ready["envoy_pid"]


async def test_killed_envoy_is_started_again(world: World) -> None:
    """An Envoy that dies comes back with its configuration."""
    async with world.agent() as agent:
        ready = await agent.wait_ready()
        os.kill(ready["envoy_pid"], signal.SIGKILL)
        await world.plane.until(lambda: len(world.plane.ads_tokens) == 2)
        assert agent.child.returncode is None


async def test_one_agent_per_directory(world: World) -> None:
    """A second agent in the same directory is refused and says why."""
    async with world.agent() as agent:
        await agent.wait_ready()
        async with world.agent() as second:
            assert await asyncio.wait_for(second.child.wait(), WAIT_SECONDS) == 3
    assert "another agent runs here" in agent.log.read_text()


async def test_names(world: World) -> None:
    """Names come and go by increments, are acknowledged, forwarded when unknown, and survive without control plane."""
    upstream = await start_upstream()
    first = pb.DnsUpdate(version="1", full=True, upsert=[pb.DnsName(name="payments.ext.mesh", ip="242.0.0.1")])
    world.plane.dns = first
    options = {"dns_upstream": "127.0.0.1:{}".format(upstream.get_extra_info("sockname")[1])}
    async with world.agent(**options) as agent:
        ready = await agent.wait_ready()
        await world.plane.until(lambda: world.plane.acked == ["1"])
        assert addresses(await lookup(ready, "PAYMENTS.ext.Mesh")) == ["242.0.0.1"]
        assert addresses(await lookup(ready, "payments.ext.mesh", tcp=True)) == ["242.0.0.1"]
        missing = await lookup(ready, "payments.ext.mesh", "AAAA")
        assert (missing.rcode(), addresses(missing)) == (dns.rcode.NOERROR, [])
        change = pb.DnsUpdate(
            version="2", upsert=[pb.DnsName(name="ledger.ext.mesh", ip="242.128.0.1")], remove=["payments.ext.mesh"]
        )
        await world.plane.push_dns(change)
        await world.plane.until(lambda: world.plane.acked == ["1", "2"])
        assert addresses(await lookup(ready, "ledger.ext.mesh")) == ["242.128.0.1"]
        assert addresses(await lookup(ready, "known.example")) == ["192.0.2.1"]
        assert (await lookup(ready, "unknown.example")).rcode() == dns.rcode.NXDOMAIN
        assert (await lookup(ready, "payments.ext.mesh")).rcode() == dns.rcode.NXDOMAIN
        assert (await lookup(ready, "silent.example", tcp=True)).rcode() == dns.rcode.SERVFAIL
        assert await agent.end() == 0
    await world.plane.stop()
    port = world.free_port()
    async with world.agent(dns_port=port, **options) as agent:
        await asyncio.wait_for(opened(port), WAIT_SECONDS)
        assert addresses(await lookup({"dns": f"127.0.0.1:{port}"}, "ledger.ext.mesh")) == ["242.128.0.1"]
        await world.plane.start()
        await agent.wait_ready()
        await world.plane.until(lambda: [hello.dns_version for hello in world.plane.hellos] == ["", "2"])
    upstream.close()


async def test_renewed_token(world: World) -> None:
    """A token renewed in its file is shown on the next streams, without a restart."""
    async with world.agent() as agent:
        ready = await agent.wait_ready()
        await world.plane.until(lambda: world.plane.hellos)
        world.token.unlink()  # a renewal that is not atomic
        await world.plane.stop()
        await world.plane.start()
        async with asyncio.timeout(WAIT_SECONDS):
            while "No such file" not in agent.log.read_text():  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.02)
        world.token.write_text("eyJhbGciOiJub25lIn0.second.token")
        await world.plane.stop()
        await world.plane.start()
        await world.plane.until(lambda: "second" in world.plane.attach_tokens[-1])
        await world.plane.stop()  # Envoy may have been back before its secret was
        await world.plane.start()
        await world.plane.until(lambda: "second" in world.plane.ads_tokens[-1])
        assert alive(ready["envoy_pid"])


async def test_requests_finish_before_the_stop(world: World) -> None:
    """A graceful stop lets a request under way have its answer, and waits no longer than it must."""
    asked, draining = asyncio.Event(), asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await draining.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlate")
        await writer.drain()
        writer.close()

    outside = await asyncio.start_server(slow, "127.0.0.1", 0)
    listen = world.free_port()
    async with world.agent(drain_seconds=WAIT_SECONDS) as agent, outside:
        ready = await agent.wait_ready()
        await world.plane.serve(CDS, CLUSTER, xds_cluster(outside.sockets[0].getsockname()[1]))
        await world.plane.serve(LDS, "out", xds_listener(listen, str(world.directory / "proxy" / "access.log")))
        await asyncio.wait_for(opened(listen), WAIT_SECONDS)
        request = asyncio.create_task(fetch(f"http://127.0.0.1:{listen}/"))
        await asyncio.wait_for(asked.wait(), WAIT_SECONDS)
        ending = asyncio.create_task(agent.end())
        state = partial(fetch, f"http://{ready['admin']}/ready")
        await eventually(state, lambda told: told == (503, "DRAINING\n"), "Envoy drains", WAIT_SECONDS)
        draining.set()
        assert await request == (200, "late")
        assert await ending == 0


async def test_observation(world: World, tmp_path: Path) -> None:
    """A handshake that fails is told once with Envoy's reason, and once more when it works."""
    outside = tmp_path / "outside"
    certificates.make(outside)
    ports, servers = serve_outside(outside, world.free_port)
    listen = world.free_port()
    try:
        async with world.agent() as agent:
            await agent.wait_ready()
            log = str(world.directory / "proxy" / "access.log")
            await world.plane.serve(CDS, CLUSTER, xds_cluster(ports.https, outside, "other-ca.pem"))
            await world.plane.serve(LDS, "out", xds_listener(listen, log))
            await asyncio.wait_for(opened(listen), WAIT_SECONDS)
            for _ in range(3):
                assert (await fetch(f"http://127.0.0.1:{listen}/"))[0] == 503
            await world.plane.until(lambda: world.plane.observations)
            (told,) = world.plane.observations
            assert (told.cluster, told.failing) == (CLUSTER, True)
            assert "CERTIFICATE_VERIFY_FAILED" in told.reason
            # A control plane that comes back is told what fails now.
            await world.plane.stop()
            world.plane.observations.clear()
            await world.plane.start()
            await world.plane.until(lambda: world.plane.observations)
            assert world.plane.observations[0].failing
            await world.plane.serve(CDS, CLUSTER, xds_cluster(ports.https, outside, "ca.pem"))
            async with asyncio.timeout(WAIT_SECONDS):
                while (await fetch(f"http://127.0.0.1:{listen}/"))[0] != 200:  # noqa: ASYNC110 - each try is the point
                    await asyncio.sleep(0.05)
            await world.plane.until(lambda: not world.plane.observations[-1].failing)
            assert (world.plane.observations[-1].reason, world.plane.nacks) == ("", [])
    finally:
        for server in servers:
            await asyncio.to_thread(server.shutdown)
            server.server_close()


def serve_outside(
    directory: Path, free_port: Callable[[], int]
) -> tuple[services.ServicePorts, list[socketserver.BaseServer]]:
    """The demo's external services; they want several ports in a row, which may be taken."""
    for _ in range(20):
        ports = services.ServicePorts(free_port())
        with suppress(OSError):
            return ports, services.serve(directory, ports)
    raise AssertionError("no four free ports in a row")


async def opened(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


async def start_upstream() -> asyncio.DatagramTransport:
    """A resolver that knows one name and denies the others."""

    class Resolver(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            if str(query.question[0].name) == "known.example.":
                answer.answer.append(dns.rrset.from_text("known.example.", 60, "IN", "A", "192.0.2.1"))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self.transport.sendto(answer.to_wire(), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", 0))
    return transport


def xds_cluster(port: int, outside: Path | None = None, ca: str = "") -> bytes:
    """A cluster as the generator would make it; with `outside`: TLS with a client certificate, verified by `ca`."""
    from envoy_data_plane.envoy.config.cluster import v3 as cluster
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
    from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
    from envoy_data_plane.google import protobuf as google

    address = core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=port))
    member = endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))
    made = cluster.Cluster(
        name=CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC,
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=CLUSTER, endpoints=[endpoint.LocalityLbEndpoints(lb_endpoints=[member])]
        ),
    )
    if outside is not None:
        trusted, chain, key = (
            core.DataSource(inline_string=(outside / name).read_text()) for name in (ca, "client.pem", "client.key")
        )
        context = tls.UpstreamTlsContext(
            sni=certificates.SERVER_NAME,
            common_tls_context=tls.CommonTlsContext(
                tls_certificates=[tls.TlsCertificate(certificate_chain=chain, private_key=key)],
                validation_context=tls.CertificateValidationContext(trusted_ca=trusted),
            ),
        )
        made.transport_socket = core.TransportSocket(
            name="envoy.transport_sockets.tls", typed_config=google.Any.pack(context)
        )
    return bytes(made)


def xds_listener(port: int, log: str) -> bytes:
    """A listener on `port` that sends everything to CLUSTER and writes the generator's own access log."""
    from envoy_data_plane.envoy.config.core import v3 as core
    from envoy_data_plane.envoy.config.listener import v3 as listener
    from envoy_data_plane.envoy.config.route import v3 as route
    from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
    from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
    from envoy_data_plane.google import protobuf as google

    from zone_cp.xds.filters import access_log

    to_cluster = route.Route(match=route.RouteMatch(prefix="/"), route=route.RouteAction(cluster=CLUSTER))
    manager = hcm.HttpConnectionManager(
        stat_prefix="out",
        route_config=route.RouteConfiguration(
            virtual_hosts=[route.VirtualHost(name="all", domains=["*"], routes=[to_cluster])]
        ),
        http_filters=[hcm.HttpFilter(name="envoy.filters.http.router", typed_config=google.Any.pack(router.Router()))],
        access_log=[access_log(log)],
    )
    name = "envoy.filters.network.http_connection_manager"
    chain = listener.FilterChain(filters=[listener.Filter(name=name, typed_config=google.Any.pack(manager))])
    address = core.Address(socket_address=core.SocketAddress(address="127.0.0.1", port_value=port))
    return bytes(listener.Listener(name="out", address=address, filter_chains=[chain]))
