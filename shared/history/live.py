"""The past of a running system, as its API gives it to whoever may read the present: without secrets.

What was read is kept below the user's own caches, so that the next time only what is new is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.history.cache import HistoryCache, OriginCache, history_of, user_cache
from shared.history.progress import Progress, unwatched


class Api(Protocol):
    """What is needed of a client (`shared.commands.client.Client`)."""

    @property
    def api(self) -> str:
        """Its address."""
        ...

    def get(self, path: str, **query: Any) -> object:
        """A decoded answer."""
        ...

    def pieces(self, path: str, *, origin: str, after: int, until: int) -> Iterator[bytes]:
        """The bytes of a long answer."""
        ...


class Known(msgspec.Struct, frozen=True):
    """One log as the API tells it: its last event and that event's hash."""

    origin: str
    events: int
    head: str


class _Answer(msgspec.Struct, frozen=True):
    items: list[Known]
    limits: str = ""


class _Deliveries(msgspec.Struct, frozen=True):
    zones: dict[str, list[Any]]


class BrokeOff(Exception):
    """The system did not give what it said it has."""


def open_live(api: Api, progress: Progress = unwatched, *, cache: Path | None = None) -> History:
    """The history of every origin that the API of a running plane knows. Raises what `api` raises, BrokeOff, OSError,
    DamagedLog.
    """
    answer = msgspec.convert(api.get("/history/origins"), _Answer)
    origins = answer.items
    # Whoever may see less is given other lines.
    with HistoryCache(cache or user_cache(f"api {api.api} {answer.limits}".rstrip())) as kept:
        kept.keep_only(known.origin for known in origins)
        for known in origins:
            _read(api, known, kept.origin(known.origin), progress)
        zones = [known.origin for known in origins if known.origin != GLOBAL]
        return history_of(kept.pasts(), _Recorded(api, zones))


class _Recorded(Mapping[str, Sequence[bytes]]):
    """What zones recorded of their proxies, asked for when somebody looks at a zone's."""

    def __init__(self, api: Api, zones: Sequence[str]) -> None:
        self._api, self._zones = api, zones
        self._known: dict[str, Sequence[bytes]] = {}

    def __getitem__(self, zone: str) -> Sequence[bytes]:
        if zone not in self._zones:
            raise KeyError(zone)
        if zone not in self._known:
            told = msgspec.convert(self._api.get("/history/deliveries", zone=zone), _Deliveries).zones
            self._known[zone] = [msgspec.json.encode(message) for message in told.get(zone, ())]
        return self._known[zone]

    def __iter__(self) -> Iterator[str]:
        return iter(self._zones)

    def __len__(self) -> int:
        return len(self._zones)


def _read(api: Api, known: Known, cache: OriginCache, progress: Progress) -> None:
    n = len(cache.index)
    # The API leaves secrets out of events, not out of the chain: the hashes of headers are what can be compared.
    n = len(cache.index)
    same = cache.past.head(n) == known.head if n == known.events else not n or _continues(api, known, cache)
    if not same:
        cache.forget()
    done = len(cache.index)
    with cache.growing() as extend:
        for lines in _lines(api.pieces("/history/log", origin=known.origin, after=done, until=known.events)):
            extend(lines)
            done += len(lines)
            progress(f"read {known.origin}", done, known.events)
    if done != known.events:
        raise BrokeOff(f"{api.api} gave {done} events of {known.origin}, not {known.events}")


def _continues(api: Api, known: Known, cache: OriginCache) -> bool:
    n = len(cache.index)
    if n > known.events:
        return False
    given = b"".join(api.pieces("/history/log", origin=known.origin, after=n - 1, until=n))
    return given == cache.past.raw(n) + b"\n"


def _lines(pieces: Iterator[bytes]) -> Iterator[Sequence[bytes]]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield lines
