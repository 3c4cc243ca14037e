"""Shrink: whether a push would take away so much of what a proxy has that somebody should look at it first. Pure.

Two rules (issue C, line 11). More than a share of the clusters, and more than REMOVED_FEW of them, would go. Or an
endpoint assignment that stays would lose all its endpoints while a proxy behind one of them is online and says of
itself what it said before: endpoints that go because their proxies went, or say that they are not ready, are life. And
a cluster that is closed because something is wrong with its resource (no endpoints, and the reason in its metadata) is
never kept open by this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from typing import Any, TypeAlias

from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from immutables import Map

from zone_cp.view.lineage import UNKNOWN
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, Encoded, Snapshot

REMOVED_FEW = 10
"""So many may always go: somebody who deletes a handful means it."""
OFF_PERCENT = 100
"""The share at which nothing is ever held."""
NOTHING: Map[str, Encoded] = Map()

Address: TypeAlias = tuple[str, int]


def too_much(before: Snapshot, after: Snapshot, share_percent: int, alive: Callable[[], Collection[Address]]) -> str:
    """Why the step from `before` to `after` should wait, "" when it need not. alive: where such proxies listen."""
    if share_percent >= OFF_PERCENT:
        return ""
    old, new = before.resources.get(CLUSTER, NOTHING), after.resources.get(CLUSTER, NOTHING)
    said = ""
    if old is not new:
        changed = after.lineages.get(CLUSTER, UNKNOWN).since(old)
        gone = _gone(old if changed is None else (name for name in changed if name in old), new)
        said = _said(gone, len(old), "clusters", share_percent)
    return said or _emptied(before, after, alive)


def too_many(before: Collection[str], after: Container[str], share_percent: int, what: str) -> str:
    """The first rule for any names: `what` they are. "" when enough of them stay."""
    if share_percent >= OFF_PERCENT or len(before) <= REMOVED_FEW:
        return ""
    return _said(_gone(before, after), len(before), what, share_percent)


def _gone(names: Iterable[str], after: Container[str]) -> int:
    return sum(name not in after for name in names)


def _said(gone: int, count: int, what: str, share_percent: int) -> str:
    if gone <= REMOVED_FEW or gone * 100 <= share_percent * count:
        return ""
    return f"would remove {gone} of {count} {what}"


def _emptied(before: Snapshot, after: Snapshot, alive: Callable[[], Collection[Address]]) -> str:
    old, new = before.resources.get(ENDPOINT, NOTHING), after.resources.get(ENDPOINT, NOTHING)
    if old is new:
        return ""
    changed = after.lineages.get(ENDPOINT, UNKNOWN).since(old)
    for name in sorted(old if changed is None else changed):
        was, now = old.get(name), new.get(name)
        if was is None or now is None or was.version == now.version or addresses(now.body):
            continue
        living = sorted(one for one in addresses(was.body) if one in alive())
        if living:
            listed = ", ".join(f"{host}:{port}" for host, port in living[:3])
            return f"would remove all endpoints of {name} while a proxy is online at {listed}"
    return ""


def addresses(body: bytes) -> frozenset[Address]:
    """Where the endpoints of an assignment are; sockets of a host have no such address."""
    found: set[Address] = set()
    assignment: Any = endpoint.ClusterLoadAssignment.parse(body)
    for locality in assignment.endpoints:
        for one in locality.lb_endpoints:
            place = one.endpoint.address.socket_address if one.endpoint and one.endpoint.address else None
            if place is not None:
                found.add((place.address, place.port_value or 0))
    return frozenset(found)


def of(snapshot: Snapshot) -> Mapping[str, Encoded]:
    """The clusters of a snapshot."""
    return snapshot.resources.get(CLUSTER, NOTHING)
