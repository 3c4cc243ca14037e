"""What a change costs a zone's processor: fold, project and compile for all proxies; and all of it from nothing.

`python -m shared.bench.turns` plays a zone in memory, with the production code and without any network. Processor
time is measured, so that what else the machine does is left out.
"""

from __future__ import annotations

import importlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shared.bench import services
from shared.bench.apart import finish, measure_apart, report
from shared.bench.result import percentile
from shared.events.compose import compose
from shared.events.event import GLOBAL, Change, Event, ProxyConnected, ResourceApplied, ZoneSettingsChanged
from shared.events.fold import fold, fold_all
from shared.events.state import LogState, ZoneState
from shared.model import codec
from shared.model.labels import computed
from shared.model.resource import Resource, key_of
from shared.process.collector import collector_paused, settled

SERVICES, SIDECARS = 10_000, 1_000
CHANGES, WARM_UP, REBUILDS = 200, 20, 3
STEPS = WARM_UP + CHANGES + REBUILDS
ZONE = "east"
_TIME = "2026-01-01T00:00:00.000000Z"


class Figures(msgspec.Struct, frozen=True):
    """Microseconds of processor time of the median change, milliseconds of the fastest rebuild."""

    change_us: float
    rebuild_ms: float


async def measure(step: Callable[[int], None]) -> Figures:
    """Measure in a process of its own. Raises Died."""
    return await measure_apart("shared.bench.turns", Figures, step)


# --- in that process ---------------------------------------------------------------------------------------------


class _Zone:
    """Two logs, folded, and what the zone decides about them."""

    def __init__(self) -> None:
        self.hub, self.own = LogState(GLOBAL), LogState(ZONE)
        self._decide: Any = importlib.import_module("zone_cp.decide").decide
        self._settings = ZoneSettingsChanged(cidr="242.0.0.0/8", quarantine_seconds=600, compiler="bench")
        self.write([self._settings])

    @property
    def state(self) -> ZoneState:
        return ZoneState(ZONE, self.hub, self.own)

    def write(self, changes: Sequence[Change]) -> None:
        self.own = fold_all(self.own, _events(self.own, changes, seen=self.hub.n))

    def follow(self, changes: Sequence[Change]) -> None:
        for event in _events(self.hub, changes):
            self.hub = fold(self.hub, event)
            self.write(self._decide(self.state, event, self._settings))

    def declare(self, turn: int) -> None:
        """All services, in their version of this turn."""
        self.follow([_applied(services.service(number, turn)) for number in range(SERVICES)])

    def connect(self, proxy: str, resource: Resource, features: tuple[str, ...] = ()) -> None:
        connected = ProxyConnected(proxy=proxy, key=key_of(resource, ZONE), connection="1", features=features)
        self.write([_applied(resource, ZONE), connected])


def _events(state: LogState, changes: Sequence[Change], seen: int = 0) -> tuple[Event, ...]:
    ids = [uuid.uuid4().hex for _ in changes]
    return compose(state, changes, ids=ids, time=_TIME, actor="bench", seen=max(seen, state.seen))


def _applied(resource: Resource, zone: str = "") -> ResourceApplied:
    return ResourceApplied(resource=computed(resource, zone))


def _measured() -> Figures:
    fleet: Any = importlib.import_module("zone_cp.xds.fleet")
    secrets = importlib.import_module("zone_cp.replay").RedactedSecrets()
    zone = _Zone()
    zone.follow([_applied(services.MESH), _applied(services.HOSTNAMES)])
    with collector_paused():
        zone.declare(0)
    egress = codec.convert(
        {"type": "ZoneEgress", "name": "egress", "zone": ZONE, "networking": {"address": "127.0.0.1", "port": 10002}},
        Resource,
    )
    zone.connect("egress", egress)
    rebuild = min(_rebuild(zone, turn, fleet, secrets) for turn in range(1, 1 + REBUILDS))
    for number in range(SIDECARS):
        zone.connect(f"default.web-{number}", _sidecar(number), ("redirect",))
    seconds = _changes(zone, fleet, secrets)
    return Figures(change_us=percentile(seconds, 50) * 1e6, rebuild_ms=rebuild * 1e3)


def _sidecar(number: int) -> Resource:
    networking = {
        "address": "127.0.0.1",
        "inbound": [{"port": 8080, "tags": {"kuma.io/service": "web", "kuma.io/protocol": "http"}}],
        "transparentProxying": {"redirectPortOutbound": 15001},
    }
    made: Resource = codec.convert(
        {"type": "Dataplane", "name": f"web-{number}", "mesh": "default", "networking": networking}, Resource
    )
    return made


def _rebuild(zone: _Zone, turn: int, fleet: Any, secrets: Any) -> float:
    """Seconds for the view and the egress's snapshot from nothing; no service is one that was compiled before."""
    with collector_paused():
        zone.declare(turn)
        settled()
        started = time.process_time()
        made = fleet.first_turn(zone.state, secrets)
        spent = time.process_time() - started
    held = made.fleet.snapshot("egress").resources
    if sum(len(resources) for resources in held.values()) < SERVICES:
        raise AssertionError("the egress holds fewer clusters than there are services")
    report(1)
    return spent


def _changes(zone: _Zone, fleet: Any, secrets: Any) -> list[float]:
    """Seconds per change: one service of all, an egress and SIDECARS connected."""
    held = fleet.first_turn(zone.state, secrets).fleet
    settled()
    seconds = []
    for turn in range(WARM_UP + CHANGES):
        changed = services.service(turn * 37 % SERVICES, 1_000 + turn)
        (event,) = _events(zone.hub, [_applied(changed)])
        started = time.process_time()
        zone.hub = fold(zone.hub, event)
        made = fleet.next_turn(held, zone.state, secrets, events=(event,))
        seconds.append(time.process_time() - started)
        held = made.fleet
        if [proxy for proxy, _ in made.offers] != ["egress"]:
            raise AssertionError(f"a change was to concern the egress alone, not {len(made.offers)} proxies")
        report(1)
    return seconds[WARM_UP:]


if __name__ == "__main__":
    finish(_measured())
