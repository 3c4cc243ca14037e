"""What an operator watches of global: how far its own log and every zone's are. Read when it is scraped."""

from __future__ import annotations

from collections.abc import Callable

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
    return registry
