"""Secrets over SDS (decision 24): identities, trust bundles, and the TLS material of external services.

`SecretSource` is the one door through which key bytes enter the generator. A replay passes a source that
returns fingerprints, so that everything but the bodies of secrets is what was served.
"""

from __future__ import annotations

from typing import Protocol

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from shared.model.pem import REDACTED_PREFIX, certificates, key_pair_fault, private_key
from zone_cp.identity.svid import Svid
from zone_cp.view.sources import Sources
from zone_cp.view.zone_view import TlsMaterial
from zone_cp.xds.shape import part
from zone_cp.xds.snapshot import SECRET, Encoded
from zone_cp.xds.wire import encode

__all__ = [
    "REDACTED_PREFIX",
    "MaterialMissing",
    "SecretSource",
    "Svid",
    "authority_fault",
    "identity",
    "key_pair",
    "key_pair_fault",
    "trust",
]


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


def authority_fault(pem: bytes) -> str:
    """Why `pem` cannot be trusted as CA certificates, "" when it can. Envoy would refuse what is refused here."""
    return certificates(pem)[1]


def _inline(data: bytes | str) -> bytes:
    return part(core.DataSource, "inline_bytes", data)


def trust(name: str, pem: bytes | str, sources: Sources) -> Encoded:
    """A Secret that says whom to trust."""
    trusted = certificates(pem.encode() if isinstance(pem, str) else pem)[0]
    context = part(tls.CertificateValidationContext, "trusted_ca", _inline(trusted))
    body = part(tls.Secret, "name", name) + part(tls.Secret, "validation_context", context)
    return encode(SECRET, name, body, sources)


def key_pair(name: str, chain: bytes | str, key: bytes | str, sources: Sources) -> Encoded:
    """A Secret that holds a certificate chain and its key."""
    public = certificates(chain.encode() if isinstance(chain, str) else chain)[0]
    alone = private_key(key.encode() if isinstance(key, str) else key)[0]
    certificate = part(tls.TlsCertificate, "certificate_chain", _inline(public))
    certificate += part(tls.TlsCertificate, "private_key", _inline(alone))
    body = part(tls.Secret, "name", name) + part(tls.Secret, "tls_certificate", certificate)
    return encode(SECRET, name, body, sources)


def identity(name: str, svid: Svid, sources: Sources) -> Encoded:
    """The Secret by which a proxy proves who it is."""
    return key_pair(name, svid.chain_pem, svid.key_pem, sources)
