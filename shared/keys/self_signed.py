"""Self-signed TLS certificates to try things with, as `kumactl generate tls-certificate` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CertificateType: TypeAlias = Literal["server", "client"]
KeyType: TypeAlias = Literal["rsa", "ecdsa"]

VALID_DAYS = 3650
RSA_BITS = 2048
COMMON_NAME_MAX = 64
"""RFC 5280, ub-common-name; names that clients check are in the SAN anyway."""
_SKEW = timedelta(minutes=5)


def self_signed(
    hostnames: Sequence[str], now: datetime, certificate_type: CertificateType = "server", key_type: KeyType = "rsa"
) -> tuple[str, str]:
    """Key (PKCS#1 or SEC1) and certificate, both PEM, valid from `now` on. Hostnames may be IP addresses or wildcards.

    Raises ValueError without a hostname, or with one that no certificate can hold.
    """
    if not hostnames:
        raise ValueError("at least one hostname is needed")
    names = [_name(one) for one in hostnames]
    key = rsa.generate_private_key(65537, RSA_BITS) if key_type == "rsa" else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostnames[0][:COMMON_NAME_MAX])])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if certificate_type == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    return private, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _name(hostname: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(hostname))
    except ValueError:
        pass
    if not hostname or not hostname.isascii() or any(one.isspace() for one in hostname):
        raise ValueError(f'"{hostname}" is no hostname')
    return x509.DNSName(hostname)
