"""Signing keys: Ed25519, one per origin, with which global and every zone vouch for their own log."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.keys import files

KID_CHARACTERS = 16


class SigningKey:
    """A `shared.events.signing.Signer`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        raw = key.public_key().public_bytes_raw()
        self.kid = _kid(raw)
        self.public = b64encode(raw).decode()

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message)


def create() -> str:
    """A new private key in PEM."""
    return files.private_pem(Ed25519PrivateKey.generate())


def kid_of(key: Ed25519PublicKey) -> str:
    """How events name this key."""
    return _kid(key.public_bytes_raw())


def checker(key: Ed25519PublicKey) -> Callable[[bytes, bytes], bool]:
    """A `shared.events.signing.Check` with this key."""

    def check(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return check


def _kid(raw: bytes) -> str:
    return sha256(raw).hexdigest()[:KID_CHARACTERS]
