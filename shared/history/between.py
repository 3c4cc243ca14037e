"""What differs between two moments, as commands and the API show it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from shared.events.history import History
from shared.history.difference import ResourceChange, difference
from shared.history.tree import VIEW_PARTS, XDS_TYPES, only, refuse_unknown, resources_between

COMPARER = "zone_cp.between"
"""Imported by name: `shared` imports neither plane."""

SCOPES = ("resources", "views", "proxy", "proxies")


class Alike(msgspec.Struct, frozen=True):
    """One change of any number of resources of a kind: added, removed, or these fields changed.

    A field has a path, and before and after as far as there is something.
    """

    kind: str
    verb: str
    names: tuple[str, ...]
    fields: tuple[dict[str, Any], ...] = ()


class Group(msgspec.Struct, frozen=True):
    """Proxies to which the same happens; of resources and views, which are nobody's, there is one group of none."""

    proxies: tuple[str, ...]
    changes: tuple[Alike, ...]


class ZoneDifference(msgspec.Struct, frozen=True):
    """How one zone differs between two moments. proxies: how many were online at both and were compared; came and left:
    those that were online at the later or earlier one only; faults: proxies that could not be compiled, and why.
    """

    zone: str
    before: str
    after: str
    groups: tuple[Group, ...] = ()
    proxies: int = 0
    came: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    faults: dict[str, str] = {}

    @property
    def touched(self) -> tuple[str, ...]:
        """The proxies that hold something else than before."""
        return tuple(sorted({proxy for group in self.groups for proxy in group.proxies}))

    def plain(self) -> dict[str, Any]:
        """As it is shown and sent."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return {**found, "touched": len(self.touched)}


def alike(changes: Iterable[ResourceChange]) -> tuple[Alike, ...]:
    """Equal changes of resources of one kind together, in the order of the first of each."""
    found: dict[tuple[str, str, str], tuple[ResourceChange, list[str]]] = {}
    for change in changes:
        fields = json.dumps([field.plain() for field in change.fields], sort_keys=True, default=str)
        # Without fields nothing says that two changes are the same, but they need no room either.
        found.setdefault((change.kind, change.verb, fields), (change, []))[1].append(change.name)
    return tuple(
        Alike(one.kind, one.verb, tuple(names), tuple(field.plain() for field in one.fields))
        for one, names in found.values()
    )


def between(
    history: History,
    zone: str,
    before: str | None,
    after: str | None,
    *,
    scope: str = "resources",
    proxy: str = "",
    kinds: Collection[str] = (),
) -> ZoneDifference:
    """How a zone differs between two moments, as people name them: its resources, its view, what one proxy or every
    one holds (`SCOPES`).

    kinds: only resources, parts of the view or xDS resources of these. Raises NoSuchMoment.
    """
    known = {"resources": (), "views": VIEW_PARTS}.get(scope, XDS_TYPES)
    refuse_unknown(kinds, known)
    first, second = history.position(zone, before), history.position(zone, after)
    if scope == "proxies":
        found: ZoneDifference = importlib.import_module(COMPARER).proxies_between(history, zone, first, second)
        return _only(found, kinds)
    if scope == "proxy":
        held = importlib.import_module(COMPARER).proxy_between(history, zone, first, second, proxy)
        return _only(ZoneDifference(zone, str(first), str(second), held, 1), kinds)
    states = history.states(zone, first, second)
    if scope == "views":
        trees = [only(tree, kinds) for tree in importlib.import_module(COMPARER).views_between(*states)]
    else:
        trees = list(resources_between(*states, kinds))
    changes = alike(difference(*trees))
    return ZoneDifference(zone, str(first), str(second), (Group((), changes),) if changes else ())


def zones_meant(history: History, zone: str | None, *moments: str | None, every: bool) -> list[str]:
    """The zone that is meant; with `every`, all of them where neither a name nor a moment says which."""
    if every and zone is None and not any(moment and moment.partition(":")[0] in history.zones for moment in moments):
        return sorted(history.zones)
    return [history.meant(zone, *moments)]


def _only(found: ZoneDifference, kinds: Collection[str]) -> ZoneDifference:
    wanted = {kind.lower() for kind in kinds}
    if not wanted:
        return found
    kept = ((group, tuple(one for one in group.changes if one.kind.lower() in wanted)) for group in found.groups)
    return msgspec.structs.replace(
        found, groups=tuple(Group(group.proxies, changes) for group, changes in kept if changes)
    )


def flipped(found: ZoneDifference) -> ZoneDifference:
    """The way back."""
    verbs = {"added": "removed", "removed": "added"}

    def field(one: dict[str, Any]) -> dict[str, Any]:
        swapped = {"before": "after", "after": "before"}
        return {"path": one["path"], **{swapped[key]: one[key] for key in ("after", "before") if key in one}}

    groups = tuple(
        Group(
            group.proxies,
            tuple(
                Alike(one.kind, verbs.get(one.verb, one.verb), one.names, tuple(map(field, one.fields)))
                for one in group.changes
            ),
        )
        for group in found.groups
    )
    return ZoneDifference(
        found.zone, found.after, found.before, groups, found.proxies, found.left, found.came, found.faults
    )
