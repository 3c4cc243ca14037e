"""TLS material handed in with a resource: whether it can be read. Private keys never appear in a message."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from functools import lru_cache

from shared.model.resource import DataSource

_WHAT = {"caCert": b"CERTIFICATE", "clientCert": b"CERTIFICATE", "clientKey": b"PRIVATE KEY"}


def base64_fault(text: str) -> str | None:
    """Why `text` is not base64 of anything, or None. White space (YAML block text) is allowed."""
    if not text.strip():
        return "must not be empty"
    try:
        b64decode("".join(text.split()), validate=True)
    except (Base64Error, ValueError):
        return "must be base64"
    return None


def inline_bytes(source: DataSource) -> bytes | None:
    """The bytes of an inline source that passed validation; None for a secret or sealed one."""
    if source.inline is not None:
        return b64decode("".join(source.inline.split()))
    if source.inline_string is not None:
        return source.inline_string.encode()
    return None


def holds_private_key(data: bytes) -> bool:
    """Whether there is a private key in PEM in `data`, in clear or in base64 once more."""
    if b"PRIVATE KEY" in data:
        return True
    try:
        return b"PRIVATE KEY" in b64decode(b"".join(data.split()), validate=True)
    except (Base64Error, ValueError):
        return False


@lru_cache(maxsize=4096)
def last_expiry(data: bytes) -> str:
    """When the last of the certificates in `data` (PEM) expires, as event time; "" where none can be read."""
    if b"-----BEGIN CERTIFICATE" not in data:
        return ""
    from cryptography import x509  # noqa: PLC0415 - as in `_unreadable`

    try:
        found = [one.not_valid_after_utc for one in x509.load_pem_x509_certificates(data)]
    except ValueError:
        return ""
    return max(found).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if found else ""


def pem_warning(name: str, source: DataSource | None) -> str | None:
    """A sentence for the author when inline material of `caCert`, `clientCert` or `clientKey` is no readable PEM."""
    data = inline_bytes(source) if source is not None else None
    if data is None:
        return None
    if b"-----BEGIN " not in data or _WHAT[name] not in data:
        return f"spec.tls.verification.{name}: the inline material is not PEM; its destination will answer 503"
    reason = _unreadable(name, data)
    return f"spec.tls.verification.{name}: {reason}; its destination will answer 503" if reason else None


def _unreadable(name: str, data: bytes) -> str | None:
    # Loaded here: clients of this module that only check base64 need no X.509.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        if name == "clientKey":
            load_pem_private_key(data, password=None)
        else:
            x509.load_pem_x509_certificates(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return "the inline material cannot be read as PEM"
    return None
