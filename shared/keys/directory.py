"""KeysDirectory: the keys of one process, as `zonal init` laid them out (settings `keys_dir`).

ca.pem                   the deployment's authority: verifies NATS servers, ADS and leaf links
<reader>.seal.pub        public seal keys of global and of every zone
<name>.seal.key          the process's own private seal key                     0600
<origin>.sign.pub        public keys that verify the logs of global and of every zone
<name>.sign.key          the key with which the process signs its own log       0600
token-signing-<kid>.pub  public keys that verify tokens
token-signing-<kid>.key  the signing key, on global only                        0600
nats.seed                nkey by which the process opens its nats-server        0600
nats.pem, nats.key       certificate of that nats-server (and of its leaf link) 0600
ads.pem, ads.key         certificate of ADS, on zones only                      0600
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from shared.keys import files, signing
from shared.keys.seal import Keyring, Random, Sealer
from shared.keys.tokens import TokenIssuer, TokenVerifier

SEAL_PUBLIC = ".seal.pub"
SEAL_PRIVATE = ".seal.key"
SIGN_PUBLIC = ".sign.pub"
SIGN_PRIVATE = ".sign.key"
TOKEN_PREFIX = "token-signing-"  # noqa: S105 - the beginning of a file name


class KeysDirectory:
    """Keys of the process `name` ("global" or a zone). Reads files when asked; everything raises KeyFileError."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    @property
    def ca_file(self) -> Path:
        """Certificate of the deployment's authority."""
        return self.path / "ca.pem"

    @property
    def nats_seed_file(self) -> Path:
        """The nkey seed for nats-server."""
        return self.path / "nats.seed"

    @property
    def ads_files(self) -> tuple[Path, Path]:
        """(certificate, key) that ADS shows to proxies."""
        return self.path / "ads.pem", self.path / "ads.key"

    @property
    def nats_files(self) -> tuple[Path, Path]:
        """(certificate, key) of the nats-server beside this process."""
        return self.path / "nats.pem", self.path / "nats.key"

    def signing_key_file(self, kid: str) -> Path:
        """The signing key of tokens; only global has one."""
        return self.path / f"{TOKEN_PREFIX}{kid}.key"

    def keyring(self) -> Keyring:
        """What this process can unseal with."""
        return Keyring(self.name, files.read_seal_private(self.path / f"{self.name}{SEAL_PRIVATE}"))

    def readers(self) -> dict[str, X25519PublicKey]:
        """Public seal keys by reader."""
        found = sorted(self.path.glob(f"*{SEAL_PUBLIC}"))
        return {path.name.removesuffix(SEAL_PUBLIC): files.read_seal_public(path) for path in found}

    def sealer(self, random: Random = os.urandom) -> Sealer:
        """Seals for every known reader, with digests keyed by this process."""
        return Sealer(self.readers(), random, digest_key=self.keyring().digest_key)

    def signing_key(self) -> signing.SigningKey:
        """The key that vouches for this process's log; made where there is none yet."""
        private, public = self.path / f"{self.name}{SIGN_PRIVATE}", self.path / f"{self.name}{SIGN_PUBLIC}"
        if not private.exists():
            files.write_private(private, signing.create())
        key = files.read_sign_private(private)
        text = files.public_pem(key.public_key())
        if not public.exists() or public.read_text() != text:
            files.write_public(public, text)
        return signing.SigningKey(key)

    def signer_if_any(self) -> signing.SigningKey | None:
        """The signing key where it lies here; none is made."""
        return self.signing_key() if (self.path / f"{self.name}{SIGN_PRIVATE}").exists() else None

    def log_checks(self) -> dict[str, dict[str, Callable[[bytes, bytes], bool]]]:
        """What verifies the logs: per origin the keys known here, by kid."""
        found: dict[str, dict[str, Callable[[bytes, bytes], bool]]] = {}
        for path in sorted(self.path.glob(f"*{SIGN_PUBLIC}")):
            key = files.read_sign_public(path)
            found[path.name.removesuffix(SIGN_PUBLIC)] = {signing.kid_of(key): signing.checker(key)}
        return found

    def token_verifier(self, *, revoked: Container[str] = ()) -> TokenVerifier:
        """Verifies tokens by every public key that lies here."""
        found = sorted(self.path.glob(f"{TOKEN_PREFIX}*.pub"))
        if not found:
            raise files.KeyFileError(f"{self.path}: no {TOKEN_PREFIX}*.pub, so no token could be verified")
        keys = {path.stem.removeprefix(TOKEN_PREFIX): files.read_public(path).decode() for path in found}
        try:
            return TokenVerifier(keys, revoked=revoked)
        except ValueError as error:
            raise files.KeyFileError(f"{self.path}: {error}") from None

    def token_issuer(self) -> TokenIssuer:
        """Issues tokens with the newest signing key (the highest kid)."""
        found = list(self.path.glob(f"{TOKEN_PREFIX}*.key"))
        if not found:
            raise files.KeyFileError(f"{self.path}: no {TOKEN_PREFIX}*.key: tokens are issued on global")
        kids = {path.stem.removeprefix(TOKEN_PREFIX): path for path in found}
        kid = max(kids, key=lambda one: (len(one), one))
        return TokenIssuer.load(kids[kid], kid=kid)
