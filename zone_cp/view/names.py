"""The hostnames of a mesh and their VIPs, kept by what changes.

The version is a sum over the names, so that it follows from the content alone, whatever the order of the changes
that led to it, and a change costs what it changes. The terms are 128 bits of BLAKE2b: it tells tables apart, and
guards against nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b

import msgspec
from immutables import Map

from shared.model.resource import ResourceKey
from zone_cp.view.lineage import UNKNOWN, Lineage
from zone_cp.view.zone_view import MeshView

DIGEST_BYTES = 16
_MODULUS = 1 << (8 * DIGEST_BYTES)


class Names(msgspec.Struct, frozen=True):
    """Hostname to VIP, names in lower case. lineage tells which earlier tables `table` was made from."""

    table: Map[str, str] = Map()
    digest: int = 0
    lineage: Lineage = UNKNOWN

    @property
    def version(self) -> str:
        """Equal for equal content, in every process."""
        return f"{self.digest:0{2 * DIGEST_BYTES}x}"


NO_NAMES = Names()


def changed(names: Names, updates: Mapping[str, str | None]) -> Names:
    """The table with some names set, or gone (None); the same object where that changes nothing."""
    table, digest = names.table, names.digest
    differing = {name: vip for name, vip in updates.items() if table.get(name) != vip}
    if not differing:
        return names
    after = table.mutate()
    for name, vip in differing.items():
        before = table.get(name)
        if before is not None:
            digest -= _term(name, before)
        if vip is None:
            del after[name]
        else:
            after[name] = vip
            digest += _term(name, vip)
    return Names(after.finish(), digest % _MODULUS, names.lineage.then(table, differing))


def whole(table: Mapping[str, str]) -> Names:
    """The names of a table, from nothing."""
    return changed(NO_NAMES, table)


def differing(before: Names, after: Names) -> Collection[str]:
    """Names that may differ between two tables."""
    if before.table is after.table:
        return ()
    known = after.lineage.since(before.table)
    if known is not None:
        return known
    both = {*before.table, *after.table}
    return [name for name in both if before.table.get(name) != after.table.get(name)]


def following(names: Names, before: MeshView | None, after: MeshView | None, keys: Iterable[ResourceKey]) -> Names:
    """The names of a mesh after `keys` of its services, or what it sees of other meshes, differ. What one loses another
    may gain.
    """
    updates: dict[str, str | None] = {}
    seen = [mesh.abroad if mesh is not None else Map() for mesh in (before, after)]
    keys = tuple(keys)
    for mesh, abroad, gains in ((before, seen[0], False), (after, seen[1], True)):
        services = (mesh.services.get(key) for key in keys) if mesh is not None else ()
        others = abroad.values() if seen[0] is not seen[1] else ()
        for one in (*services, *others):
            for name in one.hostnames if one is not None else ():
                updates[name.lower()] = one.vip if gains and one is not None else None
    return changed(names, updates)


@lru_cache(maxsize=4096)
def _term(name: str, vip: str) -> int:
    return int.from_bytes(blake2b(f"{name} {vip}".encode(), digest_size=DIGEST_BYTES).digest(), "big")
