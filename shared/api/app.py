"""The HTTP API of a plane: the application and its routes. It is the same on global and in a zone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import msgspec
import structlog
from litestar import Litestar, Request, Response, delete, get, post, put
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from shared.api import auth, shown
from shared.api.check import check_routes
from shared.api.gateways import gateway_routes
from shared.api.halted import Reads, halted_routes, marked, standing
from shared.api.history import history_routes
from shared.api.history_events import event_history_routes
from shared.api.openapi import document
from shared.api.preflight import preflight_routes
from shared.api.problem import Problem, from_http, stopped, unavailable
from shared.api.reading import ReadersInspector, ReadersStore, current_reader
from shared.api.release import Releaser, release_routes
from shared.api.resources import Resources
from shared.api.response import Call, json_response, number
from shared.api.status import listed, status_routes
from shared.api.store import Authenticator, ResourceStore
from shared.api.tls_check import TlsChecker
from shared.api.trace import Tracer, trace_routes
from shared.api.undo import undo_routes
from shared.api.works import work_routes
from shared.api.xds import XdsInspector, xds_routes
from shared.events.event import GLOBAL
from shared.events.log import LogUnavailable
from shared.events.stop import RESUME, Stopped
from shared.history.plane import PlaneHistory
from shared.history.works import Works
from shared.model import codec
from shared.model.kinds import KINDS, Kind
from shared.model.limits import BODY_BYTES_MAX

PRODUCT = "Zonal"

log = structlog.get_logger(__name__)


def build_api(
    store: ResourceStore,
    *,
    authenticator: Authenticator,
    role: Literal["global", "zone"],
    zone: str = "",
    version: str = "",
    ready: Callable[[], bool] = lambda: True,
    metrics: Callable[[str], tuple[bytes, str]] | None = None,
    checker: TlsChecker | None = None,
    inspector: XdsInspector | None = None,
    past: PlaneHistory | None = None,
    works: Works | None = None,
    releaser: Releaser | None = None,
    reads: Reads | None = None,
    tracer: Tracer | None = None,
) -> Litestar:
    """The application, to be served by uvicorn in the plane's own loop.

    ready: whether the plane serves already. metrics: body and content type for a scrape's `Accept` header.
    checker: what makes TLS checks, inspector: what tells of proxies, releaser: what keeps things from them; global has
    none of these. reads: what follows logs, and may stand still. past: the history of the plane's logs, works: what
    has long work about it done. tracer: what knows how far zones are with changes.
    """
    store = ReadersStore(store)
    if past is not None:
        past.reader = current_reader
    if inspector is not None:
        inspector = ReadersInspector(inspector)
    resources = Resources(store, zone)
    handlers: list[HTTPRouteHandler] = []
    for kind in KINDS:
        handlers += _kind_routes(resources, kind)
    handlers += [*_apply_route(resources), *_index_routes(role, zone, version)]
    handlers += [*_health_routes(ready, metrics, reads), *_event_routes(store, zone or GLOBAL)]
    handlers += [*status_routes(store, zone), *gateway_routes(store, zone)]
    handlers += _proxy_routes(store)
    handlers += [*check_routes(store, checker, zone), *xds_routes(inspector)]
    handlers += [*history_routes(past), *event_history_routes(past), *undo_routes(past, store, zone)]
    handlers += [*preflight_routes(past), *work_routes(past, works)]
    handlers += release_routes(releaser)
    handlers += halted_routes(reads, RESUME if zone else "zonal verify and zonal repair", None if zone else tracer)
    handlers += trace_routes(store, tracer, past)

    async def check(request: Request[Any, Any, State]) -> None:
        auth.check(request, authenticator, zone)

    failures = {Problem: _on_problem, LogUnavailable: _on_unavailable, HTTPException: _on_http, 500: _on_crash}
    return Litestar(
        route_handlers=handlers,
        before_request=check,
        after_request=marked(reads),
        exception_handlers=failures,  # type: ignore[arg-type]
        openapi_config=None,
        logging_config=None,  # the process configured logging
        request_max_body_size=BODY_BYTES_MAX,
    )


def _on_problem(_: Call, problem: Problem) -> Response[bytes]:
    return problem.response()


def _on_http(_: Call, error: HTTPException) -> Response[bytes]:
    return from_http(error).response()


def _on_unavailable(_: Call, error: LogUnavailable) -> Response[bytes]:
    if isinstance(error, Stopped):
        return stopped(str(error)).response()
    return unavailable(ambiguous=error.ambiguous).response()


def _on_crash(call: Call, error: Exception) -> Response[bytes]:
    # The caller learns nothing of the inside; the body may hold secrets and is not logged.
    log.error("request failed", method=call.method, path=call.url.path, exc_info=error)
    return Problem(500, "Internal Server Error").response()


# --- routes -----------------------------------------------------------------------------------------------------


def _kind_routes(resources: Resources, kind: Kind) -> list[HTTPRouteHandler]:
    prefix = "/meshes/{mesh:str}" if kind.mesh_scoped else ""
    item, collection = f"{prefix}/{kind.path}/{{name:str}}", f"{prefix}/{kind.path}"

    @get(f"/{kind.path}", name=f"list-all-{kind.path}")
    async def list_all(request: Call) -> Response[bytes]:
        return await resources.list(request, kind, None)

    @get(collection, name=f"list-{kind.path}")
    async def list_of_mesh(request: Call) -> Response[bytes]:
        return await resources.list(request, kind, request.path_params["mesh"])

    lists = [list_all, list_of_mesh] if kind.mesh_scoped else [list_all]
    return [*_item_routes(resources, kind, item), *lists]


def _item_routes(resources: Resources, kind: Kind, item: str) -> list[HTTPRouteHandler]:
    @get(item, name=f"get-{kind.path}")
    async def get_item(request: Call) -> Response[bytes]:
        return await resources.get(request, kind, *_place(request))

    @put(item, name=f"put-{kind.path}")
    async def put_item(request: Call) -> Response[bytes]:
        return await resources.put(request, kind, *_place(request))

    @delete(item, name=f"delete-{kind.path}", status_code=200)
    async def delete_item(request: Call) -> Response[bytes]:
        return await resources.delete(request, kind, *_place(request))

    return [get_item, put_item, delete_item]


def _place(request: Call) -> tuple[str, str]:
    return request.path_params.get("mesh", ""), request.path_params["name"]


def _apply_route(resources: Resources) -> list[HTTPRouteHandler]:
    @post("/apply", status_code=200)
    async def apply(request: Call) -> Response[bytes]:
        return await resources.apply(request)

    return [apply]


def _index_routes(role: str, zone: str, version: str) -> list[HTTPRouteHandler]:
    openapi = msgspec.json.encode(document(role, version))

    @get("/")
    async def index() -> Response[bytes]:
        return json_response({"product": PRODUCT, "version": version, "role": role, "zone": zone})

    @get("/who-am-i")
    async def who_am_i(request: Call) -> Response[bytes]:
        principal = auth.principal(request)
        return json_response({"name": principal.subject, "groups": principal.roles})

    @get("/schema/openapi.json")
    async def openapi_json() -> Response[bytes]:
        return Response(openapi, media_type="application/json")

    return [index, who_am_i, openapi_json]


def _health_routes(
    ready: Callable[[], bool], metrics: Callable[[str], tuple[bytes, str]] | None, reads: Reads | None
) -> list[HTTPRouteHandler]:
    @get("/healthy")
    async def healthy() -> Response[bytes]:
        return json_response({"status": "healthy"})

    @get("/ready")
    async def is_ready() -> Response[bytes]:
        if not ready():
            raise Problem(503, "Service Unavailable", "not ready yet", headers={"Retry-After": "1"})
        # It serves what it has: whoever balances load must not take it away.
        events = standing(reads)
        return json_response({"status": "ready", **({"halted": events} if events else {})})

    @get("/metrics")
    async def scrape(request: Call) -> Response[bytes]:
        body, media_type = metrics(request.headers.get("accept", "")) if metrics else (b"", "text/plain")
        return Response(body, media_type=media_type)

    return [healthy, is_ready, scrape]


def _event_routes(store: ResourceStore, own: str) -> list[HTTPRouteHandler]:
    @get("/events")
    async def events(request: Call) -> Response[bytes]:
        origin = request.query_params.get("origin", own)
        after = number(request, "after", 0, 0, 2**53)
        until = number(request, "until", 2**53, 0, 2**53)
        limit = number(request, "limit", 100, 1, 1000)
        try:
            found, last = await store.events(origin, after, until if until < 2**53 else None, limit)
        except KeyError:
            raise _no_origin(origin) from None
        items = [msgspec.Raw(shown.event_body(event)) for event in found]
        return json_response({"items": items, "last": last})

    @get("/events/follow")
    async def follow(request: Call) -> Stream:
        origin = request.query_params.get("origin", own)
        after = number(request, "after", 0, 0, 2**53)
        try:
            stream = store.follow_events(origin, after)
        except KeyError:
            raise _no_origin(origin) from None
        return Stream(_lines(stream), media_type="application/x-ndjson")

    return [events, follow]


def _no_origin(origin: str) -> Problem:
    return Problem(404, "Not found", f'no log of origin "{origin}" is known here')


async def _lines(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for event in stream:
        yield shown.event_body(event) + b"\n"


def _proxy_routes(store: ResourceStore) -> list[HTTPRouteHandler]:
    @get("/proxies")
    async def proxies(request: Call) -> Response[bytes]:
        return await listed(request, store.proxies)

    @get("/proxies/{proxy:str}/inspect")
    async def inspect(request: Call) -> Response[bytes]:
        proxy = request.path_params["proxy"]
        found = await store.inspect(proxy)
        if found is None:
            raise Problem(404, "Not found", f'proxy "{proxy}" is not known here')
        return Response(codec.encode(found), media_type="application/json")

    return [proxies, inspect]
