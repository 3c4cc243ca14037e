"""The deployment's own PKI: TLS among control planes, NATS servers and proxies. Unrelated to any mesh's CA.

One authority per deployment signs server certificates (ADS, NATS hub and leaves) and client certificates
(leaf links, demo of nothing else). EC P-256, names in SAN only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.keys import ca, files

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 730
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def create_authority(now: datetime, *, days: int = AUTHORITY_DAYS) -> tuple[str, str]:
    """A new deployment authority: (certificate PEM, key PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = ca.authority_name("Zonal deployment", "control plane")
    certificate = (
        ca.builder(name, name, key.public_key(), now - ca.BACKDATE, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(ca.key_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return ca.certificate_pem(certificate), files.private_pem(key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def issue(  # each certificate says what it may be used for
    authority_pem: str,
    authority_key_pem: str,
    *,
    name: str,
    hosts: Sequence[str],
    now: datetime,
    server: bool = False,
    client: bool = False,
    days: int = CERTIFICATE_DAYS,
) -> tuple[str, str]:
    """A certificate for `hosts` (DNS names and IP addresses): (certificate PEM, key PEM).

    `server` and `client` are the directions it is good for. Raises ValueError when neither is given.
    """
    usages = [
        *([ExtendedKeyUsageOID.SERVER_AUTH] if server else []),
        *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else []),
    ]
    if not usages:
        raise ValueError("a certificate is for servers, clients or both")
    authority = x509.load_pem_x509_certificate(authority_pem.encode())
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    not_after = min(now + timedelta(days=days), authority.not_valid_after_utc)
    certificate = (
        ca.builder(subject, authority.subject, key.public_key(), now - ca.BACKDATE, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(ca.key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(ca.authority_key_identifier(authority), critical=False)
        .sign(ca.load_key(authority_key_pem), hashes.SHA256())
    )
    return ca.certificate_pem(certificate), files.private_pem(key)
