"""What an operator watches of global: how far its own log and every zone's are. Read when it is scraped."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry

from global_cp.follow import GlobalOwner
from shared import VERSION
from shared.events.event import GLOBAL
from shared.process.metrics import gauges, new_registry


def global_registry(owner: GlobalOwner) -> CollectorRegistry:
    """The registry of the global control plane."""
    registry = new_registry("global", VERSION)

    def position(zone: str) -> Callable[[], float]:
        return lambda: owner.state.zones[zone].n

    zones = [({"log": zone}, position(zone)) for zone in sorted(owner.state.zones)]
    about = "Last event that global holds of a log."
    gauges(registry, "zonal_log_sequence", about, [({"log": GLOBAL}, lambda: owner.state.hub.n), *zones])
    stopped = [
        ({"what": f"event of {log}"}, partial(_stops, owner, log)) for log in (GLOBAL, *sorted(owner.state.zones))
    ]
    halted = [
        ({"what": f"log of {log}"}, partial(_is_faulty, owner, log)) for log in (GLOBAL, *sorted(owner.state.zones))
    ]
    about = "1 where this stands still and waits for an operator: zonal halted says why."
    gauges(registry, "zonal_halted", about, [*stopped, *halted])
    return registry


def _stops(owner: GlobalOwner, log: str) -> bool:
    return any(stop.origin == log for stop in owner.stops)


def _is_faulty(owner: GlobalOwner, zone: str) -> bool:
    return zone in owner.faults
