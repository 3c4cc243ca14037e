"""A moment as a tree: plain data by kind and name. What commands print, compare and send."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import msgspec
from immutables import Map

from shared.events.history import History, NoSuchKind
from shared.events.redaction import shown
from shared.events.state import Position, Stored, ZoneState, moved
from shared.model import codec
from shared.model.kinds import KINDS, lookup
from shared.model.resource import ResourceKey

Tree: TypeAlias = dict[str, dict[str, Any]]
"""By kind (of resource, of a view's part, of xDS resource), then by name."""

VIEW_PARTS = ("Zone", "Mesh", "ExternalService", "Gateway", "GatewayRoute", "Egress")
XDS_TYPES = (
    "Cluster",
    "ClusterLoadAssignment",
    "Listener",
    "RouteConfiguration",
    "Secret",
    "TypedExtensionConfig",
    "Runtime",
)

COMPILER = "zone_cp.replay"
EXPLAINER = "zone_cp.explain"
RECORDS = "zone_cp.served"
PROJECTION = "zone_cp.view.tree"
"""Imported by name: `shared` imports neither plane. The compiler takes seconds, so only xDS waits for it."""


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
    refuse_unknown(kinds, VIEW_PARTS if view else ())
    if view:
        return only(importlib.import_module(PROJECTION).view_tree(history.state(zone, position)), kinds)
    return resources(history.state(zone, position), kinds)


def xds_then(
    history: History, zone: str, position: Position, proxy: str, kinds: Collection[str] = ()
) -> tuple[Tree, dict[str, Any]]:
    """What `proxy` should have held, and whether it did by what its zone recorded: `verdict`, `told`, the record.

    kinds: only these types of xDS resources, all when empty. Raises NoSuchMoment.
    """
    refuse_unknown(kinds, XDS_TYPES)
    found, served = importlib.import_module(RECORDS).replayed(history, zone, position, proxy, kinds)
    return found, msgspec.to_builtins(served)


def refuse_unknown(kinds: Collection[str], known: Sequence[str]) -> None:
    """Raises NoSuchKind for what is none of `known`, which are all kinds of resources when empty."""
    names = known or [one.name for one in KINDS]
    for kind in kinds:
        meant = lookup(kind)
        spelled = {kind.lower(), *([meant.name.lower()] if meant is not None else ())}
        if spelled.isdisjoint(name.lower() for name in names):
            raise NoSuchKind(f'there is no kind "{kind}" here; there are: {", ".join(names)}')


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
                shown_ones = {str(key): _shown(one) for key, one in sorted(members.items())}
                found.setdefault(kind, {}).update(shown_ones)
    return dict(sorted(found.items()))


def resources_between(before: ZoneState, after: ZoneState, kinds: Collection[str] = ()) -> tuple[Tree, Tree]:
    """Those resources of two moments that are not the very same in both, as `resources` shows them."""
    wanted = _named(kinds)
    trees: tuple[Tree, Tree] = ({}, {})
    for old, new in ((before.hub, after.hub), (before.own, after.own)):
        for kind in {*old.kinds, *new.kinds}:
            if not wanted or kind.lower() in wanted:
                sides = (old.kinds.get(kind, _NOTHING), new.kinds.get(kind, _NOTHING))
                for key in moved(*sides):
                    for tree, side in zip(trees, sides, strict=True):
                        if key in side:
                            tree.setdefault(kind, {})[str(key)] = _shown(side[key])
    return trees


_NOTHING: Map[ResourceKey, Stored] = Map()


def _shown(stored: Stored) -> Any:
    return shown(codec.to_plain(stored.resource))


def explained(
    history: History, zone: str | None, at: str | None, proxy: str, wanted: str, *, absent: bool = False
) -> dict[str, Any]:
    """Why a proxy holds what `wanted` names: resources with their causes in `found`.

    absent: why it holds nothing, or nothing that works, in `reasons`. Raises NoSuchMoment.
    """
    zone = history.meant(zone, at)
    position = history.position(zone, at)
    explainer = importlib.import_module(EXPLAINER)
    found = [] if absent else explainer.explain(history, zone, position, proxy, wanted)
    reasons = explainer.absent(history, zone, position, proxy, wanted) if absent else []
    told = {"zone": zone, "position": str(position), "proxy": proxy, "wanted": wanted}
    return {**told, "found": msgspec.json.decode(msgspec.json.encode(found)), "reasons": reasons}
