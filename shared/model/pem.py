"""Certificates and private keys in PEM: what Envoy takes, and a server's pair out of one text (spec A7). Pure.

No message ever holds any of a private key.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Literal, TypeAlias

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from shared.model.source import ServerCertificate

KeyType: TypeAlias = Literal["", "RSA", "ECDSA"]

RSA_BITS = 2048
"""Envoy refuses a shorter key."""
REDACTED_PREFIX = b"redacted"
"""What stands for sealed bytes in a replay: nothing can be checked about it."""
NAMES_MAX = 100
"""DNS names of a certificate that are kept beside its ciphertext."""
_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_BEGIN_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


class ServerPair(msgspec.Struct, frozen=True):
    """A chain, leaf first, and its key, both PEM; why they cannot be used, "" when they can.

    mismatched: both can be read, and the key is another certificate's.
    """

    chain: bytes = b""
    key: bytes = b""
    key_type: KeyType = ""
    fault: str = ""
    mismatched: bool = False


@lru_cache(maxsize=4096)
def certificates(pem: bytes) -> tuple[bytes, str]:
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
        return b"", f"not a PEM certificate ({str(fault).partition(' See http')[0][:80]})"
    announced = pem.count(_BEGIN_CERTIFICATE)
    if not found or announced != len(found):
        return (
            b"",
            f"{announced} certificates begin and {len(found)} can be read" if announced else "no certificate in it",
        )
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found), ""


@lru_cache(maxsize=4096)
def private_key(pem: bytes) -> tuple[bytes, str]:
    """The private key of `pem` encoded anew and alone, and why Envoy could not use it ("" when it could)."""
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


@lru_cache(maxsize=4096)
def key_pair_fault(chain: bytes, key: bytes, whose: str = "client") -> str:
    """Why `chain` and `key` (PEM) are no usable certificate of a client or server, "" when they are."""
    if chain.startswith(REDACTED_PREFIX) or key.startswith(REDACTED_PREFIX):
        return ""
    readable, fault = certificates(chain)
    if fault:
        return f"{whose} certificate: {fault}"
    alone, fault = private_key(key)
    if fault:
        return f"{whose} key: {fault}"
    return "" if _belongs(readable, alone) else f"{whose} key does not belong to the {whose} certificate"


@lru_cache(maxsize=4096)
def server_pair(pem: bytes) -> ServerPair:
    """The pair in one text, key and certificates in whatever order."""
    if pem.startswith(REDACTED_PREFIX):
        return ServerPair(pem, pem)
    blocks = [(match[1].decode(), match[0]) for match in _BLOCK.finditer(pem)]
    chain = [block for kind, block in blocks if kind.endswith("CERTIFICATE")]
    keys = [block for kind, block in blocks if kind.endswith("PRIVATE KEY")]
    others = [kind for kind, _ in blocks if not kind.endswith(("CERTIFICATE", "PRIVATE KEY"))]
    if len(keys) > 1:
        return ServerPair(fault="secret contains multiple private keys")
    # OpenSSL writes the curve before an EC key; it says nothing that the key does not.
    if unknown := [kind for kind in others if kind != "EC PARAMETERS"]:
        return ServerPair(fault=f'unsupported PEM block "{unknown[0]}"')
    if not chain:
        return ServerPair(fault="missing server certificate")
    if not keys:
        return ServerPair(fault="missing private key")
    joined, key = b"\n".join((*chain, b"")), keys[0] + b"\n"
    key_type, fault = _server_key_type(key)
    fault = fault or key_pair_fault(joined, key, "server")
    readable, alone = certificates(joined)[0], private_key(key)[0]
    mismatched = bool(readable and alone) and not _belongs(readable, alone)
    return ServerPair(joined, key, key_type, fault, mismatched)


def server_certificate(data: bytes) -> ServerCertificate | None:
    """What is public of a server's pair; None where there is no PEM in `data`."""
    if b"-----BEGIN " not in data:
        return None
    pair = server_pair(data)
    try:
        chain = x509.load_pem_x509_certificates(pair.chain) if pair.chain else []
        names = _names(chain[0]) if chain else ()
    except ValueError:
        chain, names = [], ()
    return ServerCertificate(
        key_type=pair.key_type,
        fault=pair.fault,
        mismatched=pair.mismatched,
        names=names[:NAMES_MAX],
        expires=chain[0].not_valid_after_utc.strftime(_TIME) if chain else "",
        unlinked=next((at for at, (one, by) in enumerate(pairwise(chain), 1) if not _issued(one, by)), 0),
    )


def _server_key_type(pem: bytes) -> tuple[KeyType, str]:
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


def _belongs(chain: bytes, key: bytes) -> bool:
    public = load_pem_private_key(key, password=None).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public.public_bytes(*form) == x509.load_pem_x509_certificate(chain).public_key().public_bytes(*form)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(found.get_values_for_type(x509.DNSName))


def _issued(one: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
