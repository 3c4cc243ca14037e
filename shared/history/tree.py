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
        found: Tree = importlib.import_module(COMPILER).xds_at(history, zone, position, proxy)
    elif view:
        found = importlib.import_module(PROJECTION).view_tree(history.state(zone, position))
    else:
        found = resources(history.state(zone, position))
    return only(found, kinds)


def served_at(history: History, zone: str, position: Position, proxy: str) -> dict[str, Any]:
    """Whether a proxy held what a moment compiles to, by what its zone recorded: `verdict`, `told` and the record.

    Raises NoSuchMoment.
    """
    found: dict[str, Any] = msgspec.to_builtins(
        importlib.import_module(RECORDS).served_at(history, zone, position, proxy)
    )
    return found


def only(tree: Tree, kinds: Collection[str]) -> Tree:
    """The part of a tree that is of some kinds; all of it when none is named."""
    wanted = {kind.lower() for kind in kinds} | {known.name.lower() for kind in kinds if (known := lookup(kind))}
    return {kind: names for kind, names in tree.items() if not wanted or kind.lower() in wanted}


def resources(state: ZoneState) -> Tree:
    """Every resource of both origins by kind and key, secrets as fingerprints."""
    found: Tree = {}
    for log in (state.hub, state.own):
        for key, stored in sorted(log.resources.items()):
            found.setdefault(key.kind, {})[str(key)] = shown(codec.to_plain(stored.resource))
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
