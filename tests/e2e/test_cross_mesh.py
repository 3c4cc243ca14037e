"""Cross-mesh listeners on real Envoys: a workload of one mesh calls what a gateway of another one leads to, by name.

Its sidecar shows the identity of its own mesh and verifies the gateway by the other mesh's roots; whoever belongs to no
mesh is let in nowhere, and who is not the gateway is told nothing.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from shared.demo import application
from shared.demo.looking import eventually
from tests.e2e.gateways import MESH, Gateways, gateway
from tests.e2e.handshakes import Issuer
from tests.e2e.identities import believing, identity, knock, pem_of
from tests.e2e.living import WITHIN_SECONDS, traffic
from tests.e2e.test_gateway_routes import path, route, rule, to
from tests.xds.clients import Answer, http1, http2
from tests.xds.servers import Servers

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

BASE_PORT = 28_900
OPEN, NAMED, PLAIN = 1, 2, 3
"""Listeners: for other meshes without a name, with one, and for anybody."""
INTERNAL, NAME = "internal.edge.default.mesh", "api.example.com"
HSTS = "max-age=31536000; includeSubDomains"
HERE = "127.0.0.9"
"""Where no gateway is, but somebody else."""
CLIENTS = {"web": 0, "bare": 1, "late": 2}
"""Meshes with a workload each: one with mutual TLS, one without, and one that comes later."""


def of(mesh: str) -> str:
    """A mesh's manifest."""
    return f"type: Mesh\nname: {mesh}\n---\n" if mesh == "bare" else MESH.replace("default", mesh) + "---\n"


class Meshes(Gateways):
    """The zone east: a gateway and a backend in mesh default, and a client in each of the others."""

    def __init__(self, *arguments: Any, servers: Servers) -> None:
        super().__init__(*arguments)
        self.backend = servers.add("backend")

    async def begin(self, *, declare: bool = True) -> None:
        """All but the mesh that comes late."""
        await super().begin()
        await self.apply(of("web") + of("bare"))
        tags = {"kuma.io/service": "backend", "kuma.io/protocol": "http"}
        inbound = {"port": self.port(20), "servicePort": self.backend.port, "tags": tags}
        await asyncio.gather(
            self.join("edge-1"),
            self.sidecar(self.dataplane("backend", "default", inbound=[inbound]), 9),
            self.sidecar(self.dataplane("client", "web", outbound=[self.outbound("open")]), CLIENTS["web"]),
            self.sidecar(self.dataplane("client", "bare"), CLIENTS["bare"]),
        )
        await self.apply(self.listeners_of())

    def listeners_of(self, *without: int) -> str:
        """The gateway's listeners and where they lead."""
        shared: dict[str, Any] = {"protocol": "HTTP"}
        found: dict[int, dict[str, Any]] = {
            OPEN: {"port": self.port(OPEN), "crossMesh": True},
            NAMED: {"port": self.port(NAMED), "crossMesh": True, "hostname": NAME},
            PLAIN: {"port": self.port(PLAIN)},
        }
        named = {OPEN: "open", NAMED: "named", PLAIN: "plain"}
        tagged = {
            number: one | shared | {"tags": {"port": "one", "which": named[number]}} for number, one in found.items()
        }
        return gateway(*(one for number, one in tagged.items() if number not in without)) + route(
            rule(path("/"), **to("backend"))
        )

    def outbound(self, which: str) -> dict[str, Any]:
        """To a listener by its tags, without DNS."""
        tags = {"kuma.io/mesh": "default", "kuma.io/service": "edge-gateway", "which": which}
        return {"port": self.port(30), "tags": tags}

    def dataplane(self, name: str, mesh: str, **networking: Any) -> dict[str, Any]:
        """A sidecar's own resource."""
        return {"type": "Dataplane", "mesh": mesh, "name": name, "networking": {"address": "127.0.0.1", **networking}}

    async def sidecar(self, resource: dict[str, Any], number: int, zone: str = "east") -> None:
        """Start it; the client of mesh web answers the DNS that the zone's application asks."""
        called = f"{resource['mesh']}-{resource['name']}"
        file = self.write(f"{called}.yaml", json.dumps(resource), public=True)
        token = self._issuer().dataplane_token(resource["mesh"], name=resource["name"], zone=zone)
        dns = (
            self.dns_of(resource["mesh"]) if resource["name"] == "client" and zone == "east" else self.port(60 + number)
        )
        options = ["--dataplane", str(file), "--dns-port", str(dns)]
        await self._proxy(zone, "sidecar", token, options, self.port(40 + number), called=called)

    def dns_of(self, mesh: str) -> int:
        """Where a mesh's client asks for names."""
        return self.dns_port("east") if mesh == "web" else self.port(60 + CLIENTS[mesh])

    async def known(self, mesh: str, hostname: str) -> str:
        """The address of a name in a mesh, "" for none."""
        try:
            return await application.resolve(hostname, self.dns_of(mesh))
        except application.Unresolved:
            return ""

    async def across(self, mesh: str, hostname: str, number: int, **options: Any) -> Answer:
        """A GET of the mesh's client, as its application would."""
        if not (vip := await self.known(mesh, hostname)):
            return Answer(0, "unresolved")
        return await http1(vip, self.port(number), host_header=f"{hostname}:{self.port(number)}", **options)

    async def answered(self, mesh: str, hostname: str, number: int, status: int = 200) -> Answer:
        """Wait until it is answered so."""
        look = partial(self.across, mesh, hostname, number)
        return await eventually(look, lambda one: one.status == status, f"{status} for {hostname}", WITHIN_SECONDS)

    async def refused(self, mesh: str, why: str) -> None:
        """Wait until the internal name is answered with why it leads nowhere."""
        answer = await eventually(
            partial(self.across, mesh, INTERNAL, OPEN), lambda one: why in one.body, why, WITHIN_SECONDS
        )
        assert answer.status == 503

    async def notes(self, proxy: str) -> list[str]:
        """What a reader of a proxy's configuration is told."""
        code, out, _ = await self.cli("inspect", proxy, "--zone", "east", "-o", "json")
        assert code == 0
        found: list[str] = json.loads(out).get("Notes", [])
        return found

    async def noted(self, proxy: str, words: str) -> None:
        """Wait until a note about the proxy begins so."""
        look = partial(self.notes, proxy)
        await eventually(look, lambda notes: any(one.startswith(words) for one in notes), words, WITHIN_SECONDS)

    async def condition(self, name: str, zone: str = "east") -> tuple[str, str, str]:
        """What a zone says of the MeshGateway."""
        found = await self.api("GET", "/meshes/default/meshgateways/edge/_status")
        (one,) = [one for one in found["conditions"] if one["type"] == name]
        (told,) = [each for each in one["zones"] if each["zone"] == zone]
        return told["status"], told["reason"], told["message"]


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Meshes]:
    """The client of mesh web reaches the backend of mesh default."""
    directory = tmp_path_factory.mktemp("cross-mesh")
    with Servers() as servers:
        async with Meshes(directory, BASE_PORT, servers=servers) as made:
            await made.begin()
            await made.answered("web", INTERNAL, OPEN)
            await made.answered("web", NAME, NAMED)
            yield made


async def test_a_workload_of_another_mesh_reaches_what_is_behind_the_gateway(system: Meshes) -> None:
    """By the internal name and by the listener's own, each at its port, in HTTP/1.1 and HTTP/2; the backend sees the
    gateway, and no mesh but others knows the names.
    """
    for hostname, number in ((INTERNAL, OPEN), (NAME, NAMED)):
        answer = await system.answered("web", hostname, number)
        assert answer.seen["server"] == "backend"
        assert answer.headers["strict-transport-security"] == HSTS
        assert "URI=spiffe://default/edge-gateway" in answer.seen["headers"]["x-forwarded-client-cert"]
        assert not [one for one in answer.seen["headers"] if one.startswith("x-zonal")]
    vip = await system.known("web", INTERNAL)
    assert (await http2(vip, system.port(OPEN))).seen["server"] == "backend"
    assert vip != await system.known("web", NAME)

    async def leased() -> set[str]:
        return {one["change"]["ip"] for one in await system.events("east") if one["change"]["type"] == "VipLeased"}

    await eventually(leased, lambda ips: vip in ips, "its lease in the hub's copy of the zone's log", WITHIN_SECONDS)
    assert (await system.answers(PLAIN, "anything.test", 200)).seen["server"] == "backend"


async def test_an_outbound_by_tags_leads_to_a_listener(system: Meshes) -> None:
    """Where there is no DNS of the sidecar's. What the outbounds of a mesh, or its names, do not lead to is said."""
    look = partial(http1, "127.0.0.1", system.port(30), host_header=INTERNAL)
    answer = await eventually(look, lambda one: one.status == 200, "200 by the outbound", WITHIN_SECONDS)
    assert answer.seen["server"] == "backend"
    resource = system.dataplane(
        "client", "web", outbound=[system.outbound("open"), system.outbound("gone") | {"port": 1}]
    )
    await system.apply(json.dumps(resource), "--zone", "east")
    missing = "outbound 127.0.0.1:1: no cross-mesh listener of mesh default carries"
    await system.noted("web.client", missing)
    listed = partial(system.cli, "get", "dataplanes", "-m", "web", "--zone", "east")
    wanted = f"OutboundsServed=False (NoCrossMeshListener: {missing}"
    await eventually(listed, lambda said: wanted in said[1], wanted, WITHIN_SECONDS)
    await system.noted("bare.client", f"{INTERNAL}: MeshGateway edge of mesh default: mesh bare has no mTLS")


async def test_an_application_does_not_choose_where_it_is_led(system: Meshes) -> None:
    """Headers that steer proxies are overwritten; a host that the listener does not serve is not found."""
    vip, port = await system.known("web", NAME), system.port(NAMED)
    steering = f"x-zonal-cluster: abroad/web/default/edge:{INTERNAL}:{system.port(OPEN)}\r\nx-zonal-sni: x\r\n"
    posing = "x-forwarded-client-cert: URI=spiffe://default/admin\r\n"
    answer = await http1(vip, port, host_header=NAME, headers=steering + posing)
    assert answer.seen["server"] == "backend"
    assert "admin" not in answer.seen["headers"]["x-forwarded-client-cert"]
    assert (await http1(vip, port, host_header="other.example.com")).status == 404
    # The port of another listener is not behind this name: nothing listens there.
    assert (await http1(vip, system.port(OPEN), host_header=NAME)).status == 0


async def test_who_is_of_no_mesh_is_let_in_nowhere(system: Meshes, tmp_path: Path) -> None:
    """Not in plaintext, not without a certificate, nor with one that other roots vouch for, whoever it names."""
    port, before = system.port(OPEN), system.backend.seen
    forged = believing()
    issuer = Issuer("nobody knows it")
    names = [x509.UniformResourceIdentifier(f"spiffe://{mesh}/client") for mesh in ("web", "default")]
    for name in names:
        file = tmp_path / "forged.pem"
        file.write_text("".join(issuer.issue("client", name)))
        forged.load_cert_chain(file)
        assert await knock(port, forged, INTERNAL) == 0
    assert await knock(port, believing(), INTERNAL) == 0
    assert await knock(port, None, INTERNAL) == 0
    async with identity(system, system.dataplane("other", "web")) as real:
        assert await knock(port, real, INTERNAL) == 200
        elsewhere = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        elsewhere.check_hostname, elsewhere.verify_mode = False, ssl.CERT_NONE
        elsewhere.load_cert_chain(system.directory / "manifests" / pem_of("other"))
        assert await knock(port, elsewhere, INTERNAL) == 0  # it does not say that it is a sidecar
    assert system.backend.seen == before + 1


async def test_the_services_of_a_mesh_stay_closed_to_others(system: Meshes) -> None:
    """What the gateway lets in reaches the gateway: the sidecar behind it takes its own mesh alone."""
    async with identity(system, system.dataplane("other", "web")) as foreign:
        assert await knock(system.port(20), foreign) == 0


async def test_a_mesh_without_mutual_tls_is_told_why(system: Meshes) -> None:
    """Its workloads have no identity to show: 503 with the reason, and nothing is dialled."""
    before = system.backend.seen
    await system.refused("bare", "mesh bare has no mTLS")
    assert system.backend.seen == before


class Impostor:
    """Listens in a gateway's place with a certificate of its own: how often it was called, and what it was told."""

    def __init__(self, certificate: Path) -> None:
        self.calls = 0
        self.told = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one call."""
        self.calls += 1
        try:
            await writer.start_tls(self._context)
            self.told += await reader.read(100)
        except OSError:
            pass
        finally:
            writer.close()


async def test_gateways_of_another_zone_are_not_reached(system: Meshes) -> None:
    """There the name is known as well, and leads to a 503 that says so, as the condition does."""
    await system.sidecar(system.dataplane("west", "web"), 8, "west")
    said = "no gateway Dataplane of zone west that is bound to it is connected; in-mesh traffic does not cross zones"

    async def asked() -> Answer:
        try:
            vip = await application.resolve(INTERNAL, system.port(68))
        except application.Unresolved:
            return Answer(0)
        return await http1(vip, system.port(OPEN), host_header=INTERNAL)

    answer = await eventually(asked, lambda one: said in one.body, "why in west", WITHIN_SECONDS)
    assert answer.status == 503
    there = "no gateway Dataplane of zone west is bound to it, and cross-mesh traffic does not cross zones"
    told, wanted = partial(system.condition, "Bound", "west"), ("False", "NoDataplane", there)
    await eventually(told, lambda one: one == wanted, "it to be said", WITHIN_SECONDS)
    await system.kill("west-web-west")


async def test_an_impostor_is_told_nothing(system: Meshes, tmp_path: Path) -> None:
    """Who listens where a gateway is declared: with the identity of another mesh, with another one of the same mesh, or
    with the gateway's very name by other roots. Called, it sees no request; and nobody else being there, it is said.
    """
    await system.kill("east-edge-1")
    forged = tmp_path / "forged.pem"
    name = x509.UniformResourceIdentifier("spiffe://default/edge-gateway")
    forged.write_text("".join(Issuer("nobody knows it").issue("edge", name)))
    certificates = [forged]
    for mesh in ("web", "default"):
        async with identity(system, system.dataplane(f"of-{mesh}", mesh)):
            certificates.append(system.directory / "manifests" / pem_of(f"of-{mesh}"))
    edge = {"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}}
    declared = system.dataplane("edge-9", "default", gateway=edge) | {"networking": {"address": HERE, "gateway": edge}}
    async with identity(system, declared):
        for certificate in certificates:
            impostor = Impostor(certificate)
            async with await asyncio.start_server(impostor.listen, HERE, system.port(OPEN)):
                look = partial(system.across, "web", INTERNAL, OPEN)
                answer = await eventually(
                    look, lambda one: "CERTIFICATE_VERIFY_FAILED" in one.body, "the call to fail", WITHIN_SECONDS
                )
                assert answer.status == 503
                assert (impostor.calls > 0, impostor.told) == (True, b"")
    absent = "no gateway Dataplane of zone east that is bound to it is connected; in-mesh traffic does not cross zones"
    await eventually(look, lambda one: absent in one.body, "nobody to be there", WITHIN_SECONDS)
    await system.start("east-edge-1")
    await system.answered("web", INTERNAL, OPEN)


async def kept_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Status of one more request on a connection."""
    async with asyncio.timeout(WITHIN_SECONDS):
        writer.write(f"GET / HTTP/1.1\r\nhost: {INTERNAL}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lengths = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
        await reader.readexactly(int(lengths[0]))
    return int(head.split()[1])


async def test_a_mesh_that_comes_later_is_let_in_and_nobody_notices(system: Meshes) -> None:
    """Its roots join those that the gateway trusts, and leave them, while another mesh's workloads go on."""
    async with traffic(system, "east", NAME, system.port(NAMED)) as seen:
        await system.apply(of("late"))
        await system.sidecar(system.dataplane("client", "late"), CLIENTS["late"])
        assert (await system.answered("late", INTERNAL, OPEN)).seen["server"] == "backend"
        async with identity(system, system.dataplane("other", "late")) as of_late:
            assert await knock(system.port(OPEN), of_late, INTERNAL) == 200
            reader, writer = await asyncio.open_connection("127.0.0.1", system.port(OPEN), ssl=of_late)
            again = partial(kept_alive, reader, writer)
            assert await again() == 200
            # It gives up mutual TLS: what was issued to its workloads opens nothing any more, and what is open is shut.
            await system.apply("type: Mesh\nname: late\n")
            look = partial(knock, system.port(OPEN), of_late, INTERNAL)
            await eventually(look, lambda status: status == 0, "its roots to be trusted no more", WITHIN_SECONDS)
            await eventually(again, lambda status: status == 403, "an open connection to be refused", WITHIN_SECONDS)
            writer.close()
        after = seen.answers
        await eventually(_later(lambda: seen.answers), lambda count: count > after + 20, "more calls")
    assert seen.failures == []
    await system.kill("east-late-client")


async def test_a_listener_goes_and_nobody_else_notices(system: Meshes) -> None:
    """Name and address go with it, and come back as they were; calls by the other name never fail."""
    vip = await system.known("web", INTERNAL)
    async with traffic(system, "east", NAME, system.port(NAMED)) as seen:
        await system.apply(system.listeners_of(OPEN))
        await eventually(partial(system.known, "web", INTERNAL), lambda ip: not ip, "no such name", WITHIN_SECONDS)
        look = partial(http1, vip, system.port(OPEN), host_header=INTERNAL)
        await eventually(look, lambda one: one.status == 0, "nobody at the address", WITHIN_SECONDS)
        outbound = partial(http1, "127.0.0.1", system.port(30), host_header=INTERNAL)
        await eventually(outbound, lambda one: one.status == 0, "nor at the outbound", WITHIN_SECONDS)
        await system.apply(system.listeners_of())
        await system.answered("web", INTERNAL, OPEN)
        assert await system.known("web", INTERNAL) == vip
        again = ("True", f"{INTERNAL} {vip} in web")
        told = partial(system.condition, "VipLeased")
        await eventually(told, lambda one: one[0] == again[0] and again[1] in one[2], "it to be said", WITHIN_SECONDS)
        after = seen.answers
        await eventually(_later(lambda: seen.answers), lambda count: count > after + 20, "more calls")
    assert seen.failures == []


async def test_a_gateways_mesh_that_gives_up_mutual_tls_closes_its_listeners(system: Meshes) -> None:
    """Those for other meshes, with a condition; and plaintext is not let in in their place."""
    await system.apply("type: Mesh\nname: default\n")
    await system.refused("web", "mTLS must be enabled for crossMesh-enabled MeshGateways")
    told = await eventually(partial(system.condition, "Ready"), lambda one: one[0] == "False", "it to be said", 30)
    assert told[1:] == (
        "NoMutualTls",
        "conf.listeners[0].crossMesh: mTLS must be enabled for crossMesh-enabled MeshGateways; and 1 more listener",
    )
    await eventually(partial(knock, system.port(OPEN), None, INTERNAL), lambda one: one == 0, "closed", WITHIN_SECONDS)
    await system.answers(PLAIN, "anything.test", 200)
    await system.apply(MESH)
    await system.answered("web", INTERNAL, OPEN)


def _later(look: Any) -> Any:
    async def looked() -> Any:
        return look()

    return looked
