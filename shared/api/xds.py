"""`GET /proxies/{proxy}/xds`: what a proxy was sent, holds and has refused; a zone alone serves proxies."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from shared.api.problem import Problem
from shared.api.response import Call, json_response


class XdsResource(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One resource: how far it has come. `refused` is what Envoy said of `refusedVersion`, which is offered now."""

    type: str
    name: str
    version: str
    state: Literal["accepted", "sent", "refused", "absent"]
    refused: str = ""
    refused_version: str = ""


class XdsDifference(msgspec.Struct, frozen=True, rename="camel"):
    """One place where Envoy's own configuration is not what is intended; None on a side that has nothing there."""

    type: str
    name: str
    path: str
    intended: Any
    actual: Any


class XdsReport(msgspec.Struct, frozen=True, rename="camel"):
    """offered and delivered are positions, "" for none yet; differences is None when Envoy was not asked.

    waits: why the proxy is not given what there is for it, "" when it is.
    """

    proxy: str
    zone: str
    connection: str
    offered: str
    delivered: str
    resources: tuple[XdsResource, ...]
    differences: tuple[XdsDifference, ...] | None = None
    waits: str = ""


class InspectionImpossible(Exception):
    """Nothing can be told; `status` is how HTTP would say it."""

    def __init__(self, status: Literal[404, 409, 502, 504], reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class XdsInspector(Protocol):
    """A zone, as far as it tells what its proxies hold."""

    async def xds(self, proxy: str, *, actual: bool) -> XdsReport:
        """What `proxy` was sent, and with `actual` what its Envoy says it has. Raises InspectionImpossible."""
        ...


def xds_routes(inspector: XdsInspector | None) -> list[HTTPRouteHandler]:
    """The route; none where no proxies are served."""
    if inspector is None:
        return []

    @get("/proxies/{proxy:str}/xds")
    async def xds(request: Call) -> Response[bytes]:
        actual = request.query_params.get("actual") == "true"
        try:
            return json_response(await inspector.xds(request.path_params["proxy"], actual=actual))
        except InspectionImpossible as impossible:
            titles = {404: "Not found", 409: "Not connected", 502: "Envoy did not answer", 504: "No answer"}
            raise Problem(impossible.status, titles[impossible.status], impossible.reason) from None

    return [xds]
