"""Run in a network namespace of its own (`test_passthrough.py`): what a redirected application reaches, by policy.

The application is another user than the Envoys, as in production: the redirect leaves the proxy's own traffic alone.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509

from shared.events.event import ResourceDeleted
from shared.model.resource import ResourceKey
from tests.conftest import take_port
from tests.xds.envoys import eventually
from tests.xds.loopback import MESH, LoopbackZone
from tests.xds.servers import Server, Servers, server_context
from tests.xds.views import Authority
from zone_cp.agent.redirect import Redirect, install

APPLICATION = 54321
HERE, THERE = "198.51.100.10", "198.51.100.99"
SECONDS = 5
HTTP = {"http a": "a.example.com", "http b": "b.example.com"}
TLS = {"tls a": "a.example.com", "tls w": "x.wild.example.com", "tls b": "b.example.com"}
MATCHED: list[dict[str, Any]] = [
    {"type": "Domain", "value": "a.example.com", "port": 80, "protocol": "http"},
    {"type": "Domain", "value": "a.example.com", "port": 443, "protocol": "tls"},
    {"type": "Domain", "value": "*.wild.example.com", "protocol": "tls"},
    {"type": "IP", "value": HERE, "port": 5432},
    {"type": "CIDR", "value": f"{HERE}/31", "port": 3306, "protocol": "mysql"},
    {"type": "CIDR", "value": "203.0.113.0/24", "protocol": "http2"},
    {"type": "Domain", "value": "*.any.example.com", "port": 8080, "protocol": "grpc"},
    {"type": "Domain", "value": "any.example.com", "protocol": "http"},
]
ALL = {"http a", "http b", "tls a", "tls w", "tls b", "tcp here", "tcp there", "mysql", "vip"}


class World:
    """A zone whose sidecar takes all traffic of this namespace, and servers at addresses outside of the mesh."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.port = take_port()
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n  inbound: "
            f"[{{port: {take_port()}, servicePort: 1, tags: {{kuma.io/service: web}}}}]\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        lines = servers.add("vip")
        self.zone = LoopbackZone(directory, dataplane, mesh=MESH)
        self.zone.apply(
            f"{{type: MeshExternalService, name: lines, mesh: default, spec: {{match: {{port: {self.port}}}, "
            f"endpoints: [{{address: 127.0.0.1, port: {lines.port}}}]}}}}"
        )
        self.zone.show()
        self.zone.settled([self.zone.service("lines").cluster])

    def reached(self) -> set[str]:
        """What of `ALL` the application reaches."""
        found = {name for name, host in HTTP.items() if _http(host)[0] == 200}
        found |= {name for name, host in TLS.items() if _tls(host)}
        found |= {"tcp here"} if _line(HERE, 5432) else set()
        found |= {"tcp there"} if _line(THERE, 5432) else set()
        found |= {"mysql"} if _greeting() else set()
        return found | ({"vip"} if _line(self.zone.service("lines").vip, self.port) else set())

    def show(self, what: set[str], why: str) -> None:
        """Offer the present, and wait until the application reaches exactly `what`."""
        self.zone.show()
        try:
            eventually(lambda: self.reached() == what, why, 30)
        finally:
            sys.stderr.write(f"{why}: {sorted(self.reached())}\n")

    @contextmanager
    def policy(self, name: str, mode: str, *matches: dict[str, Any], top: str = "Mesh") -> Iterator[None]:
        """A MeshPassthrough for as long as the block lasts."""
        default = {"passthroughMode": mode, "appendMatch": list(matches)}
        spec = {"targetRef": {"kind": top}, "default": default}
        self.zone.apply(f"{{type: MeshPassthrough, name: {name}, mesh: default, spec: {json.dumps(spec)}}}")
        yield
        self.zone.hub.append(ResourceDeleted(key=ResourceKey("MeshPassthrough", "default", name)))
        self.zone.zone.follow(self.zone.hub)


def _connected(address: str, port: int) -> socket.socket:
    os.seteuid(APPLICATION)
    try:
        return socket.create_connection((address, port), SECONDS)
    finally:
        os.seteuid(0)


def _http(host: str) -> tuple[int, str]:
    try:
        with _connected(HERE, 80) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""


def _tls(name: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _connected(HERE, 443) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
            connection.sendall(b"?\n")
            return connection.makefile("rb").readline().decode()
    except OSError:
        return ""


def _line(address: str, port: int) -> str:
    try:
        with _connected(address, port) as connection:
            connection.sendall(b"?\n")
            return connection.makefile("rb").readline().decode()
    except OSError:
        return ""


def _greeting() -> bytes:
    try:
        with _connected(HERE, 3306) as connection:
            return connection.recv(64)
    except OSError:
        return b""


def _greet() -> None:
    # A server that speaks first, as MySQL does.
    listening = socket.create_server((HERE, 3306))

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            connection.sendall(b"welcome\n")
            connection.close()

    threading.Thread(target=serve, daemon=True).start()


def _outside(servers: Servers, directory: Path) -> list[Server]:
    pair = Authority("outside").issue("outside", x509.DNSName("outside"))
    _greet()
    return [
        servers.add("http", host=HERE, port=80),
        servers.add("tls", server_context(directory, pair), host=HERE, port=443),
        servers.add("here", host=HERE, port=5432),
        servers.add("there", host=THERE, port=5432),
    ]


def main() -> None:
    """Every step of the story; an error ends it."""
    for command in ("link set lo up", f"addr add {HERE}/32 dev lo", f"addr add {THERE}/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    with tempfile.TemporaryDirectory() as directory, Servers() as servers:
        _outside(servers, Path(directory))
        world = World(Path(directory), servers)
        try:
            install(Redirect(proxy_uid=0, outbound_port=world.port, dns_port=0), "nft")
            _story(world)
            assert world.zone.nacks() == []
        finally:
            world.zone.stop()


def _story(world: World) -> None:
    world.show(ALL, "without a policy the mesh's default holds")
    with world.policy("wide", "None", *MATCHED):
        world.show({"vip"}, "mode None: nothing but what is declared")
    with world.policy("wide", "Matched", *MATCHED):
        world.show(ALL - {"http b", "tls b", "tcp there"}, "mode Matched: what an entry lets out")
        assert "check configuration of your MeshPassthrough policy" in _http("b.example.com")[1]
        with _connected(world.zone.service("lines").vip, world.port) as open_before:
            more = {"type": "Domain", "value": "b.example.com", "port": 80, "protocol": "http"}
            with world.policy("more", "Matched", more, {"type": "IP", "value": THERE}):
                world.show(ALL - {"tls b"}, "entries of several policies are added up")
            open_before.sendall(b"?\n")
            assert open_before.makefile("rb").readline()
    with world.policy("wide", "All"):
        world.show(ALL, "mode All")
    world.zone.apply(MESH.rstrip() + "\nnetworking: {outbound: {passthrough: false}}\n")
    world.show({"vip"}, "the mesh closes what no policy opens")
    with world.policy("wide", "Matched", *MATCHED[:1]):
        world.show({"http a", "vip"}, "an entry opens what the mesh closes")


if __name__ == "__main__":
    main()
