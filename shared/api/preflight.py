"""What a past compiles to, and what another installed version makes of it: `GET /history/compile`, `…/preflight`."""

from __future__ import annotations

import asyncio
import importlib
import tempfile
from pathlib import Path

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared import VERSION
from shared.api import auth
from shared.api.history import asked_of
from shared.api.problem import Problem
from shared.api.response import Call, json_response
from shared.events.history import History
from shared.history.bundle import write_bundle
from shared.history.plane import PlaneHistory
from shared.history.preflight import COMPILED, CONTRACT, HERE, CannotRun, installed, preflight
from shared.keys.tokens import ADMIN
from shared.process.writer import event_time


def preflight_routes(past: PlaneHistory | None) -> list[HTTPRouteHandler]:
    """The routes of a plane with a past; none without one."""
    if past is None:
        return []

    turn = asyncio.Lock()

    @get("/history/compile")
    async def compiled(request: Call) -> Response[bytes]:
        at, bodies = request.query_params.get("at"), tuple(request.query_params.getall("body", []))
        lines = await asked_of(past, lambda history: _lines(history, at, bodies))
        return Response(lines, media_type="application/x-ndjson")

    @get("/history/preflight")
    async def compared(request: Call) -> Response[bytes]:
        if ADMIN not in auth.principal(request).roles or past.reader().is_limited:
            raise Problem(
                403, "Access Denied", f"to run another version needs the role {ADMIN} and sight of everything"
            )
        if turn.locked():
            reason = "another version is being run already"
            raise Problem(503, "Service Unavailable", reason, headers={"Retry-After": "30"})
        at = request.query_params.get("at")
        async with turn:
            with tempfile.TemporaryDirectory(prefix="zonal-preflight-") as place:
                bundle = Path(place) / "past.bundle"
                try:
                    other = installed(request.query_params.get("with", ""))
                    await asked_of(past, lambda history: _written(history, bundle, at))
                    return json_response(await asyncio.to_thread(preflight, bundle, HERE, other, at))
                except CannotRun as error:
                    parameters = [{"field": "with", "reason": str(error)}]
                    raise Problem(400, "Invalid query", "Request is not valid", parameters) from None

    return [compiled, compared]


def _lines(history: History, at: str | None, bodies: tuple[str, ...]) -> bytes:
    """What `zonal compile` prints."""
    told = list(importlib.import_module(COMPILED).compiled(history, at, bodies))
    lines = [{"contract": CONTRACT, "zonal": VERSION}, *told, {"end": len(told)}]
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _written(history: History, bundle: Path, at: str | None) -> None:
    history.global_position(at)  # what never was is told before anything is run
    write_bundle(history, bundle, time=event_time())
