"""The names that an agent answers, and how one table of them becomes the next."""

from __future__ import annotations

import msgspec
from immutables import Map

from zone_cp.view.lineage import UNKNOWN, Lineage


class DnsTable(msgspec.Struct, frozen=True):
    """All names one agent answers. version: equal means equal content; names are lower case without trailing dot.

    lineage: which earlier tables `names` was made from.
    """

    version: str
    names: Map[str, str]
    ttl_seconds: int = 5
    lineage: Lineage = UNKNOWN


class DnsChange(msgspec.Struct, frozen=True):
    """How to get from one table to the next; `full` replaces whatever there was."""

    version: str
    full: bool
    upsert: tuple[tuple[str, str], ...]
    remove: tuple[str, ...]
    ttl_seconds: int


def dns_change(before: DnsTable | None, after: DnsTable) -> DnsChange | None:
    """Compare two tables; None when the agent has the newer one already."""
    if before is None:
        return DnsChange(after.version, True, tuple(sorted(after.names.items())), (), after.ttl_seconds)
    if before.version == after.version:
        return None
    names = after.lineage.since(before.names)
    if names is None:
        names = {*before.names, *after.names}
    upsert = tuple(sorted((name, after.names[name]) for name in names if _gained(name, before.names, after.names)))
    remove = tuple(sorted(name for name in names if name in before.names and name not in after.names))
    return DnsChange(after.version, False, upsert, remove, after.ttl_seconds)


def _gained(name: str, before: Map[str, str], after: Map[str, str]) -> bool:
    return name in after and before.get(name) != after[name]
