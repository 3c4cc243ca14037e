"""Workload certificates: chains verified by cryptography and by real TLS handshakes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from shared.keys import ca
from tests.keys.tls import context, handshake
from zone_cp.identity.issuer import Issuer, NotIssuable
from zone_cp.identity.svid import Svid


def authority(mesh: str, now: datetime, *, days: int = 30) -> Issuer:
    root, root_key = ca.create_root(mesh, "ca-1", now)
    own, own_key = ca.create_intermediate(root, root_key, mesh=mesh, zone="east", now=now, days=days)
    return Issuer(own, own_key, root)


def shake(
    folder: Path, issuer: Issuer, client: Svid, server: Svid
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    return handshake(
        context(folder, server=False, trusted=issuer.root_pem, chain=client.chain_pem, key=client.key_pem),
        context(folder, server=True, trusted=issuer.root_pem, chain=server.chain_pem, key=server.key_pem),
    )


def test_two_workloads_of_a_mesh_shake_hands(tmp_path: Path) -> None:
    """Each side sees the other's SPIFFE id as URI SAN over a chain that leads to the mesh's root."""
    now = datetime.now(UTC)
    issuer = authority("default", now)
    web, egress = (issuer.issue(f"spiffe://default/{name}", 3600, now) for name in ("web", "zone-egress"))
    seen_by_client, seen_by_server = shake(tmp_path, issuer, web, egress)
    assert seen_by_client["subjectAltName"] == (("URI", "spiffe://default/zone-egress"),)
    assert seen_by_server["subjectAltName"] == (("URI", "spiffe://default/web"),)


def test_another_meshs_workload_is_refused(tmp_path: Path) -> None:
    """A certificate of another root does not pass, whatever SPIFFE id it claims."""
    now = datetime.now(UTC)
    ours, theirs = authority("default", now), authority("default", now)
    with pytest.raises(ssl.SSLError):
        shake(tmp_path, ours, theirs.issue("spiffe://default/web", 60, now), ours.issue("spiffe://default/x", 60, now))


def test_an_intermediate_cannot_leave_its_trust_domain(tmp_path: Path) -> None:
    """Name constraints hold: an id of another trust domain does not pass, although the chain is right."""
    now = datetime.now(UTC)
    issuer = authority("default", now)
    with pytest.raises(ssl.SSLError, match=r"(?i)permitted subtree|verify failed"):
        shake(
            tmp_path, issuer, issuer.issue("spiffe://other/web", 60, now), issuer.issue("spiffe://default/x", 60, now)
        )


def test_an_expired_workload_is_refused(tmp_path: Path) -> None:
    """A certificate whose time is over does not pass."""
    now = datetime.now(UTC)
    issuer = authority("default", now - timedelta(hours=2))
    old = issuer.issue("spiffe://default/web", 60, now - timedelta(hours=1))
    with pytest.raises(ssl.SSLError, match="expired"):
        shake(tmp_path, issuer, old, issuer.issue("spiffe://default/x", 60, now))


def test_every_certificate_is_issued_by_the_next() -> None:
    """Leaf, intermediate and root form a chain by signature and name.

    cryptography's own path builder cannot be asked: it refuses every chain with URI name constraints
    ("unsupported name constraint"), which OpenSSL above and BoringSSL (tests/e2e) enforce.
    """
    now = datetime.now(UTC)
    issuer = authority("default", now)
    leaf, own = x509.load_pem_x509_certificates(issuer.issue("spiffe://default/web", 60, now).chain_pem.encode())
    root = x509.load_pem_x509_certificate(issuer.root_pem.encode())
    leaf.verify_directly_issued_by(own)
    own.verify_directly_issued_by(root)
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(now)
    with pytest.raises(verification.VerificationError, match="unsupported name constraint"):
        policy.build_client_verifier().verify(leaf, [own])


def test_the_svid_says_what_its_certificate_says() -> None:
    """Serial, fingerprint and validity are those of the leaf: they are what a replay shows (decision 30)."""
    now = datetime.now(UTC)
    svid = authority("m", now).issue("spiffe://m/web", 3600, now)
    leaf = x509.load_pem_x509_certificate(svid.chain_pem.encode())
    assert int(svid.serial, 16) == leaf.serial_number
    assert svid.fingerprint == ca.fingerprint(leaf)
    assert (svid.not_before, svid.not_after) == (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    assert svid.key_pem not in repr(svid)


def test_nothing_outlives_the_intermediate() -> None:
    """A certificate is cut at the intermediate's end, and after that none is issued."""
    now = datetime.now(UTC)
    issuer = authority("m", now, days=1)
    assert issuer.issue("spiffe://m/web", 10 * 86400, now).not_after == issuer.not_after
    with pytest.raises(NotIssuable, match="expired"):
        issuer.issue("spiffe://m/web", 60, now + timedelta(days=2))


def test_an_issuer_is_of_one_piece() -> None:
    """Key, intermediate and root that do not belong together are refused at once."""
    now = datetime.now(UTC)
    root, root_key = ca.create_root("m", "b", now)
    own, own_key = ca.create_intermediate(root, root_key, mesh="m", zone="east", now=now)
    other_root, other_key = ca.create_root("m", "b", now)
    with pytest.raises(ValueError, match="key is not"):
        Issuer(own, other_key, root)
    with pytest.raises(ValueError, match="does not lead"):
        Issuer(own, own_key, other_root)
