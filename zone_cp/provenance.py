"""Provenance: everything that one resource of a snapshot follows from. Pure.

The compiler names, with each resource, the events that its bytes follow from. Three things it leaves out, since they
would have to be kept with thousands of resources that do not change: what a proxy itself is there because of
(`fleet.situation_of`), that a secret is there because a cluster names it, and that an egress which loads clusters on
demand lists them all in its listener. They are added here. A test proves the whole complete
(tests/xds/test_provenance.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from zone_cp.ads.references import references_of
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ProxyView
from zone_cp.xds.snapshot import CLUSTER, LISTENER, SECRET, Encoded, Snapshot

__all__ = ["causes", "users"]


def causes(snapshot: Snapshot, encoded: Encoded, proxy: ProxyView) -> Sources:
    """The events that a resource follows from, each once, the most particular first."""
    behind = (user.sources for user in users(snapshot, encoded))
    return joined(encoded.sources, *behind, proxy.sources)


def users(snapshot: Snapshot, encoded: Encoded) -> Iterator[Encoded]:
    """Resources that are the reason for another's being there, or for what it says."""
    clusters = snapshot.resources.get(CLUSTER)
    if clusters is None:
        return
    if encoded.type_url == SECRET:
        for one in clusters.values():
            if encoded.name in references_of(one.version, one.body).secrets:
                yield one
    elif encoded.type_url == LISTENER and snapshot.on_demand:
        for name, one in clusters.items():
            if name.startswith(snapshot.on_demand):
                yield one
