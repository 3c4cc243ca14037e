"""HTTP to the outside, by its effect: Host, HTTP/2, gRPC, timeouts, retries, WebSocket, large bodies, streams."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from cryptography import x509

from tests.conftest import take_port
from tests.xds.clients import Answer, chunks, http1, http2
from tests.xds.envoys import eventually
from tests.xds.loopback import DIRECT, MESH, LoopbackZone
from tests.xds.servers import WEBSOCKET, Server, Servers, server_context
from tests.xds.views import Authority
from zone_cp.xds import defaults

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

NAME = "localhost"
LARGE = 24 * 1024 * 1024
"""Bytes: more than any buffer on the way (Envoy's limits are 1 MiB)."""


class World:
    """Services of each protocol, in clear and in TLS, seen through the egress or straight from the sidecar."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        ca = Authority()
        context = server_context(directory, ca.issue(NAME, x509.DNSName(NAME)))
        self.port = take_port()
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        self.zone = LoopbackZone(directory, dataplane, name="http")
        self.servers: dict[str, Server] = {}
        for name, protocol, secured in (
            ("plain", "http", False),
            ("secured", "http", True),
            ("framed", "http2", True),
            ("rpc", "grpc", False),
            ("rpcs", "grpc", True),
        ):
            self.servers[name] = servers.add(name, context if secured else None)
            spec: dict[str, Any] = {
                "match": {"port": self.port, "protocol": protocol},
                "endpoints": [{"address": NAME, "port": self.servers[name].port}],
            }
            if secured:
                spec["tls"] = {"enabled": True, "verification": {"caCert": {"inlineString": ca.pem}}}
            whole = {"type": "MeshExternalService", "name": name, "mesh": "default", "spec": spec}
            self.zone.apply(yaml.safe_dump(whole))

    def place(self, placement: str) -> None:
        """Where TLS is originated and the outside is dialled."""
        self.zone.apply(DIRECT if placement == "sidecar" else MESH)
        self.zone.show()
        self.zone.answered()
        clusters = [one.cluster for one in self.zone.view.meshes["default"].services.values()]
        self.zone.settled(clusters, direct=placement == "sidecar")
        wanted = "outside/default" if placement == "sidecar" else "mesh/default"
        sidecar = self.zone.envoys["http-sidecar"]
        eventually(lambda: wanted in sidecar.admin("/config_dump?resource=dynamic_listeners"), "the new listener")
        eventually(self._all_answer, "an answer of every service")

    def _all_answer(self) -> bool:
        return all(asyncio.run(self.get(name)).status == 200 for name in self.servers)

    def vip(self, name: str) -> str:
        return self.zone.service(name).vip

    async def get(self, name: str, path: str = "/", **more: Any) -> Answer:
        return await http1(self.vip(name), self.port, path, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("http"), servers)
        try:
            yield made
        finally:
            made.zone.stop()
    assert made.zone.nacks() == []


@pytest.fixture(scope="module", params=["egress", "sidecar"])
def world(whole: World, request: pytest.FixtureRequest) -> World:
    """Each test is run in both placements."""
    whole.place(request.param)
    return whole


async def test_the_host_is_the_external_one(world: World) -> None:
    """Host, or :authority, is the name of the endpoint, whatever the application wrote."""
    for name in ("plain", "secured", "framed"):
        headers = (await world.get(name, host_header="payments.mesh")).seen["headers"]
        assert headers.get("host", headers.get(":authority")) == NAME


async def test_nothing_of_the_mesh_goes_out(world: World) -> None:
    """No header of Envoy's, of the mesh's or of another hop's reaches the service; the application's own do."""
    hostile = "x-envoy-retry-on: 5xx\r\nx-zonal-cluster: ads\r\nx-forwarded-client-cert: By=me\r\nx-app: 1\r\n"
    headers = (await world.get("plain", headers=hostile)).seen["headers"]
    assert headers["x-app"] == "1"
    internal = ("x-envoy-", "x-zonal-", "x-vip", "x-forwarded-client-cert")
    assert [name for name in headers if name.startswith(internal)] == []


@pytest.mark.parametrize(("name", "language"), [("plain", "http1"), ("secured", "http1"), ("framed", "http2")])
async def test_the_protocol_is_the_services(world: World, name: str, language: str) -> None:
    """`http` is HTTP/1.1 upstream, `http2` HTTP/2, whatever the application speaks to its sidecar."""
    spoken = {
        (await world.get(name)).seen["language"],
        (await http2(world.vip(name), world.port)).seen["language"],
    }
    assert spoken == {language}


@pytest.mark.parametrize("name", ["rpc", "rpcs"])
async def test_grpc_streams_message_by_message(world: World, name: str) -> None:
    """Each message is answered before the next one is sent; the trailers come whole."""
    async with grpc.aio.insecure_channel(f"{world.vip(name)}:{world.port}") as channel:
        talk: Any = channel.stream_stream("/test.Echo/Talk")
        call = talk(timeout=10)
        for number in range(5):
            await call.write(b"%d" % number)
            assert await call.read() == b"%d" % number
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert dict(await call.trailing_metadata())["x-trailer"] == "kept"
        assert await call.code() == grpc.StatusCode.OK


async def test_websocket(world: World) -> None:
    """An upgrade goes through, and bytes flow both ways after it."""
    for name in ("plain", "secured"):
        reader, writer = await asyncio.open_connection(world.vip(name), world.port)
        key = b64encode(b"0123456789abcdef")
        writer.write(
            b"GET /chat HTTP/1.1\r\nhost: app\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: " + key + b"\r\n\r\n"
        )
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().lower()
        assert head.startswith("http/1.1 101")
        assert b64encode(sha1(key + WEBSOCKET).digest()).decode().lower() in head
        for frame in (b"\x81\x85\x00\x00\x00\x00hello", b"\x82\x01\xff" * 1000):
            writer.write(frame)
            assert await asyncio.wait_for(reader.readexactly(len(frame)), 10) == frame
        writer.close()


async def test_large_bodies(world: World) -> None:
    """24 MiB up and down at once, byte for byte; 24 MiB down from a small request."""
    body = sha256(b"seed").digest() * (LARGE // 32)
    reader, writer = await asyncio.open_connection(world.vip("secured"), world.port, limit=1 << 20)

    async def send() -> None:
        writer.write(f"POST /echo HTTP/1.1\r\nhost: app\r\ncontent-length: {LARGE}\r\n\r\n".encode())
        for start in range(0, LARGE, 1 << 16):
            writer.write(body[start : start + (1 << 16)])
            await writer.drain()

    sending = asyncio.create_task(send())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    found = sha256()
    async for chunk in chunks(reader):
        found.update(chunk)
    await sending
    writer.close()
    assert found.digest() == sha256(body).digest()
    assert len((await world.get("secured", f"/bytes/{LARGE}")).body) == LARGE


async def test_streams_are_not_held_back(world: World) -> None:
    """Each part of a chunked body comes back before the next one is sent."""
    reader, writer = await asyncio.open_connection(world.vip("plain"), world.port)
    writer.write(b"POST /echo HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n")
    parts = None
    for number in range(5):
        part = b"part %d" % number
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        if parts is None:
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            parts = chunks(reader)
        assert await asyncio.wait_for(anext(parts), 10) == part
    writer.write(b"0\r\n\r\n")
    assert parts is not None
    assert [one async for one in parts] == []
    writer.close()


@pytest.mark.parametrize("status", [404, 500, 502, 503, 504])
async def test_an_answer_is_never_repeated(world: World, status: int) -> None:
    """What the service answered is the answer: one request reaches it, and its status comes back."""
    before = world.servers["plain"].seen
    assert (await world.get("plain", f"/status/{status}")).status == status
    assert world.servers["plain"].seen == before + 1


async def test_a_request_that_was_cut_is_not_repeated(world: World) -> None:
    """A connection that breaks after the request was sent: 503 with the service's name, and no second try."""
    server = world.servers["plain"]
    before = server.seen
    server.cut = True
    try:
        answer = await world.get("plain")
    finally:
        server.cut = False
    assert (answer.status, server.seen) == (503, before + 1)
    assert "MeshExternalService/default/plain" in answer.body


@pytest.mark.parametrize("world", ["egress"], indirect=True)
async def test_a_slow_answer_is_waited_for_as_long_as_the_defaults_say(world: World) -> None:
    """Kuma's request timeout: 504 after fifteen seconds, counted by the sidecar; the egress adds none of its own."""
    limit = defaults.REQUEST_TIMEOUT.total_seconds()
    started = time.monotonic()
    late, soon = await asyncio.gather(
        world.get("plain", f"/slow/{limit + 5}", seconds=limit + 10), world.get("secured", "/slow/2")
    )
    assert (late.status, soon.status) == (504, 200)
    assert time.monotonic() - started >= limit - 0.1
