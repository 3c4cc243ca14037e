"""Gateways by hostname on real Envoys: which service is behind which name, in plaintext and in TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.demo.looking import eventually
from tests.e2e.gateways import Gateways, gateway, secret
from tests.e2e.living import WITHIN_SECONDS
from tests.e2e.server_certificates import Certificate, certificate, shake, shown
from tests.xds.clients import http1
from tests.xds.servers import Servers, server_context

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 29_900
HTTP, HTTPS, PASSING, ENDING = 1, 2, 3, 4
HOSTS = {"foo": "foo.example.com", "wild": "*.example.com", "any": ""}
SERVICES = {**dict.fromkeys(HOSTS, "http"), "secure": "tcp", "rows": "tcp"}


class Named(Gateways):
    """The zone east with a gateway and one sidecar that serves everything behind it."""

    def __init__(self, *arguments: Any, servers: dict[str, int]) -> None:
        super().__init__(*arguments)
        self._servers = servers

    async def begin(self, *, declare: bool = True) -> None:
        """All listeners, and a route from each to a service of its own."""
        await super().begin()
        await asyncio.gather(self.join("edge-1"), self.serve())

    async def serve(self) -> None:
        """The sidecar."""
        inbound = [
            {
                "port": self.port(20 + number),
                "servicePort": self._servers[name],
                "tags": {"kuma.io/service": name, "kuma.io/protocol": protocol},
            }
            for number, (name, protocol) in enumerate(SERVICES.items())
        ]
        networking = {"address": "127.0.0.1", "inbound": inbound, "admin": {"port": self.port(40)}}
        resource = {"type": "Dataplane", "mesh": "default", "name": "app", "networking": networking}
        path = self.write("app.yaml", json.dumps(resource), public=True)
        token = self._issuer().dataplane_token("default", name="app", zone="east")
        options = ["--dataplane", str(path), "--dns-port", str(self.port(60))]
        await self._proxy("east", "sidecar", token, options, self.port(40), called="app")


def route(service: str, protocol: str, tag: str) -> str:
    """A MeshGatewayRoute from the listeners with a tag to a service."""
    backends = [{"destination": {"kuma.io/service": service}}]
    rule = {"backends": backends} | (
        {"matches": [{"path": {"match": "PREFIX", "value": "/"}}]} if protocol == "http" else {}
    )
    selectors = [{"match": {"kuma.io/service": "edge-gateway", "to": tag}}]
    whole = {"type": "MeshGatewayRoute", "mesh": "default", "name": service, "selectors": selectors}
    return json.dumps(whole | {"conf": {protocol: {"rules": [rule]}}}) + "\n---\n"


class World:
    """The system, and the certificates that are shown in it."""

    def __init__(self, system: Named, application: Certificate, edge: Certificate) -> None:
        self.system, self.application, self.edge = system, application, edge


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Everybody is reached."""
    directory = tmp_path_factory.mktemp("gateway-tls")
    application, edge = certificate("secure.example.com"), certificate("example.com")
    with Servers() as servers:
        ports = {
            name: servers.add(name, context=serving(directory, application) if name == "secure" else None).port
            for name in SERVICES
        }
        async with Named(directory, BASE_PORT, servers=ports) as made:
            await made.begin()
            await made.apply(listeners(made, edge))
            await eventually(
                lambda: made.ask(HTTP, "foo.example.com"), lambda one: one.status == 200, "it is served", WITHIN_SECONDS
            )
            yield World(made, application, edge)


def serving(directory: Path, shown: Certificate) -> ssl.SSLContext:
    """An application that ends TLS itself."""
    key, mark, chain = shown.pem.partition("-----BEGIN CERTIFICATE-----")
    return server_context(directory, (mark + chain, key))


def listeners(system: Named, edge: Certificate) -> str:
    """Each with a tag that its route selects."""
    terminated = {"mode": "TERMINATE", "certificates": [{"secret": "edge"}]}
    found = [
        {"port": system.port(port), "protocol": protocol, "hostname": host, "tags": {"to": name}}
        | ({"tls": terminated} if protocol == "HTTPS" else {})
        for port, protocol in ((HTTP, "HTTP"), (HTTPS, "HTTPS"))
        for name, host in HOSTS.items()
    ]
    passing = {"port": system.port(PASSING), "protocol": "TLS", "tls": {"mode": "PASSTHROUGH"}}
    ending = {"port": system.port(ENDING), "protocol": "TLS", "tls": terminated}
    found += [
        passing | {"hostname": "secure.example.com", "tags": {"to": "secure"}},
        passing | {"hostname": "nowhere.example.com", "tags": {"to": "nowhere"}},
        ending | {"hostname": "rows.example.com", "tags": {"to": "rows"}},
    ]
    routes = "".join(route(name, "http" if protocol == "http" else "tcp", name) for name, protocol in SERVICES.items())
    return secret("edge", edge.pem) + gateway(*found) + routes


def trusting() -> ssl.SSLContext:
    """A client that checks nothing: who is shown what is another test's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def said(port: int, name: str, text: str) -> str:
    """What comes back by TLS with a server name, up to the end of a line; "" where it is closed."""
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(), server_hostname=name)
            writer.write(text.encode())
            answer = await reader.read() if text.startswith("GET") else await reader.readline()
            writer.close()
    except OSError:
        return ""
    return answer.decode()


async def heard(port: int, name: str, text: str, wanted: str) -> None:
    """Wait until this comes back."""
    await eventually(lambda: said(port, name, text), lambda answer: wanted in answer, wanted, WITHIN_SECONDS)


BEHIND = [
    ("foo.example.com", "foo"),
    ("FOO.example.com", "foo"),
    ("foo.example.com:8080", "foo"),
    ("bar.example.com", "wild"),
    ("a.b.example.com", "wild"),
    ("example.com", "any"),
    ("other.test", "any"),
]


@pytest.mark.parametrize(("host", "service"), BEHIND)
async def test_http_reaches_what_is_behind_a_host(world: World, host: str, service: str) -> None:
    """Exact before wildcard before any; the port that a client names does not count (A6)."""
    answer = await http1("127.0.0.1", world.system.port(HTTP), host_header=host)
    assert answer.seen["server"] == service


@pytest.mark.parametrize(("host", "service"), [one for one in BEHIND if ":" not in one[0]])
async def test_https_reaches_what_is_behind_a_server_name(world: World, host: str, service: str) -> None:
    """And only that: another host's service is not behind the connection."""
    text = "GET / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n"
    await heard(world.system.port(HTTPS), host, text.format(host), f'"server": "{service}"')
    if service == "foo":
        elsewhere = await said(world.system.port(HTTPS), host, text.format("bar.example.com"))
        assert elsewhere.startswith("HTTP/1.1 404")


async def test_tls_passes_through_to_who_holds_the_certificate(world: World) -> None:
    """The application's own is shown; a name without a route, or of no listener, is closed."""
    port = world.system.port(PASSING)
    await shown(port, "secure.example.com", world.application.serial)
    await heard(port, "secure.example.com", "?\n", '"server": "secure"')
    assert (await shake(port, "nowhere.example.com")).serial == ""
    assert (await shake(port, "unknown.example.com")).serial == ""


async def test_tls_ends_here_and_lines_go_on_in_plaintext_to_the_service(world: World) -> None:
    """The gateway's certificate is shown, without ALPN, and a server is told lines."""
    port = world.system.port(ENDING)
    seen = await shown(port, "rows.example.com", world.edge.serial, alpn="h2")
    assert seen.protocol == ""
    await heard(port, "rows.example.com", "?\n", '"server": "rows"')
