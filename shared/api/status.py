"""How services stand: per zone as the zones say it, and rolled up over all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared.api.problem import Problem
from shared.api.response import Call, json_response, number, page
from shared.api.rollup import ServiceRollup, rolled_up
from shared.api.store import ResourceStore, ServiceStatus
from shared.events.event import GLOBAL
from shared.events.proxy_conditions import KINDS as PROXY_KINDS
from shared.model import kinds
from shared.model.resource import ResourceKey, Zone

KINDS = ("MeshExternalService", "ExternalService", "MeshGateway")


def status_routes(store: ResourceStore, own: str) -> list[HTTPRouteHandler]:
    """The routes of a plane; `own` is its zone, "" on global."""
    services = [route for kind in KINDS for route in _routes_of(store, own, kind)]
    return [*services, *(_proxies_of(store, kind) for kind in PROXY_KINDS)]


def _proxies_of(store: ResourceStore, kind: str) -> HTTPRouteHandler:
    found = kinds.by_name(kind)

    @get(f"/status/{found.path if found is not None else kind}")
    async def proxies(request: Call) -> Response[bytes]:
        return await listed(request, lambda: store.proxy_statuses(kind, lambda _: True))

    return proxies


def _routes_of(store: ResourceStore, own: str, kind: str) -> list[HTTPRouteHandler]:
    found = kinds.by_name(kind)
    path = found.path if found is not None else kind

    @get(f"/status/{path}")
    async def services(request: Call) -> Response[bytes]:
        return await listed(request, lambda: _rows(store, kind))

    @get(f"/status/{path}/rollup")
    async def rollups(request: Call) -> Response[bytes]:
        return await listed(request, lambda: _all(store, own, kind))

    @get(f"/meshes/{{mesh:str}}/{path}/{{name:str}}/_status")
    async def rollup(request: Call) -> Response[bytes]:
        return await _one(store, own, request, kind)

    return [services, rollups, rollup]


async def listed(request: Call, read: Callable[[], Awaitable[Sequence[Any]]]) -> Response[bytes]:
    """A page of what `read` gives."""
    size, offset = number(request, "size", 1000, 1, 10_000), number(request, "offset", 0, 0, 2**31)
    found = await read()
    return json_response(page(request, found[offset : offset + size], len(found), offset, size))


async def _rows(store: ResourceStore, kind: str) -> list[ServiceStatus]:
    return [row for row in await store.statuses() if row.kind == kind]


async def _one(store: ResourceStore, own: str, request: Call, kind: str) -> Response[bytes]:
    mesh, name = request.path_params["mesh"], request.path_params["name"]
    wanted = request.query_params.get("zone")
    rows, zones = await _rows(store, kind), await _zones(store, own)
    for origin in dict.fromkeys((own, "")) if wanted is None else (wanted,):
        if await store.get(ResourceKey(kind, mesh, name, origin)) is not None:
            return json_response(_rollup(ResourceKey(kind, mesh, name, origin), rows, zones))
    raise Problem(404, "Not found", f"there is no {kind} {name} in mesh {mesh}")


async def _all(store: ResourceStore, own: str, kind: str) -> list[ServiceRollup]:
    rows, zones = await _rows(store, kind), await _zones(store, own)
    by_name: dict[tuple[str, str], list[ServiceStatus]] = {}
    for row in rows:
        by_name.setdefault((row.mesh, row.name), []).append(row)
    keys = sorted(stored.key for stored in await store.list(kind))
    return [_rollup(key, by_name.get((key.mesh, key.name), []), zones) for key in keys]


def _rollup(key: ResourceKey, rows: Sequence[ServiceStatus], zones: Sequence[str]) -> ServiceRollup:
    """A zone-origin service is its own zone's business alone."""
    mine = [row for row in rows if (row.mesh, row.name) == (key.mesh, key.name)]
    mine = [
        row for row in mine if (row.origin, row.zone) == ("zone", key.zone) or (row.origin == GLOBAL and not key.zone)
    ]
    return rolled_up(key.mesh, key.name, key.zone or GLOBAL, mine, (key.zone,) if key.zone else zones, kind=key.kind)


async def _zones(store: ResourceStore, own: str) -> list[str]:
    """Zones that this plane hears of: itself in a zone, every enabled one on global."""
    if own:
        return [own]
    found = [stored.resource for stored in await store.list("Zone")]
    return [one.name for one in found if isinstance(one, Zone) and one.enabled]
