"""Lingering: what an Envoy may still use after it was told of other listeners. Pure; the caller keeps the time.

A listener or filter chain that is replaced or removed does not end at the ACK. A worker may have accepted a connection
just before, and kept-alive ones are told to go with their next answer; both go by the old routes to the old clusters
until `--drain-time-s` is over (design/xds.md §3.8). What goes away together with a change of listeners is therefore
removed later than that. A request without its cluster would be a 503 that nobody caused.

Services of a zone egress are left out: no listener refers to them, clients' server names do, and they have a grace of
their own, in which they are guarded (`zone_cp/grace.py`, `guarding`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zone_cp.ads.guarding import is_service
from zone_cp.ads.subscription import Subscription
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, LISTENER

LINGER_SECONDS = 10.0
"""Twice what the agent's Envoys drain for (`agent/envoy.py`)."""


class Lingering:
    """Of one stream. `newest` is the mark of what began to linger last, 0 before."""

    __slots__ = ("_drained", "_names", "_through", "newest")

    def __init__(self) -> None:
        """No listener was replaced yet."""
        self._names: dict[tuple[str, str], int] = {}
        self._drained = 0
        self._through = 0
        self.newest = 0

    def sent(self, serial: int) -> None:
        """The responses up to `serial` replace or remove listeners that the client holds."""
        self._drained = serial

    def begin(self, through: int, subscriptions: Iterable[Subscription]) -> None:
        """All responses up to `through` are answered: what is gone lingers from now on, if listeners were replaced."""
        drains = self._drained > self._through
        self._through = max(through, self._through)
        if not drains:
            return
        gone = list(_gone(list(subscriptions)))
        if gone:
            self.newest += 1
            self._names.update(dict.fromkeys(gone, self.newest))

    def over(self, mark: int) -> None:
        """LINGER_SECONDS have passed since `newest` was `mark`."""
        self._names = {name: began for name, began in self._names.items() if began > mark}

    def left_of(self, type_url: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of these names that do not linger."""
        return tuple(name for name in names if (type_url, name) not in self._names) if self._names else names


def _gone(subscriptions: list[Subscription]) -> Iterator[tuple[str, str]]:
    guarded = any(one.type_url == EXTENSION_CONFIG and one.asked for one in subscriptions)
    for one in subscriptions:
        if one.type_url == LISTENER:
            continue
        for name in one.gone:
            if not (guarded and one.type_url == CLUSTER and is_service(name)):
                yield one.type_url, name
