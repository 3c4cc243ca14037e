"""Blame of a resource at a moment: its fields, and what zones made of it, by who is to thank for each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shared.events.blame import Line, blamed
from shared.events.causes import written_because_of
from shared.events.event import GLOBAL, Event, EventRef, ResourceApplied, ref
from shared.events.history import History, NoSuchMoment
from shared.events.past import PastLog
from shared.events.redaction import shown
from shared.events.search import Wanted
from shared.history.told import path_of
from shared.model.resource import ResourceKey

WRITES = ("ResourceApplied", "ResourceDeleted")


class Field(msgspec.Struct, frozen=True):
    """One field and the event that set it. by: its author, or `system` where the control plane computes it."""

    path: str
    value: Any
    event: str
    time: str
    by: str


class Fact(msgspec.Struct, frozen=True):
    """What a zone gave the resource: a VIP or a hostname. cause: the event that made it do so, "" when unknown."""

    zone: str
    what: str
    value: str
    event: str
    time: str
    by: str
    cause: str = ""


class Blame(msgspec.Struct, frozen=True):
    """A resource as it was: `resource` whole, its fields in order, and facts of zones."""

    key: ResourceKey
    version: int
    resource: dict[str, Any]
    fields: tuple[Field, ...]
    facts: tuple[Fact, ...]


def blame(
    history: History, kind: str, mesh: str, name: str, *, zone: str | None = None, at: str | None = None
) -> Blame:
    """Who set what. zone: of origin, "" for global; else global's resource goes first, then the only zone's.

    Raises NoSuchMoment.
    """
    origins = [zone or GLOBAL] if zone is not None else [GLOBAL, *sorted(history.zones)]
    moments = {origin: moment(history, origin, at) for origin in origins}
    wanted = Wanted(
        kinds=frozenset({kind}), meshes=frozenset({mesh}), names=frozenset({name}), changes=frozenset(WRITES)
    )
    found = [(origin, _versions(history.log(origin), moments[origin], wanted)) for origin in origins]
    alive = [(origin, versions) for origin, versions in found if versions]
    if not alive:
        raise NoSuchMoment(_missing(history, moments, wanted, ResourceKey(kind, mesh, name)))
    if alive[0][0] != GLOBAL and len(alive) > 1:
        raise NoSuchMoment(f"{kind} {name} is in several zones; which? one of: {', '.join(one for one, _ in alive)}")
    origin, versions = alive[0]
    key = ResourceKey(kind, mesh, name, "" if origin == GLOBAL else origin)
    return Blame(
        key,
        versions[-1].n,
        shown(msgspec.json.decode(history.log(origin).raw(versions[-1].n))["change"]["resource"]),
        tuple(_field(line) for line in blamed(versions)),
        tuple(_facts(history, key, at)),
    )


def moment(history: History, origin: str, at: str | None) -> int:
    """How much of an origin's log a moment covers. Raises NoSuchMoment."""
    log = history.log(origin)
    if at is None:
        return len(log)
    if origin != GLOBAL:
        return history.position(origin, at).z
    return history.global_position(at)


def _versions(log: PastLog, upto: int, wanted: Wanted) -> Sequence[Event]:
    """The versions of a resource since it was made last; none where there is none."""
    last = _last(log, upto, wanted)
    if last is None or not (created := log.index.created_by[last - 1]):
        return ()
    versions = [log.event(n) for n in log.find(msgspec.structs.replace(wanted, after=created - 1, until=last))]
    return versions if isinstance(versions[-1].change, ResourceApplied) else ()


def _last(log: PastLog, upto: int, wanted: Wanted) -> int | None:
    return next(log.find(msgspec.structs.replace(wanted, until=upto), newest_first=True), None)


def _missing(history: History, moments: dict[str, int], wanted: Wanted, key: ResourceKey) -> str:
    for origin, upto in moments.items():
        log = history.log(origin)
        if (last := _last(log, upto, wanted)) is not None:
            event = log.event(last)
            return f"{path_of(key)} was deleted by event {ref(event)} of {event.actor} at {event.time}"
    return f"there was no {path_of(key)}"


def _field(line: Line) -> Field:
    by = "system" if line.is_computed else line.event.actor
    return Field(line.path, shown(line.value), str(line.event), line.event.time, by)


def _facts(history: History, key: ResourceKey, at: str | None) -> Iterator[Fact]:
    """The VIP and the names that zones gave it."""
    for zone in sorted(history.zones):
        if key.zone not in ("", zone):
            continue
        state = history.log(zone).state(moment(history, zone, at))
        if (lease := state.leases.get(key)) is not None:
            yield _fact(history, zone, "vip", lease.ip, lease.event)
        for hostname, claim in sorted(state.names.get(key, {}).items()):
            yield _fact(history, zone, f"hostname by {claim.generator.name}", hostname, claim.event)


def _fact(history: History, zone: str, what: str, value: str, event: EventRef) -> Fact:
    cause = written_because_of(history, history.log(zone).envelope(event.n))
    return Fact(zone, what, value, str(event), event.time, event.actor, str(cause or ""))
