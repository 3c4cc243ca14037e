"""Undo over HTTP: `GET /history/undo/{origin}/{n}` says what would be done, `POST /history/undo` does it.

With `?dry-run=diff` it says what that would lead to for every proxy, and nothing is written.

It is an ordinary write: to the log of the plane that is asked, conditional, by whoever calls, and of several resources
all or nothing. Ciphertexts are taken from the log as they stand there; nothing is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from shared.api.auth import actor
from shared.api.body import read
from shared.api.dry_run import DryRuns, is_dry
from shared.api.history import asked_of
from shared.api.history_events import event_of
from shared.api.problem import Problem, rejected
from shared.api.response import Call, json_response
from shared.api.store import ResourceStore, Written
from shared.events.decide import CONFLICT, INVALID, Rejected
from shared.events.event import GLOBAL, EventRef
from shared.events.history import History
from shared.history.plane import PlaneHistory
from shared.history.told import brief
from shared.history.undo import CannotUndo, Undo, undo
from shared.history.undo_plan import Plan, planned, told_plan, writes_of

T = TypeVar("T")

CANNOT = "Could not undo an event"


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """origin, n: the event. batch: with all that was written together with it."""

    origin: str
    n: int
    batch: bool = False


def undo_routes(past: PlaneHistory | None, store: ResourceStore, zone: str) -> list[HTTPRouteHandler]:
    """The routes of a plane with a past; `zone` is "" on global."""
    if past is None:
        return []

    dry_runs = DryRuns(store)

    @get("/history/undo/{origin:str}/{n:str}")
    async def plan(request: Call) -> Response[bytes]:
        origin, n = event_of(request.path_params)
        batch = request.query_params.get("batch", "").lower() == "true"
        found = await asked_of(past, lambda history: _or_problem(lambda: planned(history, origin, n, batch=batch)))
        return json_response(found, headers={"ETag": found.etag})

    @post("/history/undo", status_code=200)
    async def done(request: Call) -> Response[bytes]:
        body = read(await request.body(), _Body, INVALID, "the body is no event to undo")
        if body.origin != (zone or GLOBAL):
            here = f"zone {zone}" if zone else "global"
            raise Problem(405, CANNOT, f"events of {body.origin} are taken back there, not at {here}")

        def question(history: History) -> tuple[Undo, Plan]:
            found = undo(history, body.origin, body.n, batch=body.batch)
            return found, told_plan(EventRef(body.origin, body.n), found)

        found, told = await asked_of(past, lambda history: _or_problem(lambda: question(history)))
        _check(request, told)
        writes = writes_of(found)
        if is_dry(request):
            return await dry_runs.answer(writes, request, batch=len(writes) > 1)
        outcome = await store.write(writes, actor(request)) if writes else Written((), (), 0)
        if isinstance(outcome, Rejected):
            raise rejected(outcome, batch=len(writes) > 1)
        return json_response({"plan": told, "results": _results(outcome), "warnings": outcome.warnings})

    return [plan, done]


def _or_problem(question: Callable[[], T]) -> T:
    try:
        return question()
    except CannotUndo as error:
        raise Problem(400, CANNOT, str(error)) from None


def _check(call: Call, plan: Plan) -> None:
    """Whether it may be written: nobody changed the same since, nor anything since the caller looked."""
    expected = call.headers.get("if-match", "").strip().removeprefix("W/")
    if expected not in ("", "*", plan.etag):
        raise Problem(409, CONFLICT, f"the undo is now of {plan.etag}, not of {expected}: somebody else wrote first")
    if plan.conflicting:
        parameters = [
            {
                "field": f"{step.key}: {one.path}",
                "reason": f"was {brief(one.before)}, this event made it {brief(one.this)}, now it is {brief(one.now)}",
            }
            for step in plan.steps
            for one in step.conflicts
        ]
        raise Problem(409, CONFLICT, "what the event changed was changed again since", parameters)


def _results(written: Written) -> list[dict[str, Any]]:
    return [{"key": str(one.key), "outcome": one.outcome, "version": one.version} for one in written.results]
