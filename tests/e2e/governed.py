"""A zone on loopback whose traffic policies govern: services of every class, each with a server of its own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.events.event import ResourceDeleted
from shared.model.resource import ResourceKey, key_of
from tests.conftest import take_port
from tests.xds.clients import Answer, http1, tcp
from tests.xds.envoys import eventually
from tests.xds.loopback import DIRECT, MESH, LoopbackZone, read
from tests.xds.servers import Servers

DATAPLANE = """\
type: Dataplane
name: sidecar
mesh: default
networking:
  address: 127.0.0.1
  inbound: [{{port: {inbound}, servicePort: 1, tags: {{kuma.io/service: web}}}}]
  transparentProxying: {{redirectPortOutbound: {port}}}
"""


class World:
    """The services `slow` and `other` (http) and `lines` and `quiet` (tcp), each with a server of its own."""

    def __init__(self, directory: Path, servers: Servers, mesh: str | None = None) -> None:
        self.port = take_port()
        dataplane = DATAPLANE.format(inbound=take_port(), port=self.port)
        self.mesh = mesh or MESH
        self.zone = LoopbackZone(directory, dataplane, name="direct" if mesh else "zone", mesh=self.mesh)
        self.servers = {name: servers.add(name) for name in ("slow", "other", "lines", "quiet")}
        with ExitStack() as failing:
            failing.callback(self.zone.stop)
            for name, server in self.servers.items():
                self.zone.apply(service(name, self.port, server.port))
            self.zone.show()
            clusters = [self.zone.service(name).cluster for name in self.servers]
            self.zone.settled(clusters, direct=mesh is not None)
            eventually(lambda: self.get("slow").status == 200, "an answer")
            eventually(lambda: self.talk("lines").status == 200, "an echo")
            failing.pop_all()

    def vip(self, name: str) -> str:
        return self.zone.service(name).vip

    def get(self, name: str, path: str = "/", headers: str = "") -> Answer:
        return asyncio.run(http1(self.vip(name), self.port, path, headers=headers))

    def talk(self, name: str) -> Answer:
        return asyncio.run(tcp(self.vip(name), self.port, b"hello\n"))

    @contextmanager
    def policy(self, kind: str, name: str, default: dict[str, Any], **spec: Any) -> Iterator[tuple[str, ...]]:
        """A policy on the service `name` ("": on all), for as long as the block lasts; its warnings."""
        to = {"kind": "MeshExternalService", "name": name} if name else {"kind": "Mesh"}
        spec = {"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": to, "default": default}]} | spec
        with self.applied(
            f"{{type: {kind}, name: p-{name or 'all'}, mesh: default, spec: {json.dumps(spec)}}}"
        ) as said:
            yield said

    @contextmanager
    def applied(self, text: str) -> Iterator[tuple[str, ...]]:
        """A resource that is deleted at the end of the block."""
        key = key_of(read(text)[0])
        try:
            said = self.zone.apply(text)
            self.zone.show()
            yield said
        finally:
            self.delete(key)

    def delete(self, key: ResourceKey) -> None:
        self.zone.hub.append(ResourceDeleted(key=key))
        self.zone.zone.follow(self.zone.hub)
        self.zone.show()


def service(name: str, port: int, to: int) -> str:
    protocol = "http" if name in ("slow", "other", "lost", "named", "chat") else "tcp"
    return (
        f"{{type: MeshExternalService, name: {name}, mesh: default, labels: {{team: {name}}}, spec: "
        f"{{match: {{port: {port}, protocol: {protocol}}}, endpoints: [{{address: 127.0.0.1, port: {to}}}]}}}}"
    )


class Held:
    """An HTTP/1.1 or TCP connection that stays open."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), 10)
        self._file = self._socket.makefile("rb")

    def get(self, path: str = "/") -> int:
        """Status of a request on this connection; 0 when it is closed."""
        try:
            self._socket.sendall(f"GET {path} HTTP/1.1\r\nhost: app\r\n\r\n".encode())
            first = self._file.readline()
            length = 0
            while (line := self._file.readline().strip()) != b"":
                key, _, value = line.partition(b":")
                length = int(value) if key.lower() == b"content-length" else length
            self._file.read(length)
        except OSError:
            return 0
        return int(first.split()[1]) if first else 0

    def upgrade(self) -> bool:
        """Make it a WebSocket, whose server sends back what it is sent."""
        head = "GET /chat HTTP/1.1\r\nhost: app\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        key = "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        self._socket.sendall(f"{head}{key}".encode())
        switched = self._file.readline().startswith(b"HTTP/1.1 101")
        while self._file.readline().strip():
            pass
        return switched

    def talk(self) -> bool:
        """Whether a line comes back."""
        try:
            self._socket.sendall(b"line\n")
            return self._file.readline() == b"line\n"
        except OSError:
            return False

    def server(self, *, greeted: bool) -> str:
        """The name of the TCP server at the other end, "" when it closes. greeted: it says a line first."""
        try:
            self._socket.sendall(b"?\n")
            said = [self._file.readline() for _ in range(1 + greeted)][-1]
        except OSError:
            return ""
        return str(json.loads(said)["server"]) if said else ""

    def heard(self) -> bytes:
        """The line that the other side says first; b"" when it closes instead."""
        try:
            return self._file.readline()
        except OSError:
            return b""

    def closed_within(self, seconds: float) -> bool:
        """Whether the other side closes first."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@contextmanager
def both_worlds(directories: pytest.TempPathFactory) -> Iterator[dict[str, World]]:
    """The same services through the zone egress and in direct mode."""
    with Servers() as servers:
        made: dict[str, World] = {}
        try:
            made["egress"] = World(directories.mktemp("egress"), servers)
            made["sidecar"] = World(directories.mktemp("direct"), servers, DIRECT)
            yield made
        finally:
            for world in made.values():
                world.zone.stop()
