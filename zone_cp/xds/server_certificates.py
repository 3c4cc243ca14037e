"""The certificates that a gateway shows to its clients, as SDS secrets (A7)."""

from __future__ import annotations

import msgspec

from shared.events.event import EventRef
from shared.model.pem import server_pair
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import Failure, TlsMaterial
from zone_cp.xds import secrets as sds
from zone_cp.xds.secrets import MaterialMissing, SecretSource
from zone_cp.xds.snapshot import Encoded


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
        sources = joined(material.sources, further)
        secrets.append(sds.key_pair(name, pair.chain, pair.key, sources))
    return Shown(tuple(names), tuple(secrets))
