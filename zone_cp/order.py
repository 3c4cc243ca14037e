"""PushOrder: which proxies are told first of a change that concerns zone egresses and sidecars (xds.md §3).

What comes goes to the egresses first: a sidecar is told of a listener or route only once every online egress has
answered for the moment that brought what is behind it. What goes, goes from the sidecars first: an egress keeps the
cluster of a service that is gone for a while, since clients may know its address for as long as DNS lets them. Within
one proxy the order is the stream's own (`ads/staging.py`), and hostnames have a gate of their own (decision 27).

An egress that refuses has answered, one that goes offline is waited for no longer, and one that says nothing holds a
sidecar up for EGRESS_FIRST_SECONDS at most. Sans-IO: the caller says what time it is, and calls `tick` when `due`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.state import Position
from shared.naming.sni import CLUSTER_PREFIX
from zone_cp.ads.references import references_of
from zone_cp.view.lineage import UNKNOWN
from zone_cp.xds import defaults
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, LISTENER, ROUTE, SECRET, Encoded, Snapshot, following

EGRESS_FIRST_SECONDS = 5.0
"""How long a sidecar waits for an egress that is online and does not answer."""
GRACE_SECONDS = 10.0
"""How long an egress keeps the cluster of a service that is gone: twice the time that a name may be remembered."""
HELD_LIMIT = 2
"""Snapshots that wait for one sidecar: the oldest, so that it gets on while changes come, and the newest."""
KEPT_LIMIT = 1024
"""Clusters that one egress keeps beyond their time; those that went first are dropped first."""

Offer: TypeAlias = tuple[str, Snapshot]
"""A proxy and what it is to be told."""

_NOTHING: Map[str, Encoded] = Map()


class _Held(msgspec.Struct):
    position: Position
    snapshot: Snapshot
    waiting: set[str]
    until: float


class _Kept(msgspec.Struct, frozen=True):
    cluster: Encoded
    secrets: tuple[Encoded, ...]
    until: float


class PushOrder:
    """`want`, `acked` and `tick` return what to offer now."""

    def __init__(self) -> None:
        """Nobody has been told anything."""
        self._online: set[str] = set()
        self._told: dict[str, Snapshot] = {}
        self._held: dict[str, deque[_Held]] = {}
        self._kept: dict[str, dict[str, _Kept]] = {}

    def want(
        self, now: float, position: Position, offers: Iterable[Offer], egresses: Collection[str]
    ) -> tuple[list[Offer], list[str]]:
        """What proxies should hold since `position`: what to offer of it now, and who has to wait."""
        online, out, later = set(egresses), [], []
        came, self._online = online - self._online, online
        for queue in self._held.values():
            for held in queue:
                held.waiting = (held.waiting & online) | came
        for proxy, snapshot in offers:
            if proxy in online:
                out.append((proxy, self._egress(now, proxy, snapshot)))
            elif self._may_know(proxy, snapshot, online):
                self._held.pop(proxy, None)
                self._told[proxy] = snapshot
                out.append((proxy, snapshot))
            else:
                queue = self._held.setdefault(proxy, deque())
                if len(queue) == HELD_LIMIT:
                    queue.pop()
                queue.append(_Held(position, snapshot, set(online), now + EGRESS_FIRST_SECONDS))
                later.append(proxy)
        return [*self._released(now), *out], later

    def acked(self, now: float, egress: str, position: Position) -> list[Offer]:
        """An egress has answered for everything up to `position`."""
        for queue in self._held.values():
            for held in queue:
                if held.position.g <= position.g and held.position.z <= position.z:
                    held.waiting.discard(egress)
        return self._released(now)

    def tick(self, now: float) -> list[Offer]:
        """Time has passed."""
        out = self._released(now)
        for egress, kept in self._kept.items():
            ended = [name for name, one in kept.items() if one.until <= now]
            for name in ended:
                del kept[name]
            if ended and egress in self._told:
                out.append((egress, self._with_kept(egress)))
        return out

    def due(self) -> float | None:
        """When `tick` has something to do; None: not before something else happens."""
        held = (queue[0].until for queue in self._held.values())
        kept = (one.until for kept in self._kept.values() for one in kept.values())
        return min((*held, *kept), default=None)

    def holds(self, proxy: str) -> bool:
        """Whether something newer than what a proxy was told waits for it."""
        return proxy in self._held

    def left(self, proxy: str) -> None:
        """A proxy is offline, or not known any more."""
        for known in (self._told, self._held, self._kept):
            known.pop(proxy, None)

    # --- what comes ---------------------------------------------------------------------------------------------

    def _may_know(self, proxy: str, snapshot: Snapshot, online: set[str]) -> bool:
        told = self._told.get(proxy)
        if told is None or not online or defaults.EGRESS_HTTP not in snapshot.resources.get(CLUSTER, _NOTHING):
            return True  # it begins now; nobody could answer; it does not use egresses
        return not any(_added(told, snapshot, type_url) for type_url in (LISTENER, ROUTE))

    def _released(self, now: float) -> list[Offer]:
        out = []
        for proxy, queue in list(self._held.items()):
            while queue and (not queue[0].waiting or queue[0].until <= now):
                self._told[proxy] = queue.popleft().snapshot
                out.append(proxy)
            if not queue:
                del self._held[proxy]
        return [(proxy, self._told[proxy]) for proxy in dict.fromkeys(out)]

    # --- what goes ----------------------------------------------------------------------------------------------

    def _egress(self, now: float, proxy: str, snapshot: Snapshot) -> Snapshot:
        before, self._told[proxy] = self._told.get(proxy), snapshot
        kept, clusters = self._kept.setdefault(proxy, {}), snapshot.resources.get(CLUSTER, _NOTHING)
        if before is None or snapshot.on_demand or _differing(before, snapshot, EXTENSION_CONFIG):
            # The trees of who may use what know no service that is gone: nothing is kept beyond its guard.
            kept.clear()
        else:
            for cluster in _gone(before, snapshot):
                secrets = before.resources.get(SECRET, _NOTHING)
                named = references_of(cluster.version, cluster.body).secrets
                mine = tuple(secrets[name] for name in named if name in secrets)
                kept[cluster.name] = _Kept(cluster, mine, now + GRACE_SECONDS)
        for name in [one for one in kept if one in clusters]:
            del kept[name]
        while len(kept) > KEPT_LIMIT:
            del kept[next(iter(kept))]
        return self._with_kept(proxy)

    def _with_kept(self, egress: str) -> Snapshot:
        snapshot, kept = self._told[egress], self._kept.get(egress, {})
        known = snapshot.resources.get(SECRET, _NOTHING)
        secrets = {one.name: one for item in kept.values() for one in item.secrets if one.name not in known}
        clusters = {name: item.cluster for name, item in kept.items()}
        return following(snapshot, snapshot.position, {SECRET: secrets, CLUSTER: clusters})


def _gone(before: Snapshot, after: Snapshot) -> Iterator[Encoded]:
    old, new = (one.resources.get(CLUSTER, _NOTHING) for one in (before, after))
    for name in _differing(before, after, CLUSTER):
        if name in old and name not in new and name.startswith(f"{CLUSTER_PREFIX}/"):
            yield old[name]


def _added(before: Snapshot, after: Snapshot, type_url: str) -> bool:
    new = after.resources.get(type_url, _NOTHING)
    return any(name in new for name in _differing(before, after, type_url))


def _differing(before: Snapshot, after: Snapshot, type_url: str) -> list[str]:
    """Names of one type of which the two snapshots do not hold the same."""
    old, new = (one.resources.get(type_url, _NOTHING) for one in (before, after))
    if old is new:
        return []
    names = after.lineages.get(type_url, UNKNOWN).since(old)
    names = {*old, *new} if names is None else names
    return [name for name in names if _version(old, name) != _version(new, name)]


def _version(held: Map[str, Encoded], name: str) -> str:
    return held[name].version if name in held else ""
