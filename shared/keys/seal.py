"""Sealing: how secrets stand in the log without anybody but their readers being able to read them.

Every secret has a data key of its own (32 random bytes, named `kid`). The secret is encrypted under it with
AES-256-GCM, `kid` bound as associated data. The data key is wrapped once per recipient ("global" or a zone)
with ECIES (the shape of RFC 9180's base mode, one message per ephemeral key):

    ephemeral   a fresh X25519 key pair per wrap
    shared      X25519(ephemeral private, recipient public)
    wrap key    HKDF-SHA256(shared, salt = ephemeral public || recipient public,
                            info = "zonal/1/wrap" NUL kid NUL recipient)
    wrapped     base64(ephemeral public || AES-256-GCM(wrap key, nonce 0^96, data key, info as associated data))

The nonce may be constant because a wrap key encrypts exactly one message. Destroying all wraps of a data key
destroys the secret (decision 34). Nothing here logs, and no exception carries plaintext or key bytes.
"""

from __future__ import annotations

import hmac
import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.events.event import DataKeyWrapped
from shared.model.resource import Sealed

Random: TypeAlias = Callable[[int], bytes]

KEY_BYTES = 32
KID_BYTES = 12
NONCE_BYTES = 12
DIGEST_BYTES = 16
WRAP_NONCE = bytes(NONCE_BYTES)
DIGEST_INFO = b"zonal/1/digest"


class Unreadable(Exception):
    """Sealed bytes cannot be read here; `reason` is a sentence fit for a condition."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _derive(secret: bytes, *, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(secret)


def _wrap_info(kid: str, recipient: str) -> bytes:
    return b"\0".join((b"zonal/1/wrap", kid.encode(), recipient.encode()))


def _bound(kid: str) -> bytes:
    return b"zonal/1/sealed\0" + kid.encode()


def _digest(key: bytes, plaintext: bytes) -> str:
    return b64encode(hmac.digest(key, plaintext, sha256)[:DIGEST_BYTES]).decode()


def _decode(text: str, what: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Base64Error, ValueError):
        raise Unreadable(f"{what} is not base64") from None


def wrap(data_key: bytes, kid: str, recipient: str, public: X25519PublicKey, random: Random) -> DataKeyWrapped:
    """Wrap a data key for one recipient (see the module for the construction)."""
    ephemeral = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
    ephemeral_public = ephemeral.public_key().public_bytes_raw()
    info = _wrap_info(kid, recipient)
    key = _derive(ephemeral.exchange(public), salt=ephemeral_public + public.public_bytes_raw(), info=info)
    wrapped = ephemeral_public + AESGCM(key).encrypt(WRAP_NONCE, data_key, info)
    return DataKeyWrapped(kid=kid, recipient=recipient, wrapped=b64encode(wrapped).decode())


class Sealer:
    """Seals for the readers whose public keys it knows. Holds no private key.

    `digest_key` (see `Keyring.digest_key`) makes equal plaintexts show equal digests across secrets, which is
    how a re-applied Secret is seen to be unchanged. Without it each digest is keyed by its own data key.
    `random` must be a cryptographic source outside tests.
    """

    def __init__(
        self,
        recipients: Mapping[str, X25519PublicKey],
        random: Random = os.urandom,
        *,
        digest_key: bytes | None = None,
    ) -> None:
        self.recipients = dict(recipients)
        self._random = random
        self._digest_key = digest_key

    def seal(
        self, plaintext: bytes, *, only: Collection[str] | None = None
    ) -> tuple[Sealed, tuple[DataKeyWrapped, ...]]:
        """Encrypt under a fresh data key and wrap that for every recipient, or for `only` those named.

        Raises KeyError for a recipient without a public key.
        """
        data_key = self._random(KEY_BYTES)
        kid = self._random(KID_BYTES).hex()
        nonce = self._random(NONCE_BYTES)
        ciphertext = AESGCM(data_key).encrypt(nonce, plaintext, _bound(kid))
        digest_key = self._digest_key or _derive(data_key, salt=None, info=DIGEST_INFO)
        sealed = Sealed(
            kid=kid,
            nonce=b64encode(nonce).decode(),
            ciphertext=b64encode(ciphertext).decode(),
            digest=_digest(digest_key, plaintext),
        )
        names = sorted(self.recipients if only is None else set(only))
        return sealed, tuple(wrap(data_key, kid, name, self.recipients[name], self._random) for name in names)

    def matches(self, sealed: Sealed, plaintext: bytes) -> bool:
        """Whether `sealed` was made by this digest key from `plaintext`; False when there is no digest key."""
        if self._digest_key is None:
            return False
        return hmac.compare_digest(sealed.digest, _digest(self._digest_key, plaintext))


class Keyring:
    """One reader: its name ("global" or a zone) and its private key."""

    def __init__(self, name: str, private: X25519PrivateKey) -> None:
        self.name = name
        self._private = private

    @property
    def public(self) -> X25519PublicKey:
        """The public half, for Sealers."""
        return self._private.public_key()

    @property
    def digest_key(self) -> bytes:
        """The key of this reader's digests, derived from its private key: the same after a restart."""
        return _derive(self._private.private_bytes_raw(), salt=None, info=DIGEST_INFO)

    def unseal(self, sealed: Sealed, data_keys: Mapping[str, Mapping[str, str]]) -> bytes:
        """The plaintext; `data_keys` is kid, then recipient, then wrap. Raises Unreadable."""
        data_key = self._data_key(sealed.kid, data_keys)
        nonce = _decode(sealed.nonce, "the nonce")
        ciphertext = _decode(sealed.ciphertext, "the ciphertext")
        if len(nonce) != NONCE_BYTES:
            raise Unreadable(f"the nonce has {len(nonce)} bytes, not {NONCE_BYTES}")
        try:
            return AESGCM(data_key).decrypt(nonce, ciphertext, _bound(sealed.kid))
        except InvalidTag:
            raise Unreadable(f"the ciphertext under data key {sealed.kid} was altered") from None

    def rewrap(
        self,
        kid: str,
        data_keys: Mapping[str, Mapping[str, str]],
        recipient: str,
        public: X25519PublicKey,
        random: Random = os.urandom,
    ) -> DataKeyWrapped:
        """The data key `kid` for a reader that came later. Raises Unreadable."""
        return wrap(self._data_key(kid, data_keys), kid, recipient, public, random)

    def _data_key(self, kid: str, data_keys: Mapping[str, Mapping[str, str]]) -> bytes:
        wraps = data_keys.get(kid)
        if not wraps:
            raise Unreadable(f"data key {kid} is gone: the secret was shredded")
        wrapped = wraps.get(self.name)
        if wrapped is None:
            raise Unreadable(f"data key {kid} was not wrapped for {self.name}")
        raw = _decode(wrapped, f"the wrap of data key {kid}")
        ephemeral_public, ciphertext = raw[:KEY_BYTES], raw[KEY_BYTES:]
        info = _wrap_info(kid, self.name)
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(ephemeral_public))
            key = _derive(shared, salt=ephemeral_public + self.public.public_bytes_raw(), info=info)
            data_key = AESGCM(key).decrypt(WRAP_NONCE, ciphertext, info)
        except (InvalidTag, ValueError):
            raise Unreadable(f"the wrap of data key {kid} does not open with the key of {self.name}") from None
        if len(data_key) != KEY_BYTES:
            raise Unreadable(f"data key {kid} has {len(data_key)} bytes, not {KEY_BYTES}")
        return data_key
