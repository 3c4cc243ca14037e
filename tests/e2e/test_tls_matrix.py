"""Every cell of tls_matrix.yaml is a real handshake between a real Envoy and a server made for it."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
import pytest
import yaml
from cryptography import x509

from shared.model import manifest
from shared.model.validate import validate
from tests.conftest import take_port
from tests.xds.clients import Answer, ask
from tests.xds.envoys import eventually
from tests.xds.loopback import DIRECT, MESH, LoopbackZone
from tests.xds.servers import Server, Servers, server_context
from tests.xds.views import Authority

pytestmark = pytest.mark.e2e

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("tls_matrix.yaml").read_text())
NAME = "tls.test"
AT_ONCE = 32
"""Requests in flight; Envoy has a thread per proxy here, and the machine two cores."""

Placement: TypeAlias = Literal["egress", "sidecar"]
# asyncio's servers cut the connection where others would send an alert, so the last two have no TLS reason here.
REASONS = {
    "san": ("CERTIFICATE_VERIFY_FAILED", "SAN"),
    "chain": ("CERTIFICATE_VERIFY_FAILED",),
    "dates": ("CERTIFICATE_VERIFY_FAILED", "expired"),
    "closed": ("NoCertificateAuthority", "spec.tls.verification.caCert"),
    "version": (),
    "refused": (),
}
VERSIONS = {1.0: "TLSv1", 1.1: "TLSv1.1", 1.2: "TLSv1.2", 1.3: "TLSv1.3"}


class Cell(msgspec.Struct, frozen=True):
    """One handshake: a MeshExternalService named `name`, and what is expected of it."""

    table: str
    says: str
    name: str
    protocol: str
    server: str
    tls: dict[str, Any]
    expected: str
    sni: str | None = NAME

    def manifest(self, port: int, server_port: int) -> str:
        spec = {
            "match": {"port": port, "protocol": self.protocol},
            "endpoints": [{"address": "127.0.0.1", "port": server_port}],
            "tls": {"enabled": True, **self.tls},
        }
        return yaml.safe_dump({"type": "MeshExternalService", "name": self.name, "mesh": "default", "spec": spec})


class Material:
    """The certificates of a run."""

    def __init__(self) -> None:
        self.ca, self.other = Authority("the trusted CA"), Authority("another CA")
        self.right, self.wrong = self.ca.issue("right"), self.other.issue("wrong")

    def server(self, dns: list[str], ip: list[str], uri: list[str], signer: str) -> tuple[str, str]:
        """Certificate and key of a server."""
        names: list[x509.GeneralName] = [x509.DNSName(one) for one in dns]
        names += [x509.IPAddress(ip_address(one)) for one in ip]
        names += [x509.UniformResourceIdentifier(one) for one in uri]
        if signer == "itself":
            return self.ca.self_signed("server", *names)
        return (self.other if signer == "another CA" else self.ca).issue("server", *names, expired=signer == "expired")

    def source(self, kind: str) -> dict[str, Any]:
        """`caCert` of one kind; nothing for the system's."""
        known = {
            "inline": {"inline": b64encode(self.ca.pem.encode()).decode()},
            "inlineString": {"inlineString": self.ca.pem},
            "secret": {"secret": "ca"},
        }
        return {"caCert": known[kind]} if kind in known else {}

    def client(self, kind: str) -> dict[str, Any]:
        """`clientCert` and `clientKey` of one kind; nothing for none."""
        if kind == "none":
            return {}
        return {"clientCert": {"secret": f"{kind}-cert"}, "clientKey": {"secret": f"{kind}-key"}}

    def secrets(self) -> str:
        """The Secrets that the cells name."""
        texts = {"ca": self.ca.pem}
        for kind, pair in (("right", self.right), ("wrong", self.wrong)):
            texts |= {f"{kind}-cert": pair[0], f"{kind}-key": pair[1]}
        data = {name: b64encode(text.encode()).decode() for name, text in texts.items()}
        return "---\n".join(f"type: Secret\nname: {one}\nmesh: default\ndata: {value}\n" for one, value in data.items())


def _cells(material: Material) -> Iterator[Cell]:
    number = (f"cell-{one}" for one in itertools.count())
    yield from _by_mode(material, number)
    ca = material.source("inline")
    certificates = ["good", "wrong-san", "uri-san", "ip-san"]
    for row, outcomes in TABLE["names"].items():
        names = [dict(zip(("type", "value"), one.split(), strict=True)) for one in row.split(", ")]
        verification = {"serverName": NAME, "subjectAltNames": names, **ca}
        for server, expected in zip(certificates, outcomes, strict=True):
            yield Cell("names", row, next(number), "http", server, {"verification": verification}, expected)
    for row, limits, mode, accepted in _limits():
        tls = ({"version": limits} if limits else {}) | {"verification": {"mode": mode, "serverName": NAME, **ca}}
        for version in VERSIONS:
            expected = "ok" if version in accepted else "version"
            yield Cell("versions", row, next(number), "http", f"only-{version}", tls, expected)
    for row, outcomes in TABLE["client_certificates"].items():
        mode, kind = row.split(", ")
        tls = {"verification": {"mode": mode, "serverName": NAME, **ca, **material.client(kind)}}
        for server, expected in zip(("demands", "indifferent"), outcomes, strict=True):
            for protocol in ("http", "tcp"):
                yield Cell("client_certificates", row, next(number), protocol, server, tls, expected)


def _by_mode(material: Material, number: Iterator[str]) -> Iterator[Cell]:
    for row, outcomes in TABLE["modes"].items():
        mode, target = row.split(", ")
        for source, protocols in TABLE["sources"].items():
            verification = {"mode": mode, **material.source(source)}
            if target == "serverName":
                verification["serverName"] = NAME
            sni = NAME if target == "serverName" else None
            columns = zip(TABLE["certificates"], outcomes, TABLE["without_ca"][row], strict=True)
            for (server, expected, without), protocol in itertools.product(columns, protocols):
                name, says = next(number), f"{row}, CA {source}"
                yield Cell("modes", says, name, protocol, server, {"verification": verification}, expected, sni)
                if source == "system":
                    yield Cell("without_ca", row, name, protocol, server, {"verification": verification}, without, sni)


def _limits() -> Iterator[tuple[str, dict[str, str], str, list[float]]]:
    for low, row in TABLE["versions"].items():
        for high, accepted in row.items():
            if accepted != "refused":
                limits = {field: limit for field, limit in (("min", low), ("max", high)) if limit != "unset"}
                yield f"{low}-{high}", limits, "Secured", accepted
    several = TABLE["versions_in_modes"]
    for mode, (limits, accepted) in itertools.product(several["modes"], several["limits"].items()):
        low, _, high = limits.partition("-")
        yield f"{mode}, {limits}", {"min": low, "max": high}, mode, accepted


class World:
    """Servers, a zone with every cell at once, and its two Envoys."""

    def __init__(self, directory: Path, servers: Servers) -> None:
        self.material = Material()
        self.servers = dict(self._servers(directory, servers))
        self.cells = list(_cells(self.material))
        self.system_ca = directory / "system-ca.pem"
        self.system_ca.write_text(self.material.ca.pem)
        self.port = take_port()
        dataplane = (
            "type: Dataplane\nname: sidecar\nmesh: default\nnetworking:\n  address: 127.0.0.1\n"
            f"  transparentProxying: {{redirectPortOutbound: {self.port}}}\n"
        )
        self.zone = LoopbackZone(directory, dataplane, system_ca_path=str(self.system_ca), name="matrix")
        self.zone.apply(self.material.secrets())
        found = {cell.name: cell for cell in self.cells}
        self.zone.apply("---\n".join(one.manifest(self.port, self.servers[one.server].port) for one in found.values()))
        self.zone.show()
        services = self.zone.view.meshes["default"].services.values()
        self.vips = {one.name: one.vip for one in services}
        self.clusters = [one.cluster for one in services]
        self.placed: tuple[Placement, bool] = ("egress", True)
        self.zone.settled(self.clusters)

    def _servers(self, directory: Path, servers: Servers) -> Iterator[tuple[str, Server]]:
        for name, kind in TABLE["certificates"].items():
            pair = self.material.server(
                kind.get("dns", []), kind.get("ip", []), kind.get("uri", []), kind.get("signer", "")
            )
            yield name, servers.add(name, server_context(directory, pair))
        good = self.material.server([NAME], ["127.0.0.1"], [], "")
        only = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
        for number, version in zip(VERSIONS, only, strict=True):
            name = f"only-{number}"
            yield name, servers.add(name, server_context(directory, good, version=version))
        yield "demands", servers.add("demands", server_context(directory, good, clients=self.material.ca.pem))
        yield "indifferent", servers.add("indifferent", server_context(directory, good))

    def place(self, placement: Placement, *, system_ca: bool = True) -> None:
        """Originate TLS there, with or without a system CA."""
        if self.placed == (placement, system_ca):
            return
        self.placed = (placement, system_ca)
        direct = placement == "sidecar"
        self.zone.apply(DIRECT if direct else MESH)
        self.zone.connect(str(self.system_ca) if system_ca else "")
        self.zone.show()
        self.zone.answered()
        self.zone.settled(self.clusters, direct=direct)
        sidecar = self.zone.envoys["matrix-sidecar"]
        routes = "outside/default" if direct else "mesh/default"
        eventually(lambda: routes in sidecar.admin("/config_dump?resource=dynamic_listeners"), "the new listener")
        probe = next(one for one in self.cells if one.table == "without_ca" and one.expected == "closed")
        status = "closed" if not system_ca else "ok"
        eventually(lambda: self._told(probe, status), f"the system CA to come or go: {status}")

    def _told(self, cell: Cell, expected: str) -> bool:
        answer = asyncio.run(ask(cell.protocol, self.vips[cell.name], self.port))
        return (answer.status == 200) == (expected == "ok")

    def run(self, table: str) -> list[str]:
        """Make every handshake of a table; what was not as written."""
        cells = [cell for cell in self.cells if cell.table == table]
        before = {name: server.seen for name, server in self.servers.items()}
        answers = asyncio.run(self._ask(cells))
        wrong = [text for cell, answer in zip(cells, answers, strict=True) if (text := _judge(cell, answer))]
        reached = Counter(cell.server for cell in cells if cell.expected == "ok")
        seen = {name: server.seen - before[name] for name, server in self.servers.items()}
        if not wrong and seen != {name: reached[name] for name in self.servers}:
            wrong.append(f"requests reached servers that were to be refused: {seen}, not {dict(reached)}")
        return wrong

    async def _ask(self, cells: list[Cell]) -> list[Answer]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(cell: Cell) -> Answer:
            async with limit:
                return await ask(cell.protocol, self.vips[cell.name], self.port)

        return await asyncio.gather(*(one(cell) for cell in cells))


def _judge(cell: Cell, answer: Answer) -> str:
    about = (
        f"{cell.table}: {cell.says} × {cell.server} ({cell.protocol}): expected {cell.expected}, got {answer.status}"
    )
    if cell.expected == "ok":
        seen = answer.seen
        if answer.status != 200 or seen.get("server") != cell.server or seen.get("sni") != cell.sni:
            return f"{about} {answer.body[:300]}"
        version = cell.server.removeprefix("only-")
        right = version == cell.server or seen["version"] == VERSIONS[float(version)]
        return "" if right else f"{about} {seen['version']}"
    if cell.protocol == "tcp":
        return "" if answer.status == 0 else f"{about} {answer.body[:300]}"
    told = all(word in answer.body for word in (f"MeshExternalService/default/{cell.name}", *REASONS[cell.expected]))
    return "" if answer.status == 503 and told else f"{about} {answer.body[:300]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers() as servers:
        made = World(tmp_path_factory.mktemp("tls"), servers)
        try:
            yield made
        finally:
            made.zone.stop()


@pytest.mark.parametrize("table", ["modes", "names", "versions", "client_certificates", "without_ca"])
@pytest.mark.parametrize("placement", ["egress", "sidecar"])
def test_every_cell_is_as_the_table_says(world: World, placement: Placement, table: str) -> None:
    """Each handshake ends as written, with its reason in the answer, and no request reaches a refused server."""
    world.place(placement, system_ca=table != "without_ca")
    assert world.run(table) == []
    assert world.zone.nacks() == []


def test_the_table_leaves_no_cell_out() -> None:
    """Modes, certificates, versions: every combination of what the resource can say stands in the table."""
    modes = ("Secured", "SkipSAN", "SkipCA", "SkipAll")
    rows = {f"{mode}, {target}" for mode in modes for target in ("serverName", "address")}
    assert set(TABLE["modes"]) == set(TABLE["without_ca"]) == rows
    kinds = {"good", "wrong-san", "unknown-ca", "expired", "self-signed", "uri-san", "ip-san"}
    assert set(TABLE["certificates"]) == kinds
    assert all(len(row) == len(kinds) for row in (*TABLE["modes"].values(), *TABLE["without_ca"].values()))
    assert set(TABLE["sources"]) == {"inline", "inlineString", "secret", "system"}  # none: without_ca
    assert {one for spoken in TABLE["sources"].values() for one in spoken} == {"http", "http2", "grpc", "tcp"}
    assert set(TABLE["client_certificates"]) == {
        f"{mode}, {kind}" for mode in modes for kind in ("none", "right", "wrong")
    }
    assert set(TABLE["versions_in_modes"]["modes"]) == set(modes)
    limits = {"unset", "TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"}
    assert {low: set(row) for low, row in TABLE["versions"].items()} == dict.fromkeys(limits, limits)


@pytest.mark.parametrize(
    ("low", "high"),
    [(low, high) for low, row in TABLE["versions"].items() for high, one in row.items() if one == "refused"],
)
def test_limits_that_contradict_each_other_are_refused(low: str, high: str) -> None:
    """min above max is no setting at all: the resource is not accepted."""
    text = (
        "type: MeshExternalService\nname: x\nspec: {match: {port: 1}, endpoints: [{address: tls.test, port: 1}], "
        f"tls: {{enabled: true, version: {{min: {low}, max: {high}}}}}}}\n"
    )
    found = validate(manifest.parse(text).documents[0].resource)
    assert [one.path for one in found] == ["spec.tls.version.min"]
