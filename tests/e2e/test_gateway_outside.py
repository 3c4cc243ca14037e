"""What is beyond the mesh behind a gateway's HTTPS and TLS, asked by clients that people have: curl, gRPC, openssl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import grpc
import pytest
from grpc import aio

from shared.demo.looking import eventually
from tests.e2e.gateways import gateway, secret
from tests.e2e.grpc_client import echo
from tests.e2e.living import WITHIN_SECONDS
from tests.e2e.server_certificates import Certificate, certificate, shown
from tests.e2e.test_gateway_routes import DIRECT, ES_BY_EGRESS, MTLS, PLAIN_MESH, Routed
from tests.e2e.test_gateway_tls import heard, serving
from tests.xds.servers import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 31_600
HTTPS, ENDING, PASSING, GRPC = 5, 6, 7, 8
SERVED = {"mes": "http", "es": "http", "mes-rows": "tcp", "es-rows": "tcp", "mes-own": "tcp", "es-own": "tcp"}
"""Services beyond the mesh and what they speak; `own` end TLS themselves."""
GRPC_SERVED = ("calls", "mes-calls", "es-calls")
"""In the mesh, and beyond it."""


class Outside(Routed):
    """A gateway with a hostname for every service, `<service>.example.com`, at the port that suits it."""

    def __init__(self, *arguments: Any, servers: Servers, edge: Certificate, own: Certificate) -> None:
        super().__init__(*arguments, servers=servers)
        self.edge, self.own, self._echoes = edge, own, AsyncExitStack()
        for name in SERVED:
            if name not in self.servers:
                context = serving(self.directory, own) if name.endswith("-own") else None
                self.servers[name] = servers.add(name, context)

    async def begin(self, *, declare: bool = True) -> None:
        """All of them; gRPC services are real ones."""
        await super().begin()
        ports = {name: await self._echoes.enter_async_context(echo(name)) for name in GRPC_SERVED}
        inbound = {
            "port": self.port(30),
            "servicePort": ports["calls"],
            "tags": {"kuma.io/service": "calls", "kuma.io/protocol": "grpc"},
        }
        await self.sidecar("calls", [inbound], 10)
        declared = [
            external_service(name, protocol, self.servers[name].port)
            for name, protocol in SERVED.items()
            if name not in ("mes", "es")
        ]
        declared += [external_service(name, "grpc", ports[name]) for name in GRPC_SERVED[1:]]
        await self.apply(
            "".join(declared) + self.declared_listeners() + "".join(map(self.route, (*SERVED, *GRPC_SERVED)))
        )

    async def end(self) -> None:
        """Stop the gRPC services."""
        await self._echoes.aclose()

    def declared_listeners(self) -> str:
        """One Secret for all that ends here."""
        ended = {"mode": "TERMINATE", "certificates": [{"secret": "edge"}]}
        found: list[dict[str, Any]] = []
        for name in (*SERVED, *GRPC_SERVED):
            host = {"hostname": f"{name}.example.com", "tags": {"to": name}}
            if name.endswith("-own"):
                found.append(host | {"port": self.port(PASSING), "protocol": "TLS", "tls": {"mode": "PASSTHROUGH"}})
            elif name.endswith("-rows"):
                found.append(host | {"port": self.port(ENDING), "protocol": "TLS", "tls": ended})
            else:
                found.append(host | {"port": self.port(HTTPS), "protocol": "HTTPS", "tls": ended})
        found.append({"port": self.port(GRPC), "protocol": "HTTP", "tags": {"to": "calls"}})
        return secret("edge", self.edge.pem) + gateway(*found)

    def route(self, name: str) -> str:
        """A MeshGatewayRoute to a `kuma.io/service`, a MeshHTTPRoute or MeshTCPRoute to a MeshExternalService."""
        tcp = SERVED.get(name) == "tcp"
        if name.startswith("mes"):
            reference = {"kind": "MeshExternalService", "name": name}
            rule: dict[str, Any] = {"default": {"backendRefs": [reference]}}
            rule |= {} if tcp else {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}
            top = {"kind": "MeshGateway", "name": "edge", "tags": {"to": name}}
            spec = {"targetRef": top, "to": [{"targetRef": {"kind": "Mesh"}, "rules": [rule]}]}
            kind = "MeshTCPRoute" if tcp else "MeshHTTPRoute"
            return json.dumps({"type": kind, "mesh": "default", "name": name, "spec": spec}) + "\n---\n"
        backends = {"backends": [{"destination": {"kuma.io/service": name}}]}
        match = {"matches": [{"path": {"match": "PREFIX", "value": "/"}}]}
        conf = {"tcp": {"rules": [backends]}} if tcp else {"http": {"rules": [backends | match]}}
        selectors = [{"match": {"kuma.io/service": "edge-gateway", "to": name}}]
        whole = {"type": "MeshGatewayRoute", "mesh": "default", "name": name, "selectors": selectors, "conf": conf}
        return json.dumps(whole) + "\n---\n"

    async def curl(self, name: str, *options: str) -> tuple[str, dict[str, Any]]:
        """`curl` by HTTPS, which checks the certificate: protocol and what the server saw."""
        host, port = f"{name}.example.com", self.port(HTTPS)
        trusted = self.write("edge.pem", self.edge.pem, public=True)
        argv = ["curl", "-sS", "-m", "10", "--cacert", str(trusted), "--resolve", f"{host}:{port}:127.0.0.1"]
        argv += [*options, "-w", "\\n%{http_version} %{response_code}", f"https://{host}:{port}/"]
        child = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        body, _, protocol = out.decode().rpartition("\n")
        return protocol, json.loads(body) if body.startswith("{") else {"body": body}

    async def rpc(self, name: str, *, tls: bool) -> bytes:
        """A unary call of a gRPC client, which checks the certificate."""
        host = f"{name}.example.com"
        async with (
            aio.secure_channel(
                f"127.0.0.1:{self.port(HTTPS)}",
                grpc.ssl_channel_credentials(self.edge.pem.encode()),
                (("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)),
            )
            if tls
            else aio.insecure_channel(f"127.0.0.1:{self.port(GRPC)}") as channel
        ):
            say: Any = channel.unary_unary("/test.Echo/Say")
            return bytes(await say(b"hello", timeout=5))


def external_service(name: str, protocol: str, port: int) -> str:
    """An ExternalService or a MeshExternalService."""
    if name.startswith("es"):
        tags = {"kuma.io/service": name, "kuma.io/protocol": protocol}
        whole = {"type": "ExternalService", "mesh": "default", "name": name, "tags": tags}
        return json.dumps(whole | {"networking": {"address": f"127.0.0.1:{port}"}}) + "\n---\n"
    match = {"type": "HostnameGenerator", "port": 443, "protocol": protocol}
    spec = {"match": match, "endpoints": [{"address": "127.0.0.1", "port": port}]}
    return json.dumps({"type": "MeshExternalService", "mesh": "default", "name": name, "spec": spec}) + "\n---\n"


@pytest.fixture(scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outside]:
    """Everything is declared."""
    directory = tmp_path_factory.mktemp("gateway-outside")
    edge, own = certificate("*.example.com"), certificate("own.example.com")
    with Servers() as servers:
        async with Outside(directory, BASE_PORT, servers=servers, edge=edge, own=own) as made:
            await made.begin()
            yield made
            await made.end()


@pytest.fixture(
    scope="module", params=[ES_BY_EGRESS, MTLS, DIRECT, PLAIN_MESH], ids=["egress", "mtls", "direct", "plain"]
)
async def system(running: Outside, request: pytest.FixtureRequest) -> Outside:
    """Both kinds through the zone egress; only MeshExternalServices; neither; neither, without mutual TLS.

    In this order, so that sidecars are given more each time: what takes most from one is held back (`guard.py`).
    """
    await running.apply(request.param)
    return running


async def test_https_leads_beyond_the_mesh(system: Outside) -> None:
    """curl, by HTTP/1.1 and HTTP/2; the server sees the host that was asked for, in plaintext."""
    for name in ("mes", "es"):
        await eventually(partial(system.curl, name), lambda one: one[0].endswith("200"), name, WITHIN_SECONDS)
        for option, protocol in (("--http1.1", "1.1 200"), ("--http2", "2 200")):
            look = partial(system.curl, name, option)
            _, seen = await eventually(look, lambda one, as_=protocol: one[0] == as_, protocol, WITHIN_SECONDS)  # type: ignore[misc]
            assert (seen["server"], seen["headers"]["host"]) == (name, f"{name}.example.com:{system.port(HTTPS)}")


async def test_tls_that_ends_here_leads_beyond_the_mesh(system: Outside) -> None:
    """The gateway's certificate is shown, and a server beyond the mesh is told lines."""
    port = system.port(ENDING)
    for name in ("mes-rows", "es-rows"):
        host = f"{name}.example.com"
        await heard(port, host, "?\n", f'"server": "{name}"')
        await shown(port, host, system.edge.serial)


async def test_tls_passes_through_to_beyond_the_mesh(system: Outside) -> None:
    """The server's own certificate is shown, through the zone egress as well."""
    port = system.port(PASSING)
    for name in ("mes-own", "es-own"):
        host = f"{name}.example.com"
        await heard(port, host, "?\n", f'"server": "{name}"')
        await shown(port, host, system.own.serial)


async def test_a_grpc_client_calls_through_the_gateway(system: Outside) -> None:
    """Services in the mesh and beyond it, over TLS, which it verifies; in plaintext at a listener of HTTP."""
    for name in GRPC_SERVED:
        await called(system, name, tls=True)
    await called(system, "calls", tls=False)


async def called(system: Outside, name: str, *, tls: bool) -> None:
    """Wait until a call is answered by this service."""

    async def call() -> bytes:
        try:
            return await system.rpc(name, tls=tls)
        except aio.AioRpcError as error:
            return str(error.details()).encode()

    wanted = name.encode() + b" hello"
    await eventually(call, lambda found: found == wanted, f"{name} answers", WITHIN_SECONDS)
