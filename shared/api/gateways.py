"""Which Dataplanes a MeshGateway is served by, as Kuma's API lists them (spec A15)."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared.api.problem import Problem
from shared.api.response import Call
from shared.api.status import listed
from shared.api.store import ResourceStore
from shared.events.gateways import best_gateway
from shared.model.builtin import is_builtin
from shared.model.resource import Dataplane, ResourceKey


class BoundDataplane(msgspec.Struct, frozen=True):
    """One gateway Dataplane that is bound to the MeshGateway in question."""

    zone: str
    mesh: str
    name: str


def gateway_routes(store: ResourceStore, own: str) -> list[HTTPRouteHandler]:
    """The route of a plane; `own` is its zone, "" on global."""

    @get("/meshes/{mesh:str}/meshgateways/{name:str}/dataplanes")
    async def dataplanes(request: Call) -> Response[bytes]:
        mesh, name = request.path_params["mesh"], request.path_params["name"]
        wanted = request.query_params.get("zone")
        for origin in dict.fromkeys((own, "")) if wanted is None else (wanted,):
            key = ResourceKey("MeshGateway", mesh, name, origin)
            if await store.get(key) is not None:
                return await listed(request, partial(_bound, store, key))
        raise Problem(404, "Not found", f"there is no MeshGateway {name} in mesh {mesh}")

    return [dataplanes]


async def _bound(store: ResourceStore, wanted: ResourceKey) -> list[Any]:
    declared = await store.list("MeshGateway", wanted.mesh)
    found = []
    for stored in await store.list("Dataplane", wanted.mesh):
        key, one = stored.key, stored.resource
        if not isinstance(one, Dataplane) or one.networking.gateway is None or not is_builtin(one):
            continue
        # A zone knows global's and its own.
        known = (gateway for gateway in declared if gateway.key.zone in ("", key.zone))
        best = best_gateway(known, one.networking.gateway.tags)
        if best is not None and best.key == wanted:
            found.append(BoundDataplane(key.zone, key.mesh, key.name))
    return found
