"""A moment as a tree: plain data by kind and name. What commands print, compare and send."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from shared.events.history import History
from shared.events.redaction import shown
from shared.events.state import Position, ZoneState
from shared.model import codec
from shared.model.kinds import lookup

Tree: TypeAlias = dict[str, dict[str, Any]]
"""By kind (of resource, of a view's part, of xDS resource), then by name."""

COMPILER = "zone_cp.replay"
RECORDS = "zone_cp.served"
PROJECTION = "zone_cp.view.tree"
"""Imported by name: `shared` imports neither plane. The compiler takes seconds, so only xDS waits for it."""


class FieldChange(msgspec.Struct, frozen=True):
    """One difference: where, what it was, what it is; "" as path means the whole thing came or went."""

    kind: str
    name: str
    path: str
    before: Any = None
    after: Any = None


def tree_at(
    history: History,
    zone: str,
    position: Position,
    *,
    proxy: str | None = None,
    view: bool = False,
    kinds: Collection[str] = (),
) -> Tree:
    """The zone at a moment: what `proxy` was served, or the ZoneView, or all resources.

    kinds: only these, in any spelling the commands know; all when empty. Raises NoSuchMoment.
    """
    if proxy is not None:
        return xds_then(history, zone, position, proxy, kinds)[0]
    if view:
        return only(importlib.import_module(PROJECTION).view_tree(history.state(zone, position)), kinds)
    return resources(history.state(zone, position), kinds)


def xds_then(
    history: History, zone: str, position: Position, proxy: str, kinds: Collection[str] = ()
) -> tuple[Tree, dict[str, Any]]:
    """What `proxy` should have held, and whether it did by what its zone recorded: `verdict`, `told`, the record.

    kinds: only these types of xDS resources, all when empty. Raises NoSuchMoment.
    """
    found, served = importlib.import_module(RECORDS).replayed(history, zone, position, proxy, kinds)
    return found, msgspec.to_builtins(served)


def only(tree: Tree, kinds: Collection[str]) -> Tree:
    """The part of a tree that is of some kinds; all of it when none is named."""
    wanted = _named(kinds)
    return {kind: names for kind, names in tree.items() if not wanted or kind.lower() in wanted}


def _named(kinds: Collection[str]) -> set[str]:
    return {kind.lower() for kind in kinds} | {known.name.lower() for kind in kinds if (known := lookup(kind))}


def resources(state: ZoneState, kinds: Collection[str] = ()) -> Tree:
    """Every resource of both origins, of `kinds` (all when empty), by kind and key, secrets as fingerprints."""
    wanted = _named(kinds)
    found: Tree = {}
    for log in (state.hub, state.own):
        for kind, members in sorted(log.kinds.items()):
            if not wanted or kind.lower() in wanted:
                shown_ones = {str(key): shown(codec.to_plain(one.resource)) for key, one in sorted(members.items())}
                found.setdefault(kind, {}).update(shown_ones)
    return dict(sorted(found.items()))


def difference(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[FieldChange]:
    """Semantic difference of two trees: per field, not per line of text."""
    changes: list[FieldChange] = []
    for kind in sorted({*before, *after}):
        old, new = before.get(kind, {}), after.get(kind, {})
        for name in sorted({*old, *new}):
            if name not in new:
                changes.append(FieldChange(kind, name, "", before=old[name]))
            elif name not in old:
                changes.append(FieldChange(kind, name, "", after=new[name]))
            elif old[name] != new[name]:
                changes += _fields(kind, name, old[name], new[name])
    return changes


def _fields(kind: str, name: str, old: Any, new: Any) -> Iterator[FieldChange]:
    was, now = dict(_leaves(old)), dict(_leaves(new))
    for path in sorted({*was, *now}):
        if was.get(path) != now.get(path):
            yield FieldChange(kind, name, path, was.get(path), now.get(path))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value
