"""nkeys: the Ed25519 keys by which clients and leaf nodes identify themselves to a nats-server.

A seed is a private key: write it with mode 0600, never print it. The public key goes into server configurations.
"""

from __future__ import annotations

import base64
import binascii
import os

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_SEED_PREFIX = 18 << 3
_USER_PREFIX = 20 << 3
_RAW_BYTES = 32


class UserKey(msgspec.Struct, frozen=True):
    """A user nkey: `seed` (S…, private) and `public` (U…)."""

    seed: str
    public: str

    def __repr__(self) -> str:
        return f"UserKey(public={self.public!r})"


def generate(entropy: bytes | None = None) -> UserKey:
    """A new user key; `entropy` (32 bytes) makes it from given randomness instead of the system's."""
    raw = os.urandom(_RAW_BYTES) if entropy is None else entropy
    if len(raw) != _RAW_BYTES:
        raise ValueError(f"entropy must be {_RAW_BYTES} bytes")
    # The five bits of the key type are split over the first two bytes, behind the three of the seed prefix.
    head = bytes((_SEED_PREFIX | (_USER_PREFIX >> 5), (_USER_PREFIX & 31) << 3))
    return UserKey(_encode(head + raw), _public(raw))


def from_seed(seed: str) -> UserKey:
    """The key of a user seed. Raises ValueError without quoting the seed."""
    padded = seed.strip() + "=" * (-len(seed.strip()) % 8)
    try:
        data = base64.b32decode(padded)
    except binascii.Error:
        raise ValueError("not an nkey seed") from None
    body, checksum = data[:-2], data[-2:]
    if not seed.startswith("SU") or binascii.crc_hqx(body, 0).to_bytes(2, "little") != checksum:
        raise ValueError("not a user nkey seed")
    return UserKey(seed.strip(), _public(body[2:]))


def _public(raw: bytes) -> str:
    public = Ed25519PrivateKey.from_private_bytes(raw).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return _encode(bytes((_USER_PREFIX,)) + public)


def _encode(body: bytes) -> str:
    data = body + binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(data).decode().rstrip("=")
