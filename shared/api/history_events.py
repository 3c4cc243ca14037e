"""Events of the past over HTTP, told as the commands tell them: `GET /history/events`, `GET /history/events/…`."""

from __future__ import annotations

from datetime import UTC, datetime

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared.api.history import asked_of
from shared.api.problem import Problem
from shared.api.response import Call, json_response, number
from shared.events.moment import time_meant
from shared.history.blame import blame
from shared.history.listing import LIMIT_MAX, Asked, listed
from shared.history.plane import PlaneHistory
from shared.history.show import show
from shared.model import kinds


def event_history_routes(past: PlaneHistory | None) -> list[HTTPRouteHandler]:
    """The routes of a plane with a past; none without one."""
    if past is None:
        return []

    @get("/history/events")
    async def events(request: Call) -> Response[bytes]:
        return json_response(await asked_of(past, lambda history: listed(history, _asked(request, past.origins[0]))))

    @get("/history/blame/{path:path}")
    async def blamed(request: Call) -> Response[bytes]:
        kind, mesh, name = _resource_of(request.path_params["path"])
        zone, at = request.query_params.get("zone"), request.query_params.get("at")
        return json_response(await asked_of(past, lambda history: blame(history, kind, mesh, name, zone=zone, at=at)))

    @get("/history/events/{origin:str}/{n:str}")
    async def event(request: Call) -> Response[bytes]:
        origin, n = event_of(request.path_params)
        everything = request.query_params.get("proxies", "").lower() == "true"
        return json_response(await asked_of(past, lambda history: show(history, origin, n, everything=everything)))

    return [events, event, blamed]


def event_of(parameters: dict[str, str]) -> tuple[str, int]:
    """Origin and number of the event that a path names. Raises Problem."""
    text = parameters["n"]
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Problem(404, "Not found", f"{text!r} is no number of an event")
    return parameters["origin"], int(text)


def _resource_of(path: str) -> tuple[str, str, str]:
    """Kind, mesh and name that a resource's path means. Raises Problem."""
    match path.strip("/").split("/"):
        case ["meshes", mesh, collection, name] if (kind := kinds.by_path(collection)) and kind.mesh_scoped:
            return kind.name, mesh, name
        case [collection, name] if (kind := kinds.by_path(collection)) and not kind.mesh_scoped:
            return kind.name, "", name
        case _:
            raise Problem(404, "Not found", f"{path} is no path of a resource")


def _asked(request: Call, own: str) -> Asked:
    """The question of a query: any number of `origin` (`*`: every one), `kind`, `name`, `mesh`, `actor`; and bounds."""
    query = request.query_params
    now = datetime.now(UTC)
    several = {word: tuple(query.getall(word, [])) for word in ("origin", "kind", "name", "mesh", "actor")}
    origins = several["origin"] or (own,)
    return Asked(
        origins=() if "*" in origins else origins,
        kinds=several["kind"],
        names=several["name"],
        meshes=several["mesh"],
        actors=several["actor"],
        since=time_meant(query["since"], now) if "since" in query else "",
        until=time_meant(query["until"], now) if "until" in query else "",
        after=number(request, "after", 0, 0, 2**53),
        upto=number(request, "upto", 0, 0, 2**53) if "upto" in query else None,
        limit=number(request, "limit", 100, 1, LIMIT_MAX),
    )
