"""Run in a network namespace of its own (`test_legacy.py`): legacy ExternalServices, reached in every way there is.

The application is another user than the Envoys, as in production: its connections and its DNS are redirected, the
proxy's own are not. The names of the outside world are told by a DNS server that stands outside.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cryptography import x509

from shared.model.resource import ResourceKey
from tests.conftest import take_port
from tests.xds.envoys import eventually
from tests.xds.loopback import MESH, LoopbackZone
from tests.xds.servers import Servers, server_context
from tests.xds.views import Authority
from zone_cp.agent.dns_server import DnsServer
from zone_cp.agent.dns_table import NameTable
from zone_cp.agent.redirect import Redirect, install
from zone_cp.view.project import dns_table

APPLICATION = 54321
HERE, THERE, DNS = "198.51.100.10", "198.51.100.99", "198.51.100.53"
SECONDS = 5
NAMES = {"httpbin.example": HERE, "secret.example": THERE, "undeclared.example": HERE}
VIPS = "240.0.0.0/8"
OUTBOUND = 10000
EGRESS = MESH.rstrip() + "\nrouting: {zoneEgress: true}\n"
CLOSED = "networking: {outbound: {passthrough: false}}\n"
HTTPBIN = """\
type: ExternalService
mesh: default
name: httpbin
tags:
  kuma.io/service: httpbin
  kuma.io/protocol: http
networking:
  address: httpbin.example:443
  tls:
    enabled: true
"""


class Names:
    """DNS servers in a process of their own, whose user stays: that of the outside world, and the sidecar's agent."""

    def __init__(self) -> None:
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_answer, args=(there,), daemon=True)
        self._process.start()
        self._pipe = here
        self.port: int = here.recv()

    def tell(self, table: Mapping[str, str]) -> None:
        """What the agent answers from now on."""
        self._pipe.send(dict(table))
        self._pipe.recv()


def _answer(pipe: Connection) -> None:
    asyncio.run(_answering(pipe))


async def _answering(pipe: Connection) -> None:
    world, table = NameTable(), NameTable()
    world.replace("1", NAMES)
    agent = DnsServer(table, [(DNS, 53)])
    await agent.start("127.0.0.1", 0)
    await DnsServer(world, []).start(DNS, 53)
    pipe.send(agent.address[1])
    with suppress(EOFError):  # the test is over
        while True:
            table.replace("1", await asyncio.to_thread(pipe.recv))
            pipe.send(True)


class World:
    """A zone whose sidecar takes all traffic of this namespace, and servers outside of the mesh."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.names = Names()
        self.port = take_port()
        outside, own = Authority("outside"), Authority("own")
        (directory / "system.pem").write_text(outside.pem)
        for name in ("trusted", "mutual"):
            (directory / name).mkdir()
        httpbin = outside.issue("httpbin", x509.DNSName("httpbin.example"))
        secret = own.issue("secret", x509.DNSName("other.example"))
        servers.add("httpbin", server_context(directory / "trusted", httpbin), host=HERE, port=443)
        servers.add("plain", host=THERE, port=8080)
        servers.add("undeclared", host=HERE, port=80)
        servers.add("mutual", server_context(directory / "mutual", secret, clients=own.pem), host=THERE, port=8443)
        self.own, self.client = own.pem, own.issue("client")
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  inbound: [{{port: {take_port()}, servicePort: 1, tags: {{kuma.io/service: web}}}}]\n"
            f"  outbound: [{{port: {OUTBOUND}, tags: {{kuma.io/service: httpbin}}}}]\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        self.zone = LoopbackZone(
            directory, dataplane, mesh=MESH, legacy=VIPS, system_ca_path=str(directory / "system.pem")
        )
        self.zone.apply(HTTPBIN)

    def show(self, *doors: tuple[str, int], direct: bool) -> None:
        """Offer the present to proxies and agent, and wait until the proxy that dials has the clusters of doors."""
        self.zone.show()
        self.names.tell(dns_table(self.zone.view, "default"))
        self.zone.settled([self.zone.door(*one).cluster for one in doors], direct=direct)

    def external(self, name: str, address: str, *, protocol: str = "http", service: str = "", **tls: Any) -> None:
        """Declare one more."""
        tags = {"kuma.io/service": service or name, "kuma.io/protocol": protocol}
        networking = {"address": address} | ({"tls": tls} if tls else {})
        self.zone.apply(json.dumps({"type": "ExternalService", "name": name, "tags": tags, "networking": networking}))


@contextmanager
def application() -> Iterator[None]:
    """What is done here, the application's user does."""
    os.seteuid(APPLICATION)
    try:
        yield
    finally:
        os.seteuid(0)


def get(host: str, port: int) -> tuple[int, dict[str, Any]]:
    """Status, and what the server saw; 0 where the connection failed."""
    try:
        with application(), socket.create_connection((host, port), SECONDS) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, {}
    return answer.status, json.loads(body) if body.startswith("{") else {"body": body}


def said(host: str, why: str) -> bool:
    """Whether the answer says so; Envoy's own texts have no spaces."""
    return why in str(get(host, 80)[1].get("body", "")).replace("_", " ")


def answers(host: str, port: int) -> bool:
    """Whether a request is answered well."""
    return get(host, port)[0] == 200


def line(host: str, port: int) -> dict[str, Any]:
    """What a TCP server tells of the connection; {} where nothing comes back."""
    try:
        with application(), socket.create_connection((host, port), SECONDS) as connection:
            connection.sendall(b"?\n")
            said = connection.makefile("rb").readline()
    except OSError:
        return {}
    return json.loads(said) if said else {}


def looked_up(host: str) -> str:
    """What the application's resolver says."""
    with application():
        return socket.gethostbyname(host)


def main() -> None:
    """Every step of the story; an error ends it."""
    for command in (
        "ip link set lo up",
        *(f"ip addr add {one}/32 dev lo" for one in (HERE, THERE, DNS)),
        f"ip route add {VIPS} dev lo",
    ):
        subprocess.run(command.split(), check=True)
    with tempfile.TemporaryDirectory() as directory, Servers() as servers:
        os.chmod(directory, 0o755)  # noqa: PTH101 - the application reads resolv.conf here
        resolv = Path(directory) / "resolv.conf"
        resolv.write_text(f"nameserver {DNS}\n")
        subprocess.run(["mount", "--bind", str(resolv), "/etc/resolv.conf"], check=True)
        world = World(Path(directory), servers)
        try:
            install(Redirect(proxy_uid=0, outbound_port=world.port, dns_port=world.names.port), "nft")
            story(world)
            assert world.zone.nacks() == []
        finally:
            world.zone.stop()


def three_ways(world: World, *, direct: bool) -> None:
    """`.mesh` at port 80, the real name and port, and the outbound section: all lead to httpbin, over TLS."""
    world.show(("httpbin.mesh", 80), ("httpbin.example", 443), direct=direct)
    assert looked_up("httpbin.mesh").startswith("240.")
    assert looked_up("httpbin.example").startswith("240.")
    for host, port in (("httpbin.mesh", 80), ("httpbin.example", 443), ("127.0.0.1", OUTBOUND)):
        eventually(partial(answers, host, port), f"{host}:{port}", 30)
        seen = get(host, port)[1]
        sys.stderr.write(f"{'direct' if direct else 'egress'} {host}:{port}: {seen}\n")
        assert seen["headers"]["host"] == "httpbin.example"


def originated(world: World, *, direct: bool) -> None:
    """Client certificates, server names, verification that is on unless it is skipped, endpoints that merge."""
    certificate, key = world.client
    pair: dict[str, Any] = {"clientCert": {"inlineString": certificate}, "clientKey": {"inlineString": key}}
    own = {"caCert": {"inlineString": world.own}} | pair
    address = "secret.example:8443"
    world.external("mutual", address, protocol="tcp", serverName="other.example", **own)
    world.external("wrong", address, protocol="tcp", **own)
    world.external("lax", address, protocol="tcp", skipHostnameVerification=True, **own)
    world.external("unknown", address, protocol="tcp", serverName="other.example", **pair)
    world.external("merged-1", f"{THERE}:8080", service="merged")
    world.external("merged-2", "httpbin.example:443", service="merged", enabled=True)
    world.show(*((f"{one}.mesh", 80) for one in ("mutual", "lax", "merged")), direct=direct)
    eventually(lambda: line("mutual.mesh", 80).get("client") == ["client"], "the client certificate is shown", 30)
    assert line("mutual.mesh", 80)["sni"] == "other.example"
    eventually(lambda: line("lax.mesh", 80).get("sni") == "secret.example", "the host name is not verified", 30)
    assert line("wrong.mesh", 80) == {}, "the certificate is for another name"
    assert line("unknown.mesh", 80) == {}, "the system's CAs do not vouch for it"
    served: set[str] = set()

    def both() -> bool:
        served.add(get("merged.mesh", 80)[1].get("server", ""))
        return {"plain", "httpbin"} <= served

    eventually(both, "endpoints of two ExternalServices merge, one with TLS and one without", 30)


def permissions(world: World, *, direct: bool) -> None:
    """A MeshTrafficPermission on the service, in both of its forms: HTTP answers 403, TCP closes; others stay open."""
    allow = {"allow": [{"spiffeID": {"type": "Exact", "value": "spiffe://default/nobody"}}]}
    web = {"targetRef": {"kind": "MeshService", "name": "web"}, "default": {"action": "Deny"}}
    everybody = {"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}
    forms: dict[str, dict[str, Any]] = {
        "httpbin": {"rules": [{"default": allow}]},
        "mutual": {"from": [everybody, web]},
    }
    for service, form in forms.items():
        spec = {"targetRef": {"kind": "MeshService", "name": service}, **form}
        world.zone.apply(json.dumps({"type": "MeshTrafficPermission", "name": service, "spec": spec}))
    world.show(("merged.mesh", 80), direct=direct)
    for host, port in (("httpbin.mesh", 80), ("127.0.0.1", OUTBOUND)):
        eventually(lambda at=(host, port): get(*at)[0] == 403, f"HTTP is denied at {host}", 30)  # type: ignore[misc]
    why = "no MeshTrafficPermission allows this workload to use this ExternalService"
    eventually(partial(said, "httpbin.mesh", why), "the refusal says why", 30)
    eventually(lambda: line("mutual.mesh", 80) == {}, "TCP is closed", 30)
    assert get("merged.mesh", 80)[0] == 200
    world.zone.delete(*(ResourceKey("MeshTrafficPermission", "default", one) for one in ("httpbin", "mutual")))
    world.show(("merged.mesh", 80), direct=direct)
    eventually(lambda: get("httpbin.mesh", 80)[0] == 200, "it is open again", 30)
    eventually(lambda: line("mutual.mesh", 80) != {}, "and TCP", 30)


def older_permissions(world: World) -> None:
    """TrafficPermissions: whom one names before one for all; what none is about is closed. The application is `web`."""

    def permit(name: str, source: str, destination: str) -> None:
        kind, tag = "TrafficPermission", "kuma.io/service"
        one, other = [{"match": {tag: source}}], [{"match": {tag: destination}}]
        world.zone.apply(json.dumps({"type": kind, "name": name, "sources": one, "destinations": other}))

    def reached(*, httpbin: int, merged: int, mutual: bool) -> None:
        world.zone.show()
        eventually(lambda: get("httpbin.mesh", 80)[0] == httpbin, f"httpbin answers {httpbin}", 30)
        eventually(lambda: get("merged.mesh", 80)[0] == merged, f"merged answers {merged}", 30)
        eventually(lambda: (line("mutual.mesh", 80) != {}) == mutual, f"TCP is {'open' if mutual else 'closed'}", 30)

    permit("nobody", "nobody", "httpbin")
    reached(httpbin=403, merged=403, mutual=False)
    for closed in ("httpbin.mesh", "merged.mesh"):
        why = "no TrafficPermission allows this workload to use this ExternalService"
        eventually(partial(said, closed, why), "the refusal says why", 30)
    permit("all", "*", "*")
    reached(httpbin=403, merged=200, mutual=True)
    permit("web", "web", "httpbin")
    reached(httpbin=200, merged=200, mutual=True)
    world.zone.delete(*(ResourceKey("TrafficPermission", "default", one) for one in ("nobody", "web", "all")))
    reached(httpbin=200, merged=200, mutual=True)


def passthrough(world: World) -> None:
    """What nobody declared is let out, or not, as the mesh says; what is declared is reached in any case."""
    eventually(lambda: get("undeclared.example", 80)[1].get("server") == "undeclared", "passthrough lets it out", 30)
    world.zone.apply(MESH + CLOSED)
    world.show(("httpbin.mesh", 80), direct=True)
    eventually(lambda: get("undeclared.example", 80)[0] == 0, "without passthrough it is blocked", 30)
    assert get("httpbin.mesh", 80)[0] == 200
    world.zone.apply(MESH)


def names(world: World) -> None:
    """A host whose entry is disabled resolves to what it is outside; a name that goes away is answered no more."""
    assert looked_up("secret.example").startswith("240.")
    world.zone.delete(*(ResourceKey("ExternalService", "default", one) for one in ("wrong", "lax", "unknown")))
    world.zone.apply(json.dumps(hidden(world)))
    world.show(("mutual.mesh", 80), direct=False)
    eventually(lambda: looked_up("secret.example") == THERE, "the host's own address", 30)
    assert "lax.mesh" not in dns_table(world.zone.view, "default")


def hidden(world: World) -> dict[str, Any]:
    """`mutual` without an entry for its host."""
    tags = {"kuma.io/service": "mutual", "kuma.io/protocol": "tcp"}
    networking = {"address": "secret.example:8443", "disableHostDNSEntry": True, "tls": {"enabled": False}}
    return {"type": "ExternalService", "name": "mutual", "tags": tags, "networking": networking}


def story(world: World) -> None:
    """Direct first, then through the egress."""
    three_ways(world, direct=True)
    originated(world, direct=True)
    permissions(world, direct=True)
    older_permissions(world)
    passthrough(world)
    world.zone.apply(EGRESS)
    three_ways(world, direct=False)
    sidecar = world.zone.envoys["zone-sidecar"]
    eventually(lambda: "mes/http" not in sidecar.admin("/clusters"), "the sidecar dials nobody outside by itself", 30)
    originated(world, direct=False)
    permissions(world, direct=False)
    older_permissions(world)
    names(world)


if __name__ == "__main__":
    main()
