"""Roots and intermediates of a mesh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from shared.keys import ca

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_root_is_ten_years_of_one_trust_domain() -> None:
    """A root lives ten years, signs only, allows one intermediate, and is tied to spiffe://<mesh>."""
    pem, _ = ca.create_root("payments", "ca-1", NOW)
    root = x509.load_pem_x509_certificate(pem.encode())
    assert root.not_valid_after_utc - NOW == timedelta(days=3650)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 1)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    san = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://payments"]
    root.verify_directly_issued_by(root)


def test_an_intermediate_belongs_to_its_root_and_allows_nothing_below() -> None:
    """An intermediate is signed by the root, has path length 0, thirty days, and AKI equal to the root's SKI."""
    root_pem, root_key = ca.create_root("payments", "ca-1", NOW)
    pem, _ = ca.create_intermediate(root_pem, root_key, mesh="payments", zone="east", now=NOW)
    root, own = (x509.load_pem_x509_certificate(text.encode()) for text in (root_pem, pem))
    own.verify_directly_issued_by(root)
    assert own.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert own.not_valid_after_utc - NOW == timedelta(days=30)
    aki = own.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert aki == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def test_an_intermediate_never_outlives_its_root() -> None:
    """Near the root's end an intermediate is cut short."""
    root_pem, root_key = ca.create_root("m", "b", NOW, days=10)
    pem, _ = ca.create_intermediate(root_pem, root_key, mesh="m", zone="east", now=NOW)
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == NOW + timedelta(days=10)


def test_a_foreign_root_key_signs_nothing() -> None:
    """Key and certificate of different roots are refused."""
    root_pem, _ = ca.create_root("m", "b", NOW)
    _, other_key = ca.create_root("m", "b", NOW)
    with pytest.raises(ValueError, match="not that of the root"):
        ca.create_intermediate(root_pem, other_key, mesh="m", zone="east", now=NOW)


def test_renewal_is_due_at_two_thirds() -> None:
    """An authority is renewed once two thirds of its life are over, not before."""
    pem, key = ca.create_root("m", "b", NOW)
    own, _ = ca.create_intermediate(pem, key, mesh="m", zone="east", now=NOW)
    assert not ca.needs_renewal(own, NOW + timedelta(days=19))
    assert ca.needs_renewal(own, NOW + timedelta(days=20))
