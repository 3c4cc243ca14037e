"""`POST …/_check-tls`: a handshake from the egress's place. Only a zone has egresses, so only a zone has the route."""

from __future__ import annotations

from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from shared.api.problem import Problem
from shared.api.response import Call, json_response
from shared.api.store import ResourceStore
from shared.api.tls_check import CheckImpossible, TlsChecker
from shared.model.resource import ResourceKey

PATH = "/meshes/{mesh:str}/meshexternalservices/{name:str}/_check-tls"
KIND = "MeshExternalService"


def check_routes(store: ResourceStore, checker: TlsChecker | None, zone: str) -> list[HTTPRouteHandler]:
    """The route, authorised as a write: a check dials out and shows a client certificate."""
    if checker is None:
        return []

    @post(PATH, status_code=200)
    async def check_tls(request: Call) -> Response[bytes]:
        mesh, name = request.path_params["mesh"], request.path_params["name"]
        wanted = request.query_params.get("zone")
        for origin in (zone, "") if wanted is None else (wanted,):
            key = ResourceKey(KIND, mesh, name, origin)
            if await store.get(key) is not None:
                break
        else:
            raise Problem(404, "Not found", f"there is no {KIND} {name} in mesh {mesh}")
        try:
            return json_response(await checker.check_tls(key))
        except CheckImpossible as impossible:
            titles = {404: "Not found", 409: "Cannot check now", 504: "No answer"}
            raise Problem(impossible.status, titles[impossible.status], impossible.reason) from None

    return [check_tls]
