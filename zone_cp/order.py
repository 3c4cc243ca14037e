"""PushOrder: which proxies are told first of a change that concerns zone egresses and sidecars (xds.md §3).

What comes goes to the egresses first: a sidecar is told of a listener or route only once every online egress has
answered for the moment that brought what is behind it. What goes, goes from the sidecars first: an egress keeps the
cluster of a service that is gone for a while (`grace.py`). Within one proxy the order is the stream's own
(`ads/staging.py`), and hostnames have a gate of their own (decision 27).

An egress that refuses has answered, one that goes offline is waited for no longer, and one that says nothing holds a
sidecar up for EGRESS_FIRST_SECONDS at most. Sans-IO: the caller says what time it is, and calls `tick` when `due`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.state import Position
from zone_cp.grace import NOTHING_KNOWN, Between, Grace
from zone_cp.xds import defaults
from zone_cp.xds.snapshot import CLUSTER, LISTENER, ROUTE, Encoded, Snapshot, differing

EGRESS_FIRST_SECONDS = 5.0
"""How long a sidecar waits for an egress that is online and does not answer."""
HELD_LIMIT = 2
"""Snapshots that wait for one sidecar: the oldest, so that it gets on while changes come, and the newest."""

Offer: TypeAlias = tuple[str, Snapshot]
"""A proxy and what it is to be told."""

_NOTHING: Map[str, Encoded] = Map()


class _Held(msgspec.Struct):
    position: Position
    snapshot: Snapshot
    waiting: set[str]
    until: float


class PushOrder:
    """`want`, `acked` and `tick` return what to offer now."""

    def __init__(self) -> None:
        """Nobody has been told anything."""
        self._online: set[str] = set()
        self._told: dict[str, Snapshot] = {}
        self._held: dict[str, deque[_Held]] = {}
        self._grace = Grace()

    def want(
        self,
        now: float,
        position: Position,
        offers: Iterable[Offer],
        egresses: Collection[str],
        what: Between = NOTHING_KNOWN,
    ) -> tuple[list[Offer], list[str]]:
        """What proxies should hold since `position`: what to offer of it now, and who has to wait."""
        online, out, later = set(egresses), [], []
        came, self._online = online - self._online, online
        for queue in self._held.values():
            for held in queue:
                held.waiting = (held.waiting & online) | came
        keeping = dict.fromkeys(self._grace.turn(what))
        for proxy, snapshot in offers:
            if proxy in online:
                self._grace.follow(now, position, proxy, self._told.get(proxy), snapshot, what)
                self._told[proxy] = snapshot
                keeping.pop(proxy, None)
                out.append((proxy, self._grace.with_kept(proxy, snapshot)))
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
        out += self._kept(keeping)
        return [*self._released(now), *out], later

    def acked(self, now: float, egress: str, position: Position) -> list[Offer]:
        """An egress has answered for everything up to `position`."""
        for queue in self._held.values():
            for held in queue:
                if held.position.g <= position.g and held.position.z <= position.z:
                    held.waiting.discard(egress)
        return [*self._released(now), *self._kept(self._grace.acked(egress, position))]

    def tick(self, now: float) -> list[Offer]:
        """Time has passed."""
        return [*self._released(now), *self._kept(self._grace.over(now))]

    def due(self) -> float | None:
        """When `tick` has something to do; None: not before something else happens."""
        kept = self._grace.due()
        held = (queue[0].until for queue in self._held.values())
        return min((*held, *(() if kept is None else (kept,))), default=None)

    def told(self, proxy: str) -> Snapshot | None:
        """What a proxy was told last, without what it keeps for a while."""
        return self._told.get(proxy)

    def holds(self, proxy: str) -> bool:
        """Whether something newer than what a proxy was told waits for it."""
        return proxy in self._held

    def left(self, proxy: str) -> None:
        """A proxy is offline, or not known any more."""
        for known in (self._told, self._held):
            known.pop(proxy, None)
        self._grace.left(proxy)

    def _kept(self, egresses: Iterable[str]) -> list[Offer]:
        return [(one, self._grace.with_kept(one, self._told[one])) for one in egresses if one in self._told]

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


def _added(before: Snapshot, after: Snapshot, type_url: str) -> bool:
    new = after.resources.get(type_url, _NOTHING)
    return any(name in new for name in differing(before, after, type_url))
