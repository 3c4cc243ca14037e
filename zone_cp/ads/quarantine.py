"""Quarantine: what stands in a snapshot in place of a version that an Envoy refused (decision 28). Pure."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from zone_cp.xds.snapshot import Encoded, Snapshot, following

Key: TypeAlias = tuple[str, str, str]
"""Type URL, name and version."""


def without(snapshot: Snapshot, key: Key, good: Encoded | None) -> Snapshot:
    """The snapshot with `good` in place of the version `key`, or with nothing there; itself where it has another."""
    if not contains(snapshot, key):
        return snapshot
    type_url, name, version = key
    if good is not None and good.version == version:
        good = None
    after = following(snapshot, snapshot.position, {type_url: {name: good}})
    return msgspec.structs.replace(after, on_demand=snapshot.on_demand)


def contains(snapshot: Snapshot, key: Key) -> bool:
    """Whether the snapshot has this very version."""
    type_url, name, version = key
    found = snapshot.resources[type_url].get(name) if type_url in snapshot.resources else None
    return found is not None and found.version == version
