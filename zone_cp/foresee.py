"""Foresee: what events that do not exist would lead to in a zone. Pure; the very decisions and compiler that serve it.

The events are composed on top of the logs as if they had been written, the zone decides about each (leases, claims,
quarantines), and what every proxy and every service's conditions would be is compared with what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, count

import msgspec

from shared.events.compose import compose
from shared.events.conditions import Delivery, service_rows
from shared.events.event import GLOBAL, Change, Event, ResourceApplied, ResourceDeleted
from shared.events.fold import fold, fold_all
from shared.events.state import LogState, ZoneState
from shared.history.supposed import Foreseen, Said, ServiceChange
from shared.model import codec
from shared.model.resource import ResourceKey
from zone_cp.between import difference_of, pairs_of
from zone_cp.decide import decide
from zone_cp.replay import RedactedSecrets
from zone_cp.xds.faults import failures
from zone_cp.xds.fleet import Fleet, Turn, turn_between

ACTOR = "system:zone"


class Supposed(msgspec.Struct, frozen=True):
    """The state after events that were supposed; `events` are all of them, of both logs, `decided` what the zone would
    record.
    """

    state: ZoneState
    events: tuple[Event, ...]
    decided: tuple[Change, ...]


def foresee(state: ZoneState, origin: str, changes: Sequence[Change], *, time: str, actor: str) -> Foreseen:
    """What `changes`, written to the log of `origin` at `time`, would lead to in a zone.

    Raises ValueError for a zone that has never run: nothing is known of its settings.
    """
    supposed = suppose(state, origin, changes, time=time, actor=actor)
    old, turn = turn_between(state, supposed.state, RedactedSecrets(), events=supposed.events)
    found = difference_of(state, supposed.state, old, turn.fleet, pairs_of(old, turn.fleet))
    held = [proxy for proxy, hold in supposed.state.own.holds.items() if not hold.released]
    return Foreseen(
        difference=found,
        decisions=tuple(codec.to_plain(change) for change in supposed.decided),
        services=_services(state, supposed.state, old, turn),
        held=tuple(sorted(set(held) & set(found.touched))),
    )


def suppose(state: ZoneState, origin: str, changes: Sequence[Change], *, time: str, actor: str) -> Supposed:
    """The state as it would be; see `foresee`."""
    if state.own.settings is None:
        raise ValueError(f"zone {state.zone} has never run")
    numbers = count(1)

    def composed(log: LogState, what: Sequence[Change], who: str, seen: int, cause: str) -> tuple[Event, ...]:
        ids = [f"supposed-{next(numbers)}" for _ in what]
        return compose(log, what, ids=ids, time=max(time, log.time), actor=who, seen=seen, cause=cause)

    hub, own, decided = state.hub, state.own, list[Change]()
    asked = composed(hub if origin == GLOBAL else own, changes, actor, 0 if origin == GLOBAL else hub.n, "")
    events = list(asked)
    if origin != GLOBAL:
        own = fold_all(own, asked)  # several changes of one write stand side by side, and what follows comes after all
    for event in asked:
        if origin == GLOBAL:
            hub = fold(hub, event)
        elif not isinstance(event.change, ResourceApplied | ResourceDeleted):
            continue
        further = decide(ZoneState(state.zone, hub, own), event, state.own.settings)
        written = composed(own, further, ACTOR, hub.n, event.id)
        own = fold_all(own, written)
        events += written
        decided += further
    return Supposed(ZoneState(state.zone, hub, own), tuple(events), tuple(decided))


def _services(before: ZoneState, after: ZoneState, old: Fleet, turn: Turn) -> tuple[ServiceChange, ...]:
    """Services that would be told of otherwise: their name, their address, whether they are served, and why not."""
    difference = turn.difference
    everything = difference.generators or difference.meshes
    keys = None if everything else {*difference.declared, *chain.from_iterable(difference.services.values())}
    was, now = _told(before, old, keys), _told(after, turn.fleet, keys)
    return tuple(
        ServiceChange(name, was.get(name), now.get(name))
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    )


def _told(state: ZoneState, fleet: Fleet, keys: Iterable[ResourceKey] | None) -> dict[str, Said]:
    refused = {
        key: Delivery(acked=True, refused=failure.message, reason=failure.reason)
        for key, failure in failures(fleet).items()
    }
    rows = service_rows(state.hub, state.own, state.zone, delivery=refused, keys=keys)
    return {
        f"{row.mesh}/{row.name}" + ("" if row.origin == "global" else f"@{state.zone}"): Said(
            row.vip, row.hostnames, {one.type: _sentence(one.status, one.reason, one.message) for one in row.conditions}
        )
        for row in rows
    }


def _sentence(status: str, reason: str, message: str) -> str:
    if status == "True":
        return status
    return f"{status} {reason}: {message}" if message else f"{status} {reason}"
