"""When services close because their CA expires: what makes a view depend on time, kept so that time costs nothing.

Time is that of events. An event that passes no expiry looks at one text; one that does visits the services concerned.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Protocol

import msgspec
from immutables import Map

from shared.events.fault import ca_expiry, moment
from shared.events.fold import drop, put
from shared.events.state import ZoneState
from shared.model.resource import ResourceKey


class MeshServices(Protocol):
    """What is read of a MeshView."""

    @property
    def services(self) -> Container[ResourceKey]:
        """The services that are in the view."""


class Expiries(msgspec.Struct, frozen=True):
    """The expiries that are still to come of services in a view: by service, by time, the first of them ("": none)."""

    of: Map[ResourceKey, str] = Map()
    by_time: Map[str, Map[ResourceKey, None]] = Map()
    first: str = ""

    def due(self, state: ZoneState) -> tuple[ResourceKey, ...]:
        """The services whose expiry has passed at the state's moment."""
        now = moment(state)
        if not self.first or now < self.first:
            return ()
        return tuple(key for time, keys in self.by_time.items() if time <= now for key in keys)

    def following(self, state: ZoneState, keys: Iterable[ResourceKey], meshes: Mapping[str, MeshServices]) -> Expiries:
        """Them after these services may have changed, or their time has passed."""
        now, of, by_time = moment(state), self.of, self.by_time
        for key in keys:
            shown = key.mesh in meshes and key in meshes[key.mesh].services
            before, after = of.get(key, ""), ca_expiry(state, key) if shown else ""
            after = after if after > now else ""
            if before == after:
                continue
            if before:
                of, by_time = of.delete(key), drop(by_time, before, key)
            if after:
                of, by_time = of.set(key, after), put(by_time, after, key, None)
        return self if of is self.of else Expiries(of, by_time, min(by_time, default=""))


NO_EXPIRIES = Expiries()
