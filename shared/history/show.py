"""One event whole: what it changed, why it was written, and what was written and served because of it. Pure."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import msgspec

from shared.events.causes import causes, effects
from shared.events.event import GLOBAL, Envelope, Event
from shared.events.history import History
from shared.events.state import Position, ZoneState
from shared.history.between import COMPARER
from shared.history.listing import Row, row
from shared.history.told import Fields, whole_difference

COMPILED_LIMIT = 100_000
"""Pairs of a proxy with listeners of its own and a resource: above it proxies are compared only when asked for."""
NOT_COMPARED = "not compared: that takes long with so many proxies and resources; ask for it by --proxies"
REDIRECT = "redirect"
"""Feature of a proxy that has one listener for all services."""


class Effect(msgspec.Struct, frozen=True):
    """An event that was written because of another, directly (1 step) or not."""

    steps: int
    row: Row


class Shown(msgspec.Struct, frozen=True):
    """fields: the difference to what stood there before. served: per zone, what differs for its proxies, as `zonal
    diff` tells it, or a `note` why that was not worked out.
    """

    row: Row
    fields: Fields
    causes: tuple[Row, ...]
    effects: tuple[Effect, ...]
    served: tuple[dict[str, Any], ...]


def show(history: History, origin: str, n: int, *, everything: bool = False) -> Shown:
    """Event n of an origin. everything: what proxies are served as well, however long that takes to compile.

    Raises NoSuchMoment.
    """
    event = history.event(origin, n)
    envelope = history.log(origin).envelope(n)
    before = history.log(origin).before(n)
    following = list(effects(history, envelope))
    return Shown(
        row(event, before, history.log(origin).raw(n)),
        whole_difference(event, before),
        tuple(_row(history, one) for one in causes(history, envelope)),
        tuple(Effect(steps, _row(history, one)) for steps, one in following),
        tuple(_served(history, event, [one for _, one in following], everything=everything)),
    )


def _row(history: History, one: Envelope) -> Row:
    log = history.log(one.origin)
    return row(log.event(one.n), log.before(one.n), log.raw(one.n))


def _served(history: History, event: Event, following: list[Envelope], *, everything: bool) -> Iterator[dict[str, Any]]:
    """Per zone, what differs between the moment before the event and the one after it and what the zone made of it."""
    for zone, log in sorted(history.zones.items()):
        if event.origin == GLOBAL:
            z = log.before_seen(event.n)
            before = Position(event.n - 1, z)
            made = {one.n for one in following if one.origin == zone and one.seen == event.n}
            while z + 1 in made:
                z += 1
            after = Position(event.n, z)
        elif event.origin == zone:
            before, after = Position(event.seen, event.n - 1), Position(event.seen, event.n)
        else:
            continue
        states = history.states(zone, before, after)
        if not everything and _is_much(states[0]):
            yield {"zone": zone, "before": str(before), "after": str(after), "note": NOT_COMPARED}
            continue
        found = importlib.import_module(COMPARER).states_between(*states)
        if found.groups or found.came or found.left:
            yield found.plain()


def _is_much(state: ZoneState) -> bool:
    listening = sum(status.online and REDIRECT not in status.features for status in state.own.proxies.values())
    return listening * (len(state.hub.resources) + len(state.own.resources)) > COMPILED_LIMIT
