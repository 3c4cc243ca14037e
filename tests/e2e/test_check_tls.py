"""`zonal check tls`: real handshakes with servers that each have one fault, and the field that would mend it."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from shared.model.resource import Endpoint, ExternalTls, SubjectAltName, TlsVersions, Verification
from tests.conftest import take_port
from tests.e2e.handshakes import DAY, Issuer, Servers
from tests.xds.clients import is_whole
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import Envoy, eventually
from tests.xds.views import Secrets, egress, mesh_view, service, zone_view
from zone_cp.agent import check_tls
from zone_cp.view.zone_view import ExternalServiceView, Failure
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.tls_check import tls_checks

pytestmark = pytest.mark.e2e

NAME = "payments.test"
CA, CLIENT = "spec.tls.verification.caCert", "spec.tls.verification.clientCert"
SANS, SNI = "spec.tls.verification.subjectAltNames", "spec.tls.verification.serverName"


class World:
    """Servers by what is wrong with them."""

    def __init__(self, servers: Servers) -> None:
        self.servers, dns = servers, x509.DNSName(NAME)
        self.ca, self.other = Issuer("root"), Issuer("other")
        self.old = Issuer("old root", lifetime=-DAY)
        self.middle = Issuer("middle", self.ca)
        v12, v13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        good = self.ca.issue("good", dns)
        past = datetime.now(UTC) - timedelta(hours=1)
        of_middle = self.middle.issue("good", dns)
        self.ports = {
            "good": servers.serve(good),
            "wrong-san": servers.serve(self.ca.issue("elsewhere", x509.DNSName("elsewhere.test"))),
            "no-san": servers.serve(self.ca.issue(NAME)),
            "wildcard": servers.serve(self.ca.issue("star", x509.DNSName("*.test"))),
            "uri-san": servers.serve(self.ca.issue("uri", x509.UniformResourceIdentifier("spiffe://outside/pay"))),
            "ip-san": servers.serve(self.ca.issue("ip", x509.IPAddress(ip_address("127.0.0.1")))),
            "unknown-ca": servers.serve(self.other.issue("good", dns)),
            "expired": servers.serve(self.ca.issue("old", dns, until=past)),
            "expired-ca": servers.serve(self.old.issue("good", dns)),
            "intermediate": servers.serve(of_middle, chain=self.middle.pem),
            "no-intermediate": servers.serve(of_middle),
            "only-12": servers.serve(good, lowest=v12, highest=v12),
            "only-13": servers.serve(good, lowest=v13, highest=v13),
            "only-10": servers.serve(good, lowest=ssl.TLSVersion.TLSv1, highest=ssl.TLSVersion.TLSv1),
            "mutual": servers.serve(good, clients=self.ca.pem),
            "mutual-12": servers.serve(good, clients=self.ca.pem, highest=v12),
            "plaintext": servers.serve(None),
            "silent": servers.mute(),
            "slams": servers.mute(slams=True),
            "for-clients": servers.serve(self.ca.issue("client", dns, use=ExtendedKeyUsageOID.CLIENT_AUTH)),
            "old-ciphers": servers.serve(good, highest=v12, ciphers="ECDHE-ECDSA-AES128-SHA"),
            "only-h1": servers.serve(good, protocols=("http/1.1",)),
            "refused": take_port(),
        }
        self.right, self.wrong = self.ca.issue("right client"), self.other.issue("wrong client")

    def service(self, server: str, **changes: Any) -> ExternalServiceView:
        """A service on that server, verified by `ca` and named NAME unless told otherwise."""
        ca, client = changes.pop("ca", self.ca.pem), changes.pop("client", None)
        enabled, versions = changes.pop("enabled", True), TlsVersions(**changes.pop("versions", {}))
        address, protocol = changes.pop("address", "127.0.0.1"), changes.pop("protocol", "http")
        verification = Verification(**({"server_name": NAME} | changes))
        return service(
            protocol=protocol,
            endpoints=(Endpoint(address=address, port=self.ports[server]),),
            tls=ExternalTls(enabled=enabled, version=versions, verification=verification),
            ca=ca,
            client=client,
        )

    def check(self, server: str, **changes: Any) -> dict[str, Any]:
        """The steps by name, and `failed`: those that do not hold, with their field."""
        asked = tls_checks(self.service(server, **changes), "", Secrets(), "1")
        assert not isinstance(asked, Failure)
        steps = {one.name: one for one in check_tls.run(asked[0]).steps}
        failed = {name: one.field for name, one in steps.items() if one.result == "failed"}
        return {**steps, "failed": failed}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Servers(tmp_path_factory.mktemp("tls")) as servers:
        yield World(servers)
        assert set(servers.received) <= {b""}, "a check sends no application data"


LISTED = {"subject_alt_names": (SubjectAltName(value="spiffe://outside/", type="Prefix"),)}


Case: TypeAlias = tuple[str, dict[str, Any], dict[str, str]]
CASES: list[Case] = [
    ("good", {}, {}),
    ("wildcard", {}, {}),
    ("intermediate", {}, {}),
    ("uri-san", LISTED, {}),
    ("ip-san", {"server_name": None}, {}),
    ("wrong-san", {}, {"names": SNI}),
    ("no-san", {}, {"names": SNI}),
    ("good", LISTED, {"names": SANS}),
    ("wrong-san", {"mode": "SkipSAN"}, {}),
    ("unknown-ca", {}, {"chain": CA}),
    ("no-intermediate", {}, {"chain": CA}),
    ("unknown-ca", {"mode": "SkipAll"}, {}),
    ("unknown-ca", {"mode": "SkipCA"}, {}),
    ("unknown-ca", {"mode": "SkipSAN"}, {"chain": CA}),
    ("expired", {}, {"dates": ""}),
    ("expired", {"mode": "SkipAll"}, {}),
    ("only-12", {"versions": {"min": "TLS13"}}, {"handshake": "spec.tls.version.min"}),
    ("only-13", {"versions": {"max": "TLS12"}}, {"handshake": "spec.tls.version.max"}),
    ("only-10", {}, {"handshake": "spec.tls.version.min"}),
    ("only-10", {"versions": {"min": "TLS10"}}, {}),
    ("mutual", {}, {"client-certificate": CLIENT}),
    ("mutual-12", {}, {"client-certificate": CLIENT}),
    ("plaintext", {}, {"handshake": "spec.tls.enabled"}),
    ("slams", {}, {"handshake": "spec.tls.enabled"}),
    ("for-clients", {}, {"chain": ""}),
    ("old-ciphers", {}, {"handshake": "spec.tls.version.min"}),
    ("old-ciphers", {"versions": {"min": "TLS11"}}, {}),
    ("only-h1", {}, {}),
    ("only-h1", {"protocol": "http2"}, {"protocol": "spec.match.protocol"}),
    ("refused", {}, {"connect": "spec.endpoints"}),
    ("good", {"address": "no-such-name.invalid"}, {"resolve": "spec.endpoints"}),
    ("good", {"enabled": False}, {}),
]
"""Server, what the resource says, and what does not hold: step and field."""


@pytest.mark.parametrize(("server", "changes", "failed"), CASES)
def test_a_check_names_what_fails_and_the_field_that_mends_it(
    world: World, server: str, changes: dict[str, Any], failed: dict[str, str]
) -> None:
    """One fault, one failed step, one field; everything else holds."""
    assert world.check(server, **changes)["failed"] == failed


def test_who_says_nothing_is_waited_for_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for each version of TLS: it is no server of TLS."""
    monkeypatch.setattr(check_tls, "HANDSHAKE_SECONDS", 0.5)
    began = time.monotonic()
    steps = world.check("silent")
    assert steps["failed"] == {"handshake": "spec.tls.enabled"}
    assert time.monotonic() - began < 2
    assert "no answer within 0.5 s" in steps["handshake"].message


def test_a_server_that_names_no_protocol_is_told(world: World) -> None:
    """HTTP/2 is spoken to it all the same, which may be what it expects."""
    steps = world.check("good", protocol="grpc")
    assert (steps["failed"], steps["protocol"].result) == ({}, "told")


def test_an_expired_authority_is_told_apart_from_an_expired_server(world: World) -> None:
    """The server's certificate is fine: what is old stands in caCert."""
    seen = world.check("expired-ca", ca=world.old.pem)
    assert seen["failed"] == {"dates": CA}
    assert "CN=old root" in seen["dates"].message


@pytest.mark.parametrize("server", ["mutual", "mutual-12"])
def test_client_certificates_are_shown_and_judged_by_the_server(world: World, server: str) -> None:
    """The right one is not refused; the wrong one is, also by a TLS 1.3 server that says so after the handshake."""
    right = world.check(server, client=world.right)
    assert right["failed"] == {}
    assert {fact.name: fact.value for fact in right["offer"].facts}["client certificate"] == "CN=right client"
    wrong = world.check(server, client=world.wrong)
    assert wrong["failed"] == {"client-certificate": CLIENT}
    assert "CN=wrong client" in wrong["client-certificate"].message


def test_what_was_offered_and_presented_is_told(world: World) -> None:
    """SNI, versions and ALPN as Envoy would offer them; subject, issuer, dates, key and SAN of what came back."""
    seen = world.check("good")
    offer = {fact.name: fact.value for fact in seen["offer"].facts}
    assert (offer["SNI"], offer["versions"], offer["ALPN"]) == (NAME, "TLS12 to TLS13", "http/1.1")
    presented = {fact.name: fact.value for fact in seen["presented"].facts}
    assert (presented["[0] subject"], presented["[0] issuer"]) == ("CN=good", "CN=root")
    assert (presented["SAN"], presented["[0] key"]) == (f"DNS:{NAME}", "ECDSA secp256r1")
    handshake = {fact.name: fact.value for fact in seen["handshake"].facts}
    assert handshake["version"] == "TLS13"


def test_the_report_holds_no_key(world: World) -> None:
    """What comes back from an egress says whose certificate was shown, and nothing of its key."""
    report = world.check("mutual", client=world.right)
    text = "".join(str(one) for name, one in report.items() if name != "failed")
    secret = world.right[1].splitlines()
    assert not [line for line in secret if line in text]


def test_a_check_says_what_envoy_does(tmp_path: Path) -> None:
    """Every case through a real egress: 200 where the check found nothing, 503 where it found a fault."""
    secrets, ports = Secrets(), [take_port() for _ in range(3)]
    with Servers(tmp_path) as servers:
        world = World(servers)
        extra: list[Case] = [("mutual", {"client": world.right}, {}), ("mutual", {"client": world.wrong}, {"x": ""})]
        extra += [("mutual-12", {"client": world.right}, {}), ("mutual-12", {"client": world.wrong}, {"x": ""})]
        extra += [
            ("expired-ca", {"ca": world.old.pem}, {"dates": CA}),
            ("no-intermediate", {"ca": world.middle.pem}, {}),
        ]
        extra += [
            ("good", _san("pay", "Prefix"), {}),
            ("good", _san("PAYMENTS.test"), {}),
            ("wildcard", _san("*.test"), {}),
        ]
        extra += [
            ("wildcard", _san("a.b.test"), {"x": ""}),
            ("ip-san", _san("127.0.0.1"), {}),
            ("good", _san("pay"), {"x": ""}),
        ]
        for name, changes, failed in extra:
            assert (name, changes, bool(world.check(name, **changes)["failed"])) == (name, changes, bool(failed))
        # A service without TLS on a server with TLS: nothing fails in the check, and the server's answer is no HTTP.
        cases = [one for one in [*CASES, *extra] if one[1].get("enabled") is not False]
        services = [_placed(world.service(name, **changes), number) for number, (name, changes, _) in enumerate(cases)]
        double = DeltaServer(ports[0])
        proxy = egress(ports[1], f"access-log={tmp_path / 'access.log'}")
        double.offer(compile_proxy(zone_view(mesh_view(*services)), proxy, secrets))
        envoy = Envoy(tmp_path, "egress", ports[2], ports[0])
        try:
            eventually(lambda: envoy.listens("egress"), "the egress's listener")
            svid = secrets.identity("default", "spiffe://default/web")
            context = _workload(tmp_path, svid.chain_pem + svid.key_pem)
            for one, (name, changes, failed) in zip(services, cases, strict=True):
                status = _status(ports[1], context, one.sni)
                assert (name, changes, status) == (name, changes, "503" if failed else "200")
        finally:
            envoy.stop()
            double.stop()


def _san(value: str, kind: Any = "Exact") -> dict[str, Any]:
    return {"subject_alt_names": (SubjectAltName(value=value, type=kind),)}


def _placed(one: ExternalServiceView, number: int) -> ExternalServiceView:
    """The same service under a name, VIP and material of its own."""
    vip, name = f"127.16.1.{number + 1}", f"case-{number}"
    found = service(name, vip=vip, protocol=one.protocol, endpoints=one.endpoints, tls=one.tls)
    material = {field: getattr(one, field) for field in ("ca_cert", "client_cert", "client_key")}
    named = {k: m and msgspec.structs.replace(m, name=f"{m.name}-{number}") for k, m in material.items()}
    return msgspec.structs.replace(found, **named)


def _workload(directory: Path, pair: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    path = directory / "workload.pem"
    path.touch(mode=0o600)
    path.write_text(pair)
    context.load_cert_chain(path)
    return context


def _status(port: int, context: ssl.SSLContext, sni: str) -> str:
    """What the egress answers for this SNI; an answer that its clusters are not there yet does not count."""

    def ask() -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=sni) as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            received = b""
            while not is_whole(received) and (data := connection.recv(4096)):
                received += data
        text = received.decode("latin-1")
        return "" if "no MeshExternalService is served here" in text else text.split(" ", 2)[1]

    return str(eventually(ask, f"an answer for {sni}"))


def test_a_service_that_is_closed_is_not_dialled() -> None:
    """What keeps Envoy from dialling keeps a check from it, and is the answer."""
    closed = service(tls=ExternalTls(enabled=True), ca=None)
    found = tls_checks(closed, "", Secrets(), "1")
    assert isinstance(found, Failure)
    assert (found.reason, found.field) == ("NoCertificateAuthority", CA)
    held = msgspec.structs.replace(closed, failure=Failure("Held", "a person closed it"))
    assert tls_checks(held, "/ca.pem", Secrets(), "1") == Failure("Held", "a person closed it")
