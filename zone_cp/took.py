"""Records: what each proxy took, and when, as digests: what proves a replay, on the zone and wherever its log goes.

A record is written of proxies that have come to hold something else than was recorded of them last, together, at most
once in `marks.FLUSH_SECONDS`; those that hold the same stand in one entry. So a change costs what it touches, one line
per kind of proxy and their names, and nothing where nothing came out different. Records stand in a stream of their own,
one message each, which drops the oldest beyond `stream.RECORDS_BYTES`; the zone's outbox brings them to the hub.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.state import Position
from shared.nats.status import StatusStream
from shared.process.writer import event_time
from zone_cp.xds.digest import type_digest
from zone_cp.xds.inspect import short_type
from zone_cp.xds.snapshot import Encoded, Snapshot

RECORD_PROXIES = 5000
"""Named in one message at most."""
DIGESTS_LIMIT = 256
"""Maps of resources whose digests are remembered."""

Incarnations: TypeAlias = tuple[str, str]
"""Of global's log and of the zone's own."""


class Took(msgspec.Struct, frozen=True):
    """Proxies that all hold the same, and had all there was at `position`. digests: by type (`xds.digest`)."""

    incarnations: Incarnations
    position: Position
    digests: dict[str, str]
    proxies: tuple[str, ...]


class Record(msgspec.Struct, frozen=True):
    """One message: what was first seen to be held `at` (RFC 3339)."""

    at: str
    took: tuple[Took, ...]


_Held: TypeAlias = tuple[Incarnations, tuple[tuple[str, str], ...]]


class Records:
    """Belongs to one event loop, and to the `Marks` that tell it and have it written."""

    def __init__(self, stream: StatusStream) -> None:
        self._stream = stream
        self._known: dict[str, _Held] = {}
        self._news: dict[str, tuple[Position, _Held]] = {}
        self._digests: dict[int, tuple[Map[str, Encoded], str]] = {}

    def took(
        self, proxy: str, incarnations: Incarnations, position: Position, snapshot: Snapshot, types: Collection[str]
    ) -> None:
        """The proxy holds all of `snapshot`, of the types that it asks for, which was all there was at `position`."""
        digests = {
            short: self._digest(url, names)
            for url, names in snapshot.resources.items()
            if (short := short_type(url)) in types
        }
        held = (incarnations, tuple(sorted(digests.items())))
        if self._known.get(proxy) == held:
            self._news.pop(proxy, None)
        else:
            self._news[proxy] = (position, held)

    async def flush(self) -> None:
        """Write what is new. Raises LogUnavailable; nothing is forgotten by that."""
        while self._news:
            part = dict(islice(self._news.items(), RECORD_PROXIES))
            at = event_time()
            await self._stream.put("".join(filter(str.isdigit, at)), msgspec.json.encode(Record(at, _alike(part))))
            self._known |= {proxy: held for proxy, (_, held) in part.items()}
            self._news = {proxy: told for proxy, told in self._news.items() if part.get(proxy) is not told}

    def _digest(self, type_url: str, resources: Map[str, Encoded]) -> str:
        # Proxies in equal situation share a map: it is hashed once.
        known = self._digests.get(id(resources))
        if known is None:
            if len(self._digests) >= DIGESTS_LIMIT:
                self._digests.clear()
            known = self._digests[id(resources)] = (resources, type_digest(type_url, resources))
        return known[1]


def _alike(news: Mapping[str, tuple[Position, _Held]]) -> tuple[Took, ...]:
    alike: dict[tuple[Position, _Held], list[str]] = {}
    for proxy, told in news.items():
        alike.setdefault(told, []).append(proxy)
    return tuple(
        Took(incarnations, position, dict(digests), tuple(sorted(proxies)))
        for (position, (incarnations, digests)), proxies in alike.items()
    )


def records_of(message: bytes, proxy: str) -> tuple[str, list[Took]]:
    """When a message of a zone's records was written, and what it says of a proxy; nothing for any other message."""
    if b'"took"' not in message or msgspec.json.encode(proxy) not in message:
        return "", []
    try:
        record = msgspec.json.decode(message, type=Record)
    except msgspec.DecodeError:
        return "", []  # of another version
    return record.at, [one for one in record.took if proxy in one.proxies]
