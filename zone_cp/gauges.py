"""What an operator watches of a zone: positions, what halted, who is online. Read when it is scraped."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from shared import VERSION
from shared.events.event import GLOBAL
from shared.nats.copy import Copier
from shared.nats.outbox import Outbox
from shared.process.metrics import gauges, new_registry
from zone_cp.ads.server import AdsServer
from zone_cp.follow import ZoneOwner
from zone_cp.guard import Guard


def zone_registry(owner: ZoneOwner, copier: Copier, outbox: Outbox, ads: AdsServer, guard: Guard) -> CollectorRegistry:
    """The registry of a zone control plane."""
    registry = new_registry("zone", VERSION)
    gauges(
        registry,
        "zonal_log_sequence",
        "Last event that the zone holds of a log.",
        [({"log": GLOBAL}, lambda: owner.state.hub.n), ({"log": owner.zone}, lambda: owner.state.own.n)],
    )
    gauges(
        registry,
        "zonal_halted",
        "1 where this halted and waits for an operator; serving goes on.",
        [
            ({"what": "copy"}, lambda: copier.fault is not None),
            ({"what": "outbox"}, lambda: outbox.fault is not None),
            ({"what": "own log"}, lambda: owner.lost > 0 or bool(owner.broken)),
            ({"what": "event"}, lambda: owner.stop is not None),
        ],
    )
    gauges(
        registry,
        "zonal_outbox_sequence",
        "Last event of the zone's own log that the hub holds.",
        [({}, lambda: outbox.delivered)],
    )
    gauges(registry, "zonal_proxies_online", "Proxies with an open ADS stream.", [({}, lambda: len(ads.hub.streams()))])
    gauges(
        registry,
        "zonal_proxies_waiting",
        "Proxies that keep what they have: the next push takes away too much (hold), or the state is older (fence).",
        [({"why": "hold"}, lambda: len(guard.held)), ({"why": "fence"}, lambda: len(guard.fenced))],
    )
    return registry
