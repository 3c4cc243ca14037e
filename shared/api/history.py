"""Any moment of the past over HTTP, on both planes: `GET /history/…`, for whoever may read the present.

One router: what the debugger's commands ask of a running system is added here. No answer holds a secret in any form:
events come without ciphertexts, trees with fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from shared.api import auth
from shared.api.problem import Problem
from shared.api.response import Call, json_response, number
from shared.events.halving import NotAsClaimed
from shared.events.history import History, NoSuchMoment
from shared.events.index import DamagedLog
from shared.history.between import SCOPES, between, zones_meant
from shared.history.bisected import bisected
from shared.history.plane import PlaneHistory, TooManyQuestions
from shared.history.predicate import BadPredicate, predicate
from shared.history.tree import explained, tree_at, xds_then
from shared.history.verify import Verifying, plain
from shared.keys.tokens import ADMIN
from shared.nats.log import LogFault

T = TypeVar("T")

VERIFY_LIMIT = 200_000
"""Events that are verified for one request: some seconds of a thread."""


def history_routes(past: PlaneHistory | None) -> list[HTTPRouteHandler]:
    """The routes of a plane with a past; none without one."""
    if past is None:
        return []

    @get("/history/origins")
    async def origins() -> Response[bytes]:
        return json_response({"items": await asked_of(past, _origins), "limits": past.reader().limits})

    @get("/history/log")
    async def log(request: Call) -> Stream:
        origin = request.query_params.get("origin", past.origins[0])
        after = number(request, "after", 0, 0, 2**53)
        if origin not in past.origins:
            raise Problem(404, "Not found", f'no log of origin "{origin}" is known here')
        last = await asked_of(past, lambda history: len(history.log(origin)))
        until = number(request, "until", last, 0, 2**53)
        return Stream(past.lines(origin, after, until), media_type="application/x-ndjson")

    @get("/history/deliveries")
    async def deliveries(request: Call) -> Response[bytes]:
        zone = request.query_params.get("zone")
        return json_response({"zones": await asked_of(past, lambda history: _deliveries(history, zone))})

    @get("/history/verify")
    async def verify(request: Call) -> Response[bytes]:
        if ADMIN not in auth.principal(request).roles or past.reader().is_limited:
            raise Problem(403, "Access Denied", f"verifying needs the role {ADMIN} and sight of everything")
        origin = request.query_params.get("origin")
        if origin is not None and origin not in past.origins:
            raise Problem(404, "Not found", f'no log of origin "{origin}" is known here')
        quick = request.query_params.get("quick", "").lower() == "true"
        verifying = Verifying(past.checks, origins=None if origin is None else (origin,), quick=quick)
        return json_response(await asked_of(past, lambda history: _verified(history, verifying, origin)))

    return [origins, log, *_question_routes(past), deliveries, verify]


def _question_routes(past: PlaneHistory) -> list[HTTPRouteHandler]:
    @get("/history/replay")
    async def replay(request: Call) -> Response[bytes]:
        asked = _Asked(request)
        return json_response(await asked_of(past, asked.answer))

    @get("/history/diff")
    async def diff(request: Call) -> Response[bytes]:
        return json_response(await asked_of(past, _difference(request)))

    @get("/history/bisect")
    async def bisect(request: Call) -> Response[bytes]:
        return json_response(await asked_of(past, _bisection(request)))

    @get("/history/explain")
    async def explain(request: Call) -> Response[bytes]:
        return json_response(await asked_of(past, _explanation(request)))

    return [replay, diff, bisect, explain]


def _verified(history: History, verifying: Verifying, origin: str | None) -> dict[str, Any]:
    logs = (history.hub, *history.zones.values()) if origin is None else (history.log(origin),)
    count = sum(map(len, logs))
    if count > VERIFY_LIMIT:
        reason = f"{count} events are more than {VERIFY_LIMIT}: order it by POST /history/tasks"
        raise Problem(413, "Too large", reason)
    reports = verifying.history(history).values()
    return {"sound": not any(report.findings for report in reports), "items": [plain(report) for report in reports]}


class _Asked:
    """The parameters of a replay: `at`, `zone`, `proxy`, `view`, and any number of `kind`."""

    def __init__(self, request: Call) -> None:
        query = request.query_params
        self._at = query.get("at")
        self._zone = query.get("zone")
        self._proxy = query.get("proxy")
        self._view = query.get("view", "").lower() == "true"
        self._kinds = tuple(query.getall("kind", []))

    def answer(self, history: History) -> dict[str, Any]:
        zone = history.meant(self._zone, self._at)
        position = history.position(zone, self._at)
        served: dict[str, Any] | None = None
        if self._proxy is not None:
            found, served = xds_then(history, zone, position, self._proxy, self._kinds)
        else:
            found = tree_at(history, zone, position, view=self._view, kinds=self._kinds)
        return {"zone": zone, "position": str(position), "proxy": self._proxy, "served": served, "found": found}


def _explanation(request: Call) -> Callable[[History], dict[str, Any]]:
    """What `zonal explain` asks: `proxy`, `wanted`, `at`, `zone` and `absent`."""
    query = request.query_params
    proxy, wanted = query.get("proxy", ""), query.get("wanted", "")
    at, zone, absent = query.get("at"), query.get("zone"), query.get("absent", "").lower() == "true"
    return lambda history: explained(history, zone, at, proxy, wanted, absent=absent)


def _difference(request: Call) -> Callable[[History], dict[str, Any]]:
    """What `zonal diff` asks: `before`, `after`, `zone`, `scope` or `proxy`, and any number of `kind`."""
    query = request.query_params
    before, after, zone, proxy = query.get("before", "0"), query.get("after"), query.get("zone"), query.get("proxy", "")
    scope = query.get("scope", "proxy" if proxy else "resources")
    if scope not in SCOPES or bool(proxy) != (scope == "proxy"):
        reason = f"must be one of {', '.join(SCOPES)}; proxy goes with a proxy's name"
        raise Problem(400, "Invalid query", "Request is not valid", [{"field": "scope", "reason": reason}])
    kinds = tuple(query.getall("kind", []))

    def answer(history: History) -> dict[str, Any]:
        zones = zones_meant(history, zone, before, after, every=scope == "proxies")
        found = [between(history, one, before, after, scope=scope, proxy=proxy, kinds=kinds).plain() for one in zones]
        return {"items": found}

    return answer


def _bisection(request: Call) -> Callable[[History], dict[str, Any]]:
    """What `zonal bisect --predicate` asks: `good`, `bad`, `zone`, `proxy` and `predicate`."""
    query = request.query_params
    good, bad, zone = query.get("good", "0"), query.get("bad"), query.get("zone")
    try:
        holds = predicate(query.get("predicate", ""), query.get("proxy"))
    except BadPredicate as error:
        raise Problem(
            400, "Invalid query", "Request is not valid", [{"field": "predicate", "reason": str(error)}]
        ) from None

    def answer(history: History) -> dict[str, Any]:
        return bisected(history, history.meant(zone, good, bad), good, bad, holds).plain()

    return answer


def _origins(history: History) -> list[dict[str, Any]]:
    logs = (history.hub, *history.zones.values())
    return [{"origin": log.origin, "events": len(log), "head": log.head(len(log))} for log in logs]


def _deliveries(history: History, zone: str | None) -> dict[str, list[msgspec.Raw]]:
    known = history.deliveries if zone is None else history.of_zones([zone]).deliveries
    return {name: [msgspec.Raw(message) for message in messages] for name, messages in known.items()}


async def asked_of(past: PlaneHistory, question: Callable[[History], T]) -> T:
    """What a question finds. Raises Problem: 404 for what never was, 503 when it cannot be answered now."""
    try:
        return await past.ask(question)
    except NoSuchMoment as error:
        raise Problem(404, "Not found", str(error)) from None
    except NotAsClaimed as error:
        raise Problem(409, "Nothing to find", str(error)) from None
    except TooManyQuestions as error:
        raise Problem(503, "Service Unavailable", str(error), headers={"Retry-After": "5"}) from None
    except (DamagedLog, LogFault, OSError) as error:
        raise Problem(503, "Service Unavailable", f"the past cannot be read: {error}") from None
