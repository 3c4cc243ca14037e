"""Key files: written with mode 0600 from the first byte, refused when anybody else may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
PRIVATE_DIRECTORY_MODE = 0o700
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeyFileError(Exception):
    """A key file is missing, too open or not what it should be. The message never holds its content."""


def _write(path: Path, data: bytes, mode: int) -> None:
    # Beside the target and then renamed: a reader never sees half a key, and the mode holds from creation.
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_private(path: Path, data: bytes | str) -> None:
    """Write a secret to `path`, readable by its owner alone."""
    _write(path, data.encode() if isinstance(data, str) else data, PRIVATE_MODE)


def write_public(path: Path, data: bytes | str) -> None:
    """Write something that everybody may read to `path`."""
    _write(path, data.encode() if isinstance(data, str) else data, PUBLIC_MODE)


def read_private(path: Path) -> bytes:
    """Content of a secret file. Raises KeyFileError when it is missing or open to group or world."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & OTHERS:
            raise KeyFileError(f"{path}: mode {mode:04o} lets others read this key; run: chmod 600 {path}")
        return file.read()


def read_public(path: Path) -> bytes:
    """Content of a public file. Raises KeyFileError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None


def private_pem(key: X25519PrivateKey | Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey) -> str:
    """A private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(key: X25519PublicKey | Ed25519PublicKey | RSAPublicKey) -> str:
    """A public key as SubjectPublicKeyInfo PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def read_seal_private(path: Path) -> X25519PrivateKey:
    """The private seal key in `path`. Raises KeyFileError."""
    key = _private(path)
    if not isinstance(key, X25519PrivateKey):
        raise KeyFileError(f"{path}: not an X25519 key")
    return key


def read_seal_public(path: Path) -> X25519PublicKey:
    """The public seal key in `path`. Raises KeyFileError."""
    key = _public(path)
    if not isinstance(key, X25519PublicKey):
        raise KeyFileError(f"{path}: not an X25519 key")
    return key


def read_sign_private(path: Path) -> Ed25519PrivateKey:
    """The private signing key in `path`. Raises KeyFileError."""
    key = _private(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: not an Ed25519 key")
    return key


def read_sign_public(path: Path) -> Ed25519PublicKey:
    """The public signing key in `path`. Raises KeyFileError."""
    key = _public(path)
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path}: not an Ed25519 key")
    return key


def _private(path: Path) -> PrivateKeyTypes:
    data = read_private(path)
    try:
        return serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise KeyFileError(f"{path}: not a private key in PEM") from None


def _public(path: Path) -> PublicKeyTypes:
    data = read_public(path)
    try:
        return serialization.load_pem_public_key(data)
    except ValueError:
        raise KeyFileError(f"{path}: not a public key in PEM") from None
