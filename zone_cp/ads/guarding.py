"""Guarding: in which order a client is told of services and of the filters that say who may use them. Pure.

At a zone egress a client's server name leads to a service, and a filter that is discovered by itself (ECDS) says who
may go there; what it does not name is open. So a client must not hold a service without the filter that guards it:

    services that go ──▶ filters ──▶ services that come or change

A filter waits for no cluster to warm up: who loses access loses it now.
"""

from __future__ import annotations

from immutables import Map

from shared.naming.sni import CLUSTER_PREFIX
from zone_cp.ads.subscription import Subscription
from zone_cp.view.lineage import UNKNOWN
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, Encoded, Snapshot

_NOTHING: Map[str, Encoded] = Map()
_SERVICES = f"{CLUSTER_PREFIX}/"


def is_service(cluster: str) -> bool:
    """Whether it is a cluster of an external service."""
    return cluster.startswith(_SERVICES)


def is_told(filters: Subscription, target: Snapshot) -> bool:
    """Whether nothing of the filters is left to be said."""
    return filters.is_told(target.resources.get(EXTENSION_CONFIG, _NOTHING))


def may_ask(filters: Subscription, clusters: Subscription, listeners: Subscription, target: Snapshot) -> bool:
    """Whether the client serves already, on a new stream, and has not come to ask for its filters."""
    if filters.asked or not clusters.resumed or not target.resources.get(EXTENSION_CONFIG):
        return False
    return not listeners.asked or listeners.resumed


def unguarded(clusters: Subscription, target: Snapshot) -> tuple[str, ...]:
    """Services that the client holds and that the target's filters may know nothing of. Nothing refers to them but the
    server names of clients, so that they can go at any time.
    """
    gone = clusters.lost(target.resources.get(CLUSTER, _NOTHING), target.lineages.get(CLUSTER, UNKNOWN))
    return tuple(name for name in gone if is_service(name))
