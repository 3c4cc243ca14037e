"""Secrets over SDS (decision 24): identities, trust bundles, and the TLS material of external services.

`SecretSource` is the one door through which key bytes enter the generator. A replay passes a source that
returns fingerprints, so that everything but the bodies of secrets is what was served.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
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
    "trust",
]

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
def authority_fault(pem: bytes) -> str:
    """Why `pem` cannot be trusted as CA certificates, "" when it can. Envoy would refuse what is refused here."""
    if pem.startswith(REDACTED_PREFIX):
        return ""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError as fault:
        return f"not a PEM certificate ({str(fault)[:80]})"
    return "" if found else "no certificate in it"


@lru_cache(maxsize=4096)
def key_pair_fault(chain: bytes, key: bytes) -> str:
    """Why `chain` and `key` (PEM) are no usable client certificate, "" when they are."""
    if chain.startswith(REDACTED_PREFIX) or key.startswith(REDACTED_PREFIX):
        return ""
    if fault := authority_fault(chain):
        return f"client certificate: {fault}"
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        return "client key: not an unencrypted PEM private key"
    certified = x509.load_pem_x509_certificates(chain)[0].public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != certified.public_bytes(*form):
        return "client key does not belong to the client certificate"
    return ""


def _inline(data: bytes | str) -> bytes:
    return part(core.DataSource, "inline_bytes", data)


def trust(name: str, pem: bytes | str, sources: Sources) -> Encoded:
    """A Secret that says whom to trust."""
    context = part(tls.CertificateValidationContext, "trusted_ca", _inline(pem))
    body = part(tls.Secret, "name", name) + part(tls.Secret, "validation_context", context)
    return encode(SECRET, name, body, sources)


def key_pair(name: str, chain: bytes | str, key: bytes | str, sources: Sources) -> Encoded:
    """A Secret that holds a certificate chain and its key."""
    certificate = part(tls.TlsCertificate, "certificate_chain", _inline(chain))
    certificate += part(tls.TlsCertificate, "private_key", _inline(key))
    body = part(tls.Secret, "name", name) + part(tls.Secret, "tls_certificate", certificate)
    return encode(SECRET, name, body, sources)


def identity(name: str, svid: Svid, sources: Sources) -> Encoded:
    """The Secret by which a proxy proves who it is."""
    return key_pair(name, svid.chain_pem, svid.key_pem, sources)
