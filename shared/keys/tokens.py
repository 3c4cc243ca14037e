"""Tokens: who calls an API and which proxy opens a stream. RS256 JWTs in Kuma's shape (wire contract §1.8).

Planes verify with public keys alone; only the holder of the signing key (global) issues. A token is of one
kind and stands for nothing else: a proxy's token opens no API.

    user       sub, roles; and, to limit what may be read, Meshes, Zones
    dataplane  Name, Mesh, Tags, Type "dataplane" (or ""), Zone
    egress     Name, Type "egress", Zone

All carry `jti`, `iat`, `nbf`, `exp`; the header names the signing key by `kid`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import jwt
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from immutables import Map

from shared.keys import files

ALGORITHM = "RS256"
DEFAULT_KID = "1"
KEY_BITS = 2048
LEEWAY_SECONDS = 5
USER_TOKEN_SECONDS = 365 * 86_400.0
PROXY_TOKEN_SECONDS = 30 * 86_400.0
TOKEN_LIMIT_BYTES = 16_384
VERIFIED_LIMIT = 1024
"""Tokens whose signature a verifier remembers."""
ADMIN = "admin"
"""The role that may write everything."""

Kind: TypeAlias = Literal["user", "dataplane", "egress"]
_PROXY_KINDS: Mapping[str, Kind] = {"": "dataplane", "dataplane": "dataplane", "egress": "egress"}


class Principal(msgspec.Struct, frozen=True):
    """Whom a token stands for. `subject` is what events name as actor; empty fields bind nothing.

    A proxy token binds its proxy to what it names: mesh, name, zone and, per tag, one of the listed values. A user's
    meshes and zones limit what may be read (`shared.events.reading`); none: everything.
    """

    kind: Kind
    subject: str
    roles: tuple[str, ...] = ()
    mesh: str = ""
    name: str = ""
    zone: str = ""
    tags: Map[str, tuple[str, ...]] = Map()
    jti: str = ""
    meshes: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()


class TokenRefused(Exception):
    """A token is not accepted. The message is for logs, not for whoever sent it, and never holds the token."""


def create_signing_key() -> str:
    """A new signing key, PEM."""
    return files.private_pem(rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS))


def public_key_of(signing_key_pem: str) -> str:
    """The public half of a signing key, PEM."""
    key = serialization.load_pem_private_key(signing_key_pem.encode(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA private key")
    return files.public_pem(key.public_key())


def wall_clock() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(UTC)


class TokenIssuer:
    """Signs tokens. Raises ValueError when `signing_key_pem` is not an RSA private key."""

    def __init__(
        self, signing_key_pem: str, *, kid: str = DEFAULT_KID, clock: Callable[[], datetime] = wall_clock
    ) -> None:
        key = serialization.load_pem_private_key(signing_key_pem.encode(), password=None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("not an RSA private key")
        self._key = key
        self._kid = kid
        self._clock = clock

    @classmethod
    def load(cls, path: Path, *, kid: str = DEFAULT_KID) -> Self:
        """An issuer with the signing key in `path`. Raises KeyFileError."""
        try:
            return cls(files.read_private(path).decode(), kid=kid)
        except ValueError as error:
            raise files.KeyFileError(f"{path}: not a signing key: {error}") from None

    def user_token(
        self,
        subject: str,
        roles: tuple[str, ...],
        seconds: float = USER_TOKEN_SECONDS,
        *,
        meshes: Sequence[str] = (),
        zones: Sequence[str] = (),
    ) -> str:
        """A token for a person or a program that calls the API; it reads these meshes and zones only, if any are given.

        Raises ValueError for a limited token that may write.
        """
        limits = {name: list(names) for name, names in (("Meshes", meshes), ("Zones", zones)) if names}
        if limits and ADMIN in roles:
            raise ValueError(f"a token of the role {ADMIN} may write everything: it cannot be limited")
        return self._sign({"sub": subject, "roles": list(roles), **limits}, seconds)

    def dataplane_token(
        self,
        mesh: str,
        seconds: float = PROXY_TOKEN_SECONDS,
        *,
        name: str = "",
        zone: str = "",
        tags: Mapping[str, tuple[str, ...]] | None = None,
    ) -> str:
        """A token for a sidecar; without `name` it is good for any Dataplane of the mesh that has the tags."""
        claims = {"Name": name, "Mesh": mesh, "Tags": {key: list(values) for key, values in (tags or {}).items()}}
        return self._sign({**claims, "Type": "dataplane", "Zone": zone}, seconds)

    def egress_token(self, zone: str, seconds: float = PROXY_TOKEN_SECONDS, *, name: str = "") -> str:
        """A token for a zone egress of `zone`."""
        return self._sign({"Name": name, "Type": "egress", "Zone": zone}, seconds)

    def _sign(self, claims: dict[str, Any], seconds: float) -> str:
        now = self._clock()
        times = {"iat": now, "nbf": now - timedelta(seconds=LEEWAY_SECONDS), "exp": now + timedelta(seconds=seconds)}
        return jwt.encode(
            {**claims, **times, "jti": str(uuid.uuid4())}, self._key, algorithm=ALGORITHM, headers={"kid": self._kid}
        )


class TokenVerifier:
    """Verifies tokens with public keys (PEM, by kid). `revoked` holds the `jti`s that count no more.

    Raises ValueError when a key is not an RSA public key.
    """

    def __init__(self, public_keys: Mapping[str, str], *, revoked: Container[str] = ()) -> None:
        self._keys: dict[str, rsa.RSAPublicKey] = {}
        for kid, pem in public_keys.items():
            key = serialization.load_pem_public_key(pem.encode())
            if not isinstance(key, rsa.RSAPublicKey):
                raise ValueError(f"key {kid} is not an RSA public key")
            self._keys[kid] = key
        self._revoked = revoked
        self._verified: dict[str, tuple[Principal, float]] = {}

    def authenticate(self, token: str) -> Principal | None:
        """Whom `token` stands for, None when it is not accepted, for whatever reason."""
        try:
            return self.check(token)
        except TokenRefused:
            return None

    def check(self, token: str) -> Principal:
        """As `authenticate`, but raises TokenRefused with the reason."""
        if len(token) > TOKEN_LIMIT_BYTES:
            raise TokenRefused(f"the token is longer than {TOKEN_LIMIT_BYTES} bytes")
        # A signature that was good once stays good; only time and revocation can end a token.
        principal, expires = self._verified.get(token) or self._verify(token)
        if expires <= wall_clock().timestamp() - LEEWAY_SECONDS:
            self._verified.pop(token, None)
            raise TokenRefused("the token is not valid: Signature has expired")
        if principal.jti in self._revoked:
            raise TokenRefused(f"the token {principal.jti} was revoked")
        if len(self._verified) >= VERIFIED_LIMIT:
            self._verified.clear()
        self._verified[token] = principal, expires
        return principal

    def _verify(self, token: str) -> tuple[Principal, float]:
        """What a token says and when it expires (Unix time). Raises TokenRefused."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keys.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise TokenRefused("the token names no signing key that is known here")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "jti"], "verify_aud": False},
            )
        except jwt.PyJWTError as error:
            raise TokenRefused(f"the token is not valid: {error}") from None
        return _principal(claims), float(claims["exp"])


class _Claims(msgspec.Struct, rename="lower"):
    """Claims after their names were lowered: readers accept any case (§1.8)."""

    jti: str
    sub: str = ""
    roles: tuple[str, ...] = ()
    name: str = ""
    mesh: str = ""
    zone: str = ""
    type: str | None = None
    tags: dict[str, tuple[str, ...]] | None = None
    meshes: tuple[str, ...] | None = None
    zones: tuple[str, ...] | None = None


def _principal(raw: Mapping[str, Any]) -> Principal:
    lowered = {key.lower(): value for key, value in raw.items()}
    if len(lowered) != len(raw):
        raise TokenRefused("the token has one claim twice")
    try:
        claims = msgspec.convert(lowered, _Claims)
    except msgspec.ValidationError as error:
        raise TokenRefused(f"the token's claims are not of the right type: {error}") from None
    if claims.sub:
        if claims.type or claims.mesh or claims.name or claims.zone:
            raise TokenRefused("the token is of two kinds")
        limits = (claims.meshes, claims.zones)
        if () in limits or (limits != (None, None) and ADMIN in claims.roles):
            raise TokenRefused("the token is limited to nothing, or limited and of a role that is not")
        return Principal(
            "user", claims.sub, claims.roles, jti=claims.jti, meshes=claims.meshes or (), zones=claims.zones or ()
        )
    if claims.meshes is not None or claims.zones is not None:
        raise TokenRefused("only a user's token is limited to meshes and zones")
    kind = _PROXY_KINDS.get(claims.type or "")
    if kind is None or (claims.type is None and not claims.mesh) or claims.roles:
        raise TokenRefused("the token is of no known kind")
    if kind == "dataplane" and not claims.mesh:
        raise TokenRefused("a dataplane token must name its mesh")
    if kind == "egress" and not claims.zone:
        raise TokenRefused("an egress token must name its zone")
    path = "/".join(part for part in (kind, claims.mesh, claims.zone, claims.name) if part)
    return Principal(kind, path, (), claims.mesh, claims.name, claims.zone, Map(claims.tags or {}), claims.jti)
