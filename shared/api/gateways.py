"""Which Dataplanes a MeshGateway is served by, and whom a policy or route means, as Kuma's API lists them (A15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared.api.problem import Problem
from shared.api.response import Call
from shared.api.status import listed
from shared.api.store import ResourceStore
from shared.events.gateways import best_gateway
from shared.events.meant import Selecting, is_meant
from shared.events.state import Stored
from shared.model.builtin import is_builtin
from shared.model.kinds import KINDS
from shared.model.policy import POLICY_KINDS, MeshTrafficPermission
from shared.model.resource import Dataplane, ResourceKey

Rows: TypeAlias = Callable[[ResourceStore, Stored], Awaitable[list[Any]]]
"""The Dataplanes that are listed of one resource."""

BOUND = "/meshes/{mesh}/meshgateways/{name}/dataplanes"
"""Where the Dataplanes are listed that are bound to a MeshGateway."""
MEANING = {"MeshGatewayRoute": "/meshes/{mesh}/meshgatewayroutes/{name}/dataplanes"} | {
    kind.name: f"/meshes/{{mesh}}/{kind.path}/{{name}}/_resources/dataplanes"
    for kind in KINDS
    if kind.name in POLICY_KINDS and kind.type is not MeshTrafficPermission
}
"""By kind: where the Dataplanes are listed that one means."""


class BoundDataplane(msgspec.Struct, frozen=True):
    """One Dataplane that is bound to the MeshGateway in question, or meant by the policy."""

    zone: str
    mesh: str
    name: str


def gateway_routes(store: ResourceStore, own: str) -> list[HTTPRouteHandler]:
    """The routes of a plane; `own` is its zone, "" on global."""
    return [
        _route(store, own, "MeshGateway", BOUND, _bound),
        *(_route(store, own, kind, path, _meant) for kind, path in MEANING.items()),
    ]


def _route(store: ResourceStore, own: str, kind: str, path: str, rows: Rows) -> HTTPRouteHandler:
    @get(path.replace("}", ":str}"))
    async def dataplanes(request: Call) -> Response[bytes]:
        mesh, name = request.path_params["mesh"], request.path_params["name"]
        wanted = request.query_params.get("zone")
        for origin in dict.fromkeys((own, "")) if wanted is None else (wanted,):
            stored = await store.get(ResourceKey(kind, mesh, name, origin))
            if stored is not None:
                return await listed(request, partial(rows, store, stored))
        raise Problem(404, "Not found", f"there is no {kind} {name} in mesh {mesh}")

    return dataplanes


async def _bound(store: ResourceStore, gateway: Stored) -> list[Any]:
    found = await _dataplanes(store, gateway.key.mesh)
    return [_shown(key) for key, _, bound in found if bound is not None and bound.key == gateway.key]


async def _meant(store: ResourceStore, policy: Stored) -> list[Any]:
    zone, one = policy.key.zone, policy.resource
    return [
        _shown(key)
        for key, dataplane, bound in await _dataplanes(store, policy.key.mesh)
        if zone in ("", key.zone) and isinstance(one, Selecting) and is_meant(zone, one, dataplane, bound)
    ]


async def _dataplanes(store: ResourceStore, mesh: str) -> list[tuple[ResourceKey, Dataplane, Stored | None]]:
    """Those of a mesh, gateways with the MeshGateway that they are bound to."""
    declared = await store.list("MeshGateway", mesh)
    found: list[tuple[ResourceKey, Dataplane, Stored | None]] = []
    for stored in await store.list("Dataplane", mesh):
        key, one = stored.key, stored.resource
        if isinstance(one, Dataplane):
            bound = None
            if one.networking.gateway is not None and is_builtin(one):
                # A zone knows global's and its own.
                known = (gateway for gateway in declared if gateway.key.zone in ("", key.zone))
                bound = best_gateway(known, one.networking.gateway.tags)
            found.append((key, one, bound))
    return found


def _shown(key: ResourceKey) -> BoundDataplane:
    return BoundDataplane(key.zone, key.mesh, key.name)
