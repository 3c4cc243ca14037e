"""Secrets over SDS (decision 24): identities, trust bundles, and the TLS material of external services.

`SecretSource` is the one door through which key bytes enter the generator. A replay passes a source that
returns fingerprints, so that everything but the bodies of secrets is what was served.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, Protocol

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from zone_cp.identity.svid import Svid
from zone_cp.view.zone_view import Sources, TlsMaterial
from zone_cp.xds.shape import part
from zone_cp.xds.snapshot import SECRET, Encoded
from zone_cp.xds.wire import encode

__all__ = [
    "MaterialMissing",
    "SecretSource",
    "Svid",
    "authority_fault",
    "identity",
    "key_pair",
    "key_pair_fault",
    "server_key_type",
    "trust",
]

RSA_BITS = 2048
"""Envoy refuses a shorter client key."""
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
REDACTED_PREFIX = b"redacted"
"""What stands for sealed bytes in a replay: nothing can be checked about it."""


class MaterialMissing(Exception):
    """Bytes that a service or an identity needs cannot be had (yet): whoever needs them fails closed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SecretSource(Protocol):
    """Clear bytes by name. Every method may raise MaterialMissing."""

    def text(self, material: TlsMaterial) -> bytes:
        """The PEM of one data source."""

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        """The current certificate and key of a workload."""

    def trust_bundle(self, mesh: str) -> str:
        """The PEM of the roots that vouch for a mesh's workloads."""


@lru_cache(maxsize=4096)
def _certificates(pem: bytes) -> tuple[bytes, str]:
    """The certificates of `pem` encoded anew, and why they cannot be used ("" when they can).

    Only what was read as a certificate goes on: a private key that stands beside one in the same Secret would
    otherwise be served as public, and Envoy refuses a bundle for what our reader passes over.
    """
    if pem.startswith(REDACTED_PREFIX):
        return pem, ""
    try:
        found = x509.load_pem_x509_certificates(pem)
        for certificate in found:
            _ = certificate.extensions  # read lazily, and refused by Envoy where they are broken
    except ValueError as fault:
        return b"", f"not a PEM certificate ({str(fault)[:80]})"
    announced = pem.count(_BEGIN_CERTIFICATE)
    if not found or announced != len(found):
        return (
            b"",
            f"{announced} certificates begin and {len(found)} can be read" if announced else "no certificate in it",
        )
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found), ""


def authority_fault(pem: bytes) -> str:
    """Why `pem` cannot be trusted as CA certificates, "" when it can. Envoy would refuse what is refused here."""
    return _certificates(pem)[1]


@lru_cache(maxsize=4096)
def _key(pem: bytes) -> tuple[bytes, str]:
    """The private key of `pem` encoded anew and alone, and why Envoy could not use it."""
    if pem.startswith(REDACTED_PREFIX):
        return pem, ""
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return b"", "not an unencrypted PEM private key"
    match private:
        case rsa.RSAPrivateKey() if private.key_size < RSA_BITS:
            return b"", f"an RSA key of {private.key_size} bits; at least {RSA_BITS} are needed"
        case ec.EllipticCurvePrivateKey() if private.curve.name not in _CURVES:
            return b"", f"an elliptic curve key on {private.curve.name}; P-256, P-384 and P-521 can be used"
        case rsa.RSAPrivateKey() | ec.EllipticCurvePrivateKey() | ed25519.Ed25519PrivateKey():
            return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), ""
        case _:
            return b"", "neither an RSA, an elliptic curve nor an Ed25519 key"


def server_key_type(pem: bytes) -> tuple[Literal["", "RSA", "ECDSA"], str]:
    """Of which type a server's key is, or why it cannot be one: clients of a server tell what they can do by these."""
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "", "failed to parse private key"
    match private:
        case rsa.RSAPrivateKey():
            return "RSA", ""
        case ec.EllipticCurvePrivateKey():
            return "ECDSA", ""
        case _:
            return "", f"unsupported private key type {type(private).__name__.removesuffix('PrivateKey')}"


@lru_cache(maxsize=4096)
def key_pair_fault(chain: bytes, key: bytes, whose: str = "client") -> str:
    """Why `chain` and `key` (PEM) are no usable certificate of a client or server, "" when they are."""
    if chain.startswith(REDACTED_PREFIX) or key.startswith(REDACTED_PREFIX):
        return ""
    certificates, fault = _certificates(chain)
    if fault:
        return f"{whose} certificate: {fault}"
    alone, fault = _key(key)
    if fault:
        return f"{whose} key: {fault}"
    public = load_pem_private_key(alone, password=None).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != x509.load_pem_x509_certificate(certificates).public_key().public_bytes(*form):
        return f"{whose} key does not belong to the {whose} certificate"
    return ""


def _inline(data: bytes | str) -> bytes:
    return part(core.DataSource, "inline_bytes", data)


def trust(name: str, pem: bytes | str, sources: Sources) -> Encoded:
    """A Secret that says whom to trust."""
    certificates = _certificates(pem.encode() if isinstance(pem, str) else pem)[0]
    context = part(tls.CertificateValidationContext, "trusted_ca", _inline(certificates))
    body = part(tls.Secret, "name", name) + part(tls.Secret, "validation_context", context)
    return encode(SECRET, name, body, sources)


def key_pair(name: str, chain: bytes | str, key: bytes | str, sources: Sources) -> Encoded:
    """A Secret that holds a certificate chain and its key."""
    certificates = _certificates(chain.encode() if isinstance(chain, str) else chain)[0]
    alone = _key(key.encode() if isinstance(key, str) else key)[0]
    certificate = part(tls.TlsCertificate, "certificate_chain", _inline(certificates))
    certificate += part(tls.TlsCertificate, "private_key", _inline(alone))
    body = part(tls.Secret, "name", name) + part(tls.Secret, "tls_certificate", certificate)
    return encode(SECRET, name, body, sources)


def identity(name: str, svid: Svid, sources: Sources) -> Encoded:
    """The Secret by which a proxy proves who it is."""
    return key_pair(name, svid.chain_pem, svid.key_pem, sources)
