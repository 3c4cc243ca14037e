"""The deployment's PKI, by real TLS handshakes and cryptography's verifier."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from shared.keys import pki
from tests.keys.tls import context, handshake

NOW = datetime.now(UTC)
AUTHORITY, AUTHORITY_KEY = pki.create_authority(NOW)


def certificate(name: str, *hosts: str, server: bool = False, client: bool = False) -> tuple[str, str]:
    return pki.issue(AUTHORITY, AUTHORITY_KEY, name=name, hosts=hosts, now=NOW, server=server, client=client)


def shake(folder: Path, client: tuple[str, str], server: tuple[str, str], name: str) -> None:
    handshake(
        context(folder, server=False, trusted=AUTHORITY, chain=client[0], key=client[1], hostname=True),
        context(folder, server=True, trusted=AUTHORITY, chain=server[0], key=server[1]),
        name,
    )


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "ads.east.example"])
def test_clients_and_servers_of_a_deployment_meet(tmp_path: Path, name: str) -> None:
    """A server certificate is good for each of its names, a client certificate is accepted."""
    server = certificate("ads", *pki.LOCAL_NAMES, "ads.east.example", server=True)
    shake(tmp_path, certificate("leaf", "leaf.east", client=True), server, name)


def test_names_and_directions_are_kept(tmp_path: Path) -> None:
    """Another name does not pass, nor does a client certificate as server or the reverse."""
    server, client = certificate("ads", "127.0.0.1", server=True), certificate("leaf", "127.0.0.1", client=True)
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, client, server, "127.0.0.2")
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, client, client, "127.0.0.1")
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, server, server, "127.0.0.1")
    with pytest.raises(ValueError, match="servers, clients"):
        certificate("none", "x")


def test_the_web_pki_verifier_agrees() -> None:
    """cryptography's verifier, with its strict defaults, accepts the chain for its names."""
    pem, _ = certificate("ads", "localhost", "127.0.0.1", server=True)
    store = verification.Store([x509.load_pem_x509_certificate(AUTHORITY.encode())])
    policy = verification.PolicyBuilder().store(store).time(NOW)
    leaf = x509.load_pem_x509_certificate(pem.encode())
    for subject in (x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")):
        assert len(policy.build_server_verifier(subject).verify(leaf, [])) == 2
