"""What Envoys of the zone refuse now of what proxies should have: which version, since when, and whom it concerns."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from shared.events.progress import LISTED, Refused
from shared.events.state import Position
from zone_cp.ads.facts import Acked, Fact, Nacked
from zone_cp.ads.quarantine import Key, contains
from zone_cp.xds.fleet import Fleet
from zone_cp.xds.inspect import short_type
from zone_cp.xds.snapshot import Encoded

REFUSED_MAX = 256
"""Versions that are remembered; the oldest is forgotten for a new one."""


class _Refusal(msgspec.Struct):
    since: Position
    reason: str
    proxies: set[str]


class RefusedVersions:
    """Fed with every answer of every proxy."""

    def __init__(self) -> None:
        """Nothing is refused."""
        self._known: dict[Key, _Refusal] = {}

    def answered(self, proxy: str, fact: Fact) -> None:
        """Take an answer in; what is not certain to be at fault is sent again by itself."""
        match fact:
            case Nacked(rejected=rejected):
                for name, version in rejected:
                    key = (fact.type_url, name, version)
                    if key not in self._known and len(self._known) >= REFUSED_MAX:
                        del self._known[next(iter(self._known))]
                    self._known.setdefault(key, _Refusal(fact.position, fact.message, set())).proxies.add(proxy)
            case Acked(versions=versions):
                for name, version in versions if self._known else ():
                    if (refusal := self._known.get((fact.type_url, name, version))) is not None:
                        refusal.proxies.discard(proxy)

    def left(self, proxy: str) -> None:
        """A proxy that is gone refuses nothing."""
        for refusal in self._known.values():
            refusal.proxies.discard(proxy)

    def concerning(
        self, fleet: Fleet | None, quarantined: Collection[tuple[Key, str]], online: Collection[str]
    ) -> Iterator[Refused]:
        """Those that online proxies of the fleet should have now. quarantined: with the reason of each."""
        apart = dict(quarantined)
        for key in {**self._known, **apart} if fleet is not None else ():
            refusal = self._known.get(key)
            if refusal is not None and not refusal.proxies and key not in apart:
                continue
            proxies, encoded = _holders(fleet, key)
            if key not in apart and refusal is not None:
                proxies &= refusal.proxies
            proxies.intersection_update(online)
            if not proxies or encoded is None:
                continue
            yield Refused(
                type=short_type(key[0]),
                name=key[1],
                reason=refusal.reason if refusal is not None else apart[key],
                since=None if refusal is None else refusal.since,
                events=tuple(str(event) for event in encoded.sources),
                proxies=tuple(sorted(proxies)[:LISTED]),
                count=len(proxies),
                quarantined=key in apart,
            )


def _holders(fleet: Fleet | None, key: Key) -> tuple[set[str], Encoded | None]:
    found: set[str] = set()
    encoded = None
    for group in fleet.groups.values() if fleet is not None else ():
        snapshot = None if group.compiled is None else group.compiled.assembly.snapshot
        if snapshot is not None and contains(snapshot, key):
            found.update(group.members)
            encoded = snapshot.resources[key[0]][key[1]]
    return found, encoded
