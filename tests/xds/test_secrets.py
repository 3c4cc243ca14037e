"""What of a Secret reaches Envoy: certificates and keys that it accepts, each alone, and nothing that stood beside."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from zone_cp.xds.secrets import authority_fault, key_pair, key_pair_fault, trust

Private = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | dsa.DSAPrivateKey
)


def _pair(key: Private) -> tuple[bytes, bytes]:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone")])
    now = datetime.now(UTC)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, digest)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


P256 = _pair(ec.generate_private_key(ec.SECP256R1()))


def test_a_private_key_beside_a_certificate_is_never_served_as_public() -> None:
    """A Secret that holds both in one PEM gives the certificate to `certificate_chain` and `trusted_ca`, no more."""
    certificate, key = P256
    both = certificate + key
    assert authority_fault(both) == ""
    assert key_pair_fault(both, both) == ""
    served = tls.Secret.parse(key_pair("pair", both, both, ()).body)
    assert served.tls_certificate is not None
    assert served.tls_certificate.certificate_chain is not None
    assert served.tls_certificate.private_key is not None
    assert served.tls_certificate.certificate_chain.inline_bytes == certificate
    assert served.tls_certificate.private_key.inline_bytes == key
    trusted = tls.Secret.parse(trust("ca", key + certificate, ()).body)
    assert trusted.validation_context is not None
    assert trusted.validation_context.trusted_ca is not None
    assert trusted.validation_context.trusted_ca.inline_bytes == certificate


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (rsa.generate_private_key(65537, 1024), "an RSA key of 1024 bits"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ec.generate_private_key(ec.SECP224R1()), "secp224r1"),
        (dsa.generate_private_key(2048), "neither an RSA"),
        (ed448.Ed448PrivateKey.generate(), "neither an RSA"),
    ],
)
def test_keys_that_envoy_refuses_are_refused_with_their_kind(key: Private, said: str) -> None:
    """Envoy would NACK the Secret and name nobody."""
    assert said in key_pair_fault(*_pair(key))


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_keys_that_envoy_takes_are_taken(key: Private) -> None:
    """P-384, P-521, Ed25519 and RSA from 2048 bits."""
    assert key_pair_fault(*_pair(key)) == ""


@pytest.mark.parametrize(
    "broken",
    [
        P256[0] + P256[0][: len(P256[0]) // 2],
        P256[0] + b"-----BEGIN CERTIFICATE-----\n",
        b"",
        b"nothing of the kind",
    ],
)
def test_a_bundle_of_which_a_part_cannot_be_read_is_refused_whole(broken: bytes) -> None:
    """What our reader passes over Envoy refuses."""
    assert authority_fault(broken)
    assert key_pair_fault(broken, P256[1])


def test_a_key_of_another_certificate_is_refused() -> None:
    """The field to mend is the pair."""
    other = _pair(ec.generate_private_key(ec.SECP256R1()))
    assert "does not belong" in key_pair_fault(P256[0], other[1])
