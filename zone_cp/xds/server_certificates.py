"""A server's certificate chain and key out of one PEM text, as a gateway shows them to its clients (A7)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from shared.events.event import EventRef
from zone_cp.view.zone_view import Failure, TlsMaterial
from zone_cp.xds import secrets as sds
from zone_cp.xds.secrets import REDACTED_PREFIX, MaterialMissing, SecretSource
from zone_cp.xds.snapshot import Encoded

KeyType: TypeAlias = Literal["", "RSA", "ECDSA"]

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class Pair(msgspec.Struct, frozen=True):
    """A chain, leaf first, and its key, both PEM; why they cannot be used, "" when they can."""

    chain: bytes = b""
    key: bytes = b""
    key_type: KeyType = ""
    fault: str = ""


@lru_cache(maxsize=4096)
def server_pair(pem: bytes) -> Pair:
    """The pair in one text, in whatever order."""
    if pem.startswith(REDACTED_PREFIX):
        return Pair(pem, pem)
    blocks = [(match[1].decode(), match[0]) for match in _BLOCK.finditer(pem)]
    certificates = [block for kind, block in blocks if kind.endswith("CERTIFICATE")]
    keys = [block for kind, block in blocks if kind.endswith("PRIVATE KEY")]
    others = [kind for kind, _ in blocks if not kind.endswith(("CERTIFICATE", "PRIVATE KEY"))]
    if len(keys) > 1:
        return Pair(fault="secret contains multiple private keys")
    if others:
        return Pair(fault=f'unsupported PEM block "{others[0]}"')
    if not certificates:
        return Pair(fault="missing server certificate")
    if not keys:
        return Pair(fault="missing private key")
    chain = b"\n".join((*certificates, b""))
    key = keys[0] + b"\n"
    key_type, fault = sds.server_key_type(key)
    return Pair(chain, key, key_type, fault or sds.key_pair_fault(chain, key, "server"))


class Shown(msgspec.Struct, frozen=True):
    """The certificates of one listener, as SDS secrets: their names in the order in which they are configured."""

    names: tuple[str, ...]
    secrets: tuple[Encoded, ...]


def shown(
    materials: tuple[TlsMaterial, ...], path: str, further: tuple[EventRef, ...], source: SecretSource
) -> Shown | Failure:
    """What clients are shown; a Failure where any of it cannot be.

    path: of the list, in the resource; further: events that the listener follows from.
    """
    names, secrets, types = [], [], set()
    for number, material in enumerate(materials):
        where = f"{path}[{number}]"
        try:
            pair = server_pair(source.text(material))
        except MaterialMissing as missing:
            return Failure("MaterialMissing", f"{material.name}: {missing.reason}", where)
        if pair.fault:
            return Failure("InvalidMaterial", f"{material.name}: {pair.fault}", where)
        if pair.key_type and pair.key_type in types:
            return Failure(
                "InvalidMaterial", f"{material.name}: a second certificate with an {pair.key_type} key", where
            )
        types.add(pair.key_type)
        name = f"server/{material.name}"
        names.append(name)
        sources = tuple(dict.fromkeys((*material.sources, *further)))
        secrets.append(sds.key_pair(name, pair.chain, pair.key, sources))
    return Shown(tuple(names), tuple(secrets))
