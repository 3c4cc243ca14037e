"""Ahead: what will become of events of global that the zone's copy is still writing down. A value."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from shared.events.event import Event, ResourceApplied, event_hash
from shared.events.state import LogState, ZoneState
from shared.model.resource import MeshExternalService


class Ahead(msgspec.Struct, frozen=True):
    """hub and own: the folds of both logs that it is on top of.

    events: those that lead to `state`, with `decided`, which is what the zone will record of them.
    """

    hub: LogState
    own: LogState
    state: ZoneState
    events: tuple[Event, ...]
    decided: tuple[Event, ...]

    def holds(self, hub: LogState, own: LogState, events: Sequence[Event]) -> bool:
        """Whether it was made of these events on top of these folds."""
        head = event_hash(events[-1]) if events else ""
        return self.hub is hub and self.own is own and self.state.hub.head == head


def only_services(events: Sequence[Event]) -> bool:
    """Whether events declare external services and nothing else: folds alone decide what follows from those."""
    changes = (event.change for event in events)
    return all(isinstance(one, ResourceApplied) and isinstance(one.resource, MeshExternalService) for one in changes)
