"""`GET /halted`: what stands still in a plane, and `POST /skip`: let it pass over an event that cannot be read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from shared.api import auth
from shared.api.body import read
from shared.api.problem import Problem
from shared.api.reading import current_reader
from shared.api.response import Call, json_response
from shared.api.trace import Tracer
from shared.events.event import Event
from shared.events.progress import Progress
from shared.events.stop import HaltedPart, NotSkipped, Stop, halted_parts

REASON_MAX = 1024
"""Characters of a reason for passing over an event."""
WITHHELD = "this is of all meshes and zones, the token is not"


HEADER = "Zonal-Halted"
"""On every answer of a plane that stands before events: which. What it shows of their logs is of before them."""


class Reads(Protocol):
    """A plane, as far as it follows logs."""

    @property
    def stops(self) -> Sequence[Stop]:
        """The events that it cannot read and stops before."""
        ...

    @property
    def faults(self) -> Mapping[str, str]:
        """What else stands still, by name, and why."""
        ...

    async def skip(self, origin: str, n: int, reason: str, actor: str) -> Sequence[Event]:
        """Record that an event is passed over, and go on; the events that say so. Raises NotSkipped, LogUnavailable."""
        ...


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """origin and n of the event; reason: why nothing is missed without it."""

    origin: str
    n: int
    reason: str


def halted_routes(plane: Reads | None, mend: str, zones: Tracer | None = None) -> list[HTTPRouteHandler]:
    """The routes; mend: what makes a fault go on. zones: what zones say of themselves, on global."""
    if plane is None:
        return []

    @get("/halted")
    async def halted() -> Response[bytes]:
        items = _shown(halted_parts(plane.stops, plane.faults, mend))
        told = {zone: _shown(said.halted) for zone, said in _said(zones) if said.halted}
        return json_response({"items": items, "total": len(items), "zones": told})

    @post("/skip", status_code=200)
    async def skip(request: Call) -> Response[bytes]:
        asked = _read(await request.body())
        try:
            events = await plane.skip(asked.origin, asked.n, asked.reason, auth.actor(request))
        except NotSkipped as refusal:
            raise Problem(409, "Nothing to pass over", str(refusal)) from None
        recorded = [{"origin": event.origin, "n": event.n, "id": event.id} for event in events]
        return json_response({"recorded": recorded, "halted": halted_parts(plane.stops, plane.faults, mend)})

    return [halted, skip]


def _said(zones: Tracer | None) -> Iterator[tuple[str, Progress]]:
    """What every zone that whoever asks may see said last."""
    if zones is None:
        return
    for zone in zones.zones:
        if current_reader().sees_zone(zone) and (said := zones.progress(zone)) is not None:
            yield zone, said


def _shown(parts: Iterable[HaltedPart]) -> list[HaltedPart]:
    if not current_reader().is_limited:
        return list(parts)
    return [msgspec.structs.replace(part, reason=WITHHELD) for part in parts]


def standing(plane: Reads | None) -> list[str]:
    """The events that a plane stands before, by their places alone, which everybody may know."""
    return [stop.event for stop in plane.stops] if plane is not None else []


def marked(plane: Reads | None) -> Callable[[Response[bytes]], Awaitable[Response[bytes]]]:
    """Puts HEADER on the answers of a plane that stands before events."""

    async def mark(response: Response[bytes]) -> Response[bytes]:
        if events := standing(plane):
            response.headers[HEADER] = ", ".join(events)
        return response

    return mark


def _read(body: bytes) -> _Body:
    shape = '{"origin": "global" or a zone, "n": number, "reason": why}'
    asked = read(body, _Body, "Bad Request", f"the body must be {shape}")
    if not asked.reason.strip() or len(asked.reason) > REASON_MAX:
        raise Problem(
            400,
            "Bad Request",
            "the reason stays in the log",
            [{"field": "reason", "reason": f"must have 1 to {REASON_MAX} characters"}],
        )
    return asked
