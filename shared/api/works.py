"""Long work about the past: `POST /history/tasks` orders it, `GET` watches it, `DELETE` cancels it. For administrators.

What takes minutes (verify logs of any length, bisect with Envoys, make a hub's store anew) is done by a process of its
own (`shared.history.works`). Commands of the caller are never run.
"""

from __future__ import annotations

from typing import Any

from litestar import Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import File

from shared.api import auth
from shared.api.body import read
from shared.api.problem import Problem
from shared.api.response import Call, json_response, number
from shared.history.order import Order, Repair
from shared.history.plane import PlaneHistory
from shared.history.works import Busy, Told, Works
from shared.keys.tokens import ADMIN

CANNOT = "Could not order this"
WAIT_MILLISECONDS_MAX = 30_000
AT_A_ZONE = (
    "a hub's store is made anew of what a zone holds: ask the control plane of a zone, or run `zonal repair` on stores"
)


def work_routes(past: PlaneHistory | None, works: Works | None) -> list[HTTPRouteHandler]:
    """The routes of a plane that has work done; none without one."""
    if past is None or works is None:
        return []

    def let_in(request: Call) -> None:
        if ADMIN not in auth.principal(request).roles or past.reader().is_limited:
            raise Problem(403, "Access Denied", f"tasks need the role {ADMIN} and sight of everything")

    @post("/history/tasks", status_code=202)
    async def order(request: Call) -> Response[bytes]:
        let_in(request)
        wanted: Any = read(await request.body(), Order, CANNOT, "the body is no task")  # type: ignore[arg-type]
        if isinstance(wanted, Repair) and not works.zone:
            raise Problem(409, CANNOT, AT_A_ZONE)
        try:
            told = works.start(wanted, auth.actor(request))
        except Busy as busy:
            raise Problem(409, CANNOT, str(busy), headers={"Retry-After": "30"}) from None
        return json_response(told, status=202, headers={"Location": f"/history/tasks/{told.id}"})

    @get("/history/tasks")
    async def tasks(request: Call) -> Response[bytes]:
        let_in(request)
        return json_response({"items": works.all()})

    @get("/history/tasks/{task:str}")
    async def task(request: Call) -> Response[bytes]:
        let_in(request)
        seconds = number(request, "waitMs", 0, 0, WAIT_MILLISECONDS_MAX) / 1e3
        return json_response(_known(await works.ended(request.path_params["task"], seconds)))

    @delete("/history/tasks/{task:str}", status_code=200)
    async def cancelled(request: Call) -> Response[bytes]:
        let_in(request)
        return json_response(_known(await works.cancel(request.path_params["task"])))

    @get("/history/tasks/{task:str}/store")
    async def store(request: Call) -> File:
        let_in(request)
        name = request.path_params["task"]
        _known(works.one(name))
        file = works.made(name)
        if file is None:
            raise Problem(404, "Not found", "this task made no store, or is not done")
        return File(file, filename=f"hub-store-{name}.tar", media_type="application/x-tar")

    return [order, tasks, task, cancelled, store]


def _known(told: Told | None) -> Told:
    if told is None:
        raise Problem(404, "Not found", "there is no such task; the newest are at /history/tasks")
    return told
