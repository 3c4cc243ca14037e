"""What agents' service probes say, on its way into the zone's log: the state of inbounds (Kuma's HDS does the same).

Only the newest word of an agent counts, so at most one entry a proxy waits to be recorded, however fast it talks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

import msgspec

from shared.events.event import Change, Event, ResourceApplied
from shared.events.state import ZoneState
from shared.model.inbound import Inbound, is_probed
from shared.model.resource import Dataplane
from shared.pb.agent_pb2 import ProbedInbounds
from zone_cp.follow import SYSTEM, Decided

SERVICE_PROBES = "service-probes"
"""Feature of a proxy whose agent probes."""

Place: TypeAlias = tuple[str, int]
"""Address, "" where the inbound has none of its own, and port of an inbound."""


def probed(resource: Dataplane, ready: Mapping[Place, bool]) -> Dataplane:
    """The Dataplane with its probed inbounds as the probes say; one that they say nothing of stays as it is."""
    inbounds = tuple(
        msgspec.structs.replace(one, state=_state(ready=ready[place]))
        if is_probed(one) and (place := _place(one)) in ready
        else one
        for one in resource.networking.inbound
    )
    if inbounds == resource.networking.inbound:
        return resource
    return msgspec.structs.replace(resource, networking=msgspec.structs.replace(resource.networking, inbound=inbounds))


def as_probed_before(resource: Dataplane, stored: Dataplane | None) -> Dataplane:
    """A Dataplane as it connects: nobody has probed it yet, unless it is here already and its probes have spoken."""
    before = {} if stored is None else {_place(one): one for one in stored.networking.inbound if is_probed(one)}
    ready: dict[Place, bool] = {}
    for one in filter(is_probed, resource.networking.inbound):
        known = before.get(_place(one))
        same = known is not None and msgspec.structs.replace(known, state=one.state) == one
        ready[_place(one)] = same and known is not None and known.ready
    return probed(resource, ready)


class Probes:
    """The newest word of every attached agent that probes. `record` decides and records, as `Recorder.record`."""

    def __init__(self, record: Callable[[Decided, str], None]) -> None:
        self._record = record
        self._said: dict[str, Mapping[Place, bool]] = {}
        self._waiting: set[str] = set()

    def told(self, proxy: str, said: ProbedInbounds | None) -> None:
        """An agent says what it found out; None: it is gone, and what it said stays until it is back."""
        if said is None:
            self._said.pop(proxy, None)
            return
        self._said[proxy] = {(one.address, one.port): one.ready for one in said.inbounds}
        self._ask(proxy)

    def moved(self, events: Sequence[Event] | None) -> None:
        """The zone's state moved: a Dataplane that was declared anew does not know yet what its probes say."""
        if not self._said:
            return
        for proxy in self._said if events is None else _declared(events):
            if proxy in self._said:
                self._ask(proxy)

    def _ask(self, proxy: str) -> None:
        if proxy not in self._waiting:
            self._waiting.add(proxy)
            self._record(partial(self._decided, proxy), SYSTEM)

    def _decided(self, proxy: str, state: ZoneState) -> Sequence[Change]:
        self._waiting.discard(proxy)
        status = state.own.proxies.get(proxy)
        stored = state.own.resources.get(status.key) if status is not None else None
        if stored is None or not isinstance(stored.resource, Dataplane):
            return ()
        resource = probed(stored.resource, self._said.get(proxy, {}))
        return () if resource == stored.resource else (ResourceApplied(resource=resource),)


def _declared(events: Iterable[Event]) -> Iterable[str]:
    for event in events:
        change = event.change
        if isinstance(change, ResourceApplied) and isinstance(change.resource, Dataplane):
            yield f"{change.resource.mesh}.{change.resource.name}"


def _place(inbound: Inbound) -> Place:
    return inbound.address or "", inbound.port


def _state(*, ready: bool) -> Literal["Ready", "NotReady"]:
    return "Ready" if ready else "NotReady"
