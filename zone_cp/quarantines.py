"""Quarantines: what one proxy's Envoy has refused for certain is sent to no other proxy of the zone (decision 28).

A version that was found guilty is recorded. Where the zone knows what the resource was before, that stands in its place
for every proxy; a stream whose client still holds its own last accepted version keeps that one in any case, and never
takes a removal for it. It ends when the proxy that refused it is to have another version, or by `zonal release`: then
it is tried again, once.

What is refused because of the host and not of the resource (an address that is taken there) says nothing about other
proxies, and is not told here (`addresses`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import structlog

from shared.events.event import Change, QuarantineEnded, ResourceQuarantined
from shared.events.state import Position, ZoneState
from zone_cp.ads.facts import Nacked
from zone_cp.ads.hub import Hub
from zone_cp.ads.quarantine import Key, contains, without
from zone_cp.follow import SYSTEM, Decided
from zone_cp.xds.inspect import short_type
from zone_cp.xds.snapshot import Encoded, Snapshot

QUARANTINES_MAX = 1_024
"""Of a zone; what is refused beyond it stays with the stream that heard it."""

log = structlog.get_logger(__name__)


class Guilty(msgspec.Struct, frozen=True):
    """A version that was refused: by whom and why, what stands in its place and the moment it is of (None: nothing)."""

    proxy: str
    reason: str
    good: Encoded | None
    kept: Position | None


class Quarantines:
    """Belongs to one event loop. record: as `Recorder.record`."""

    def __init__(self, hub: Hub, record: Callable[[Decided, str], None]) -> None:
        self._hub = hub
        self._record = record
        self._guilty: dict[Key, Guilty] = {}

    def recall(self, state: ZoneState) -> None:
        """Take up the quarantines of an earlier life; what stood in their place then is with the clients alone."""
        for key, one in state.own.quarantined.items():
            self._guilty[key] = Guilty(one.proxy, one.reason, None, one.kept)
            self._hub.refuse(*key, one.reason)

    def reasons(self) -> Iterator[tuple[str, str, str]]:
        """Type URL, name and reason of each."""
        for (type_url, name, _), one in self._guilty.items():
            yield type_url, name, one.reason

    def refused(self, proxy: str, nack: Nacked, moment_of: Callable[[Key], Position | None]) -> tuple[Key, ...]:
        """Take a NACK in; the versions that are in quarantine from now on.

        moment_of: a moment at which the proxy was given a version, None where none is known.
        """
        found = [(nack.type_url, name, version) for name, version in nack.rejected]
        new = tuple(key for key in found if key not in self._guilty)[: QUARANTINES_MAX - len(self._guilty)]
        for key in new:
            good = self._hub.last_good(proxy, *key[:2])
            kept = None if good is None else moment_of((good.type_url, good.name, good.version))
            self._guilty[key] = Guilty(proxy, nack.message, good, kept)
            self._hub.refuse(*key, nack.message)
            log.warning("resource in quarantine", type=short_type(key[0]), name=key[1], version=key[2], proxy=proxy)
        if new:
            self._record(self._changes, SYSTEM)
        return new

    def known(self) -> tuple[tuple[Key, str], ...]:
        """The versions in quarantine, with the reason of each."""
        return tuple((key, one.reason) for key, one in self._guilty.items())

    def overlaid(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what stands in place of the guilty ones; those without stay, and streams skip them."""
        for key, one in self._guilty.items():
            if one.good is not None:
                snapshot = without(snapshot, key, one.good)
        return snapshot

    def offered(self, proxy: str, snapshot: Snapshot) -> None:
        """What the proxy is to hold now, as it was compiled: a quarantine of its own is over when this is another."""
        over = [key for key, one in self._guilty.items() if one.proxy == proxy and not contains(snapshot, key)]
        if over:
            self._end(over)

    def of(self, proxy: str | None) -> tuple[Key, ...]:
        """The quarantines that this proxy brought about, None for all."""
        return tuple(key for key, one in self._guilty.items() if proxy in (None, one.proxy))

    def release(self, keys: Sequence[Key]) -> None:
        """Let them be tried again; what the log says of it is the caller's affair."""
        for key in keys:
            self._guilty.pop(key, None)
            self._hub.forgive(*key)

    def _end(self, keys: Sequence[Key]) -> None:
        self.release(keys)
        self._record(self._changes, SYSTEM)

    def _changes(self, state: ZoneState) -> Sequence[Change]:
        """What the log does not say yet."""
        changes: list[Change] = []
        for key, one in self._guilty.items():
            if key not in state.own.quarantined:
                g, z = (0, 0) if one.kept is None else (one.kept.g, one.kept.z)
                changes.append(
                    ResourceQuarantined(
                        type_url=key[0],
                        name=key[1],
                        version=key[2],
                        kept_g=g,
                        kept_z=z,
                        proxy=one.proxy,
                        reason=one.reason,
                    )
                )
        over = (key for key in state.own.quarantined if key not in self._guilty)
        ends = (QuarantineEnded(type_url=key[0], name=key[1], version=key[2], by="itself") for key in over)
        return [*changes, *ends]
