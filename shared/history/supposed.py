"""What would be if something were written: the answer of `whatif`, for every zone. Pure."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from shared.events.decide import Result
from shared.events.event import GLOBAL, Change, ResourceApplied, ResourceDeleted
from shared.events.redaction import shown
from shared.events.state import LogState, ZoneState
from shared.history.between import ZoneDifference, alike
from shared.history.difference import difference
from shared.history.tree import Tree
from shared.model import codec
from shared.model.resource import key_of

FORESEER = "zone_cp.foresee"
"""Imported by name: `shared` imports neither plane. It takes the compiler with it."""


class Said(msgspec.Struct, frozen=True):
    """What there is to say of a service in a zone. conditions: by type, `True` or status, reason and message."""

    vip: str
    hostnames: tuple[str, ...]
    conditions: dict[str, str]


class ServiceChange(msgspec.Struct, frozen=True):
    """A service of which something else would be said; None where it is not there."""

    name: str
    before: Said | None
    after: Said | None


class Foreseen(msgspec.Struct, frozen=True):
    """One zone: what proxies would hold instead, what it would record, what it would say of services.

    held: proxies that are touched and would not be told now, because pushes to them are held.
    """

    difference: ZoneDifference
    decisions: tuple[dict[str, Any], ...] = ()
    services: tuple[ServiceChange, ...] = ()
    held: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As it is shown and sent."""
        rest: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return {**self.difference.plain(), **{name: rest[name] for name in ("decisions", "services", "held")}}


class Considered(msgspec.Struct, frozen=True):
    """A batch that was judged as if it were to be written, and was not. log: as it is before; zones: those that it may
    concern, as they are.
    """

    log: LogState
    changes: tuple[Change, ...]
    results: tuple[Result, ...]
    warnings: tuple[str, ...]
    zones: tuple[ZoneState, ...]


def forecast(considered: Considered, *, time: str, actor: str) -> dict[str, Any]:
    """What the batch would lead to in every zone; `time` is that of its events, at least.

    resources: what it changes itself. unknown: zones that have never run, of which nothing can be told.
    """
    foresee = importlib.import_module(FORESEER).foresee
    known = [zone for zone in considered.zones if zone.own.settings is not None]
    found: list[Foreseen] = [
        foresee(zone, considered.log.origin, considered.changes, time=time, actor=actor) for zone in known
    ]
    return {
        "resources": [msgspec.to_builtins(one) for one in alike(difference(*_trees(considered)))],
        "results": [outcome(result) for result in considered.results],
        "warnings": list(considered.warnings),
        "touched": sum(len(one.difference.touched) for one in found),
        "proxies": sum(one.difference.proxies for one in found),
        "zones": [one.plain() for one in found],
        "unknown": [zone.zone for zone in considered.zones if zone.own.settings is None],
    }


def _trees(considered: Considered) -> tuple[Tree, Tree]:
    """The resources that the batch is about, before and after."""
    before, after = Tree(), Tree()
    zone = "" if considered.log.origin == GLOBAL else considered.log.origin
    for change in considered.changes:
        match change:
            case ResourceApplied(resource=resource):
                key = key_of(resource, zone)
                after.setdefault(key.kind, {})[str(key)] = shown(codec.to_plain(resource))
            case ResourceDeleted(key=key):
                pass
            case _:
                continue
        if (stored := considered.log.resources.get(key)) is not None:
            before.setdefault(key.kind, {})[str(key)] = shown(codec.to_plain(stored.resource))
    return before, after


def outcome(result: Result) -> dict[str, Any]:
    """What became of one command, or would."""
    key = result.key
    return {"type": key.kind, "mesh": key.mesh, "name": key.name, "zone": key.zone, "outcome": result.outcome}
