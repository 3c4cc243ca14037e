"""`GET /history/trace/{origin}/{n}`: the way of one change, now or as soon as there is news of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared.api.problem import Problem
from shared.api.reading import current_reader, narrowed
from shared.api.response import Call, json_response, number
from shared.api.shown import event_body
from shared.api.store import ResourceStore
from shared.events.event import GLOBAL, decode_event
from shared.events.history import NoSuchMoment
from shared.events.index import DamagedLog
from shared.events.log import LogUnavailable
from shared.events.progress import Change, Progress, Wanted, ZoneTrace, outstanding, stuck, traced, wanted
from shared.history.plane import PlaneHistory, TooManyQuestions
from shared.history.told import told
from shared.history.trace import with_records
from shared.nats.log import LogFault

WAIT_MAX_MILLISECONDS = 30_000
GATHER_SECONDS = 0.02
"""News that come so close together are looked at once: a thousand ACKs are not a thousand answers."""
ALL = "all"


class Trace(msgspec.Struct, frozen=True, rename="camel"):
    """event: as `GET /events` shows it. missing: a line for each that is missing of what was asked for with `until`.

    about: what the event is about, as `zonal events` says it.
    stuck: none of it comes by waiting. revision: another one when anything else is told.
    """

    origin: str
    n: int
    event: msgspec.Raw
    about: str
    zones: tuple[ZoneTrace, ...]
    missing: tuple[str, ...]
    stuck: bool
    revision: str


class Tracer(Protocol):
    """A plane, as far as it knows how far zones are."""

    @property
    def zones(self) -> Sequence[str]:
        """Those it knows of."""
        ...

    def progress(self, zone: str) -> Progress | None:
        """The newest word of a zone; None when it has never said anything."""
        ...

    async def news(self) -> None:
        """Return when there is a newer word."""
        ...


def trace_routes(
    store: ResourceStore, tracer: Tracer | None, past: PlaneHistory | None = None
) -> list[HTTPRouteHandler]:
    """The route; none where nothing is known of how far zones are. past: for what is not remembered any more."""
    if tracer is None:
        return []

    @get("/history/trace/{origin:str}/{n:int}")
    async def trace(request: Call) -> Response[bytes]:
        wait_seconds = number(request, "waitMs", 0, 0, WAIT_MAX_MILLISECONDS) / 1000
        try:
            asked = wanted(request.query_params.get("until", ALL), _visible(tracer))
        except ValueError as error:
            raise Problem(400, "Bad Request", f"until: {error}") from None
        known = request.query_params.get("known", "")
        origin, n = request.path_params["origin"], int(request.path_params["n"])
        found = await _told(store, tracer, (origin, n), asked, known=known, wait_seconds=wait_seconds)
        return json_response(await _with_past(found, past) if past is not None and not wait_seconds else found)

    return [trace]


async def _told(
    store: ResourceStore, tracer: Tracer, named: tuple[str, int], asked: Wanted, *, known: str, wait_seconds: float
) -> Trace:
    """The trace: at once without waiting, else when all that is asked for has come about, or when it is another than
    the one of revision `known`, or after `wait_seconds`.
    """
    ends = asyncio.get_running_loop().time() + wait_seconds
    event: bytes | None = None
    while True:
        if event is None:
            event = await _event(store, *named)
        found = None if event is None else _traced(tracer, named, event, asked)
        if found is not None and (not wait_seconds or not found.missing or found.stuck or found.revision != known):
            return found
        try:
            async with asyncio.timeout_at(ends):
                await tracer.news()
                await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError:
            if found is None:
                raise Problem(404, "Not found", f"{named[0]} has no event {named[1]} that is known here") from None
            return found


async def _event(store: ResourceStore, origin: str, n: int) -> bytes | None:
    try:
        found, last = await store.events(origin, n - 1, n, 1) if n > 0 else ((), 0)
    except KeyError:
        raise Problem(404, "Not found", f'no log of origin "{origin}" is known here') from None
    return found[0] if found and n <= last else None


def _traced(tracer: Tracer, named: tuple[str, int], event: bytes, asked: Wanted) -> Trace:
    origin, n = named
    read = decode_event(event)
    change = Change.of(origin, n, read.seen)
    chosen = [zone for zone in _visible(tracer) if origin in (GLOBAL, zone)]
    whole = [traced(zone, change, tracer.progress(zone)) for zone in chosen]
    zones = tuple(map(narrowed, whole))
    missing = outstanding(zones, asked)
    shown, about = msgspec.Raw(event_body(event)), told(read, None).about
    return Trace(origin, n, shown, about, zones, missing, stuck(whole, asked), _revision(zones))


async def _with_past(trace: Trace, past: PlaneHistory) -> Trace:
    if all(zone.push is not None or zone.state == "not seen" for zone in trace.zones):
        return trace
    try:
        zones = await past.ask(lambda history: with_records(history, trace.zones, trace.origin, trace.n))
    except (NoSuchMoment, TooManyQuestions, DamagedLog, LogFault, LogUnavailable, OSError):
        return trace  # it is told without
    return msgspec.structs.replace(trace, zones=tuple(map(narrowed, zones)))


def _visible(tracer: Tracer) -> list[str]:
    return [zone for zone in tracer.zones if current_reader().sees_zone(zone)]


def _revision(zones: Sequence[ZoneTrace]) -> str:
    says: list[Any] = [msgspec.structs.replace(zone, said_at="", position=None) for zone in zones]
    return blake2b(msgspec.json.encode(says), digest_size=8).hexdigest()
