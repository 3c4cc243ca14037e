"""`POST /release`: let proxies have what is kept from them. A zone alone serves proxies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from shared.api import auth
from shared.api.body import read
from shared.api.problem import Problem
from shared.api.response import Call, json_response
from shared.api.resume import Halting, resume_route

ALL = "all"


class Released(msgspec.Struct, frozen=True, rename="camel"):
    """proxies are given what was kept from them; quarantines are xDS resources that are tried again.

    restored: the zone's log was shorter than what proxies have had, and goes on without what it lost.
    """

    zone: str
    proxies: tuple[str, ...]
    quarantines: tuple[str, ...] = ()
    restored: bool = False


class Releaser(Protocol):
    """A zone, as far as it keeps things from its proxies, and what may halt in it."""

    @property
    def zone(self) -> str:
        """Its name."""
        ...

    @property
    def halting(self) -> Mapping[str, Halting]:
        """By name, what halts at a fault."""
        ...

    async def release(self, proxy: str | None, actor: str) -> Released:
        """Let go what waits for `proxy`, None for all. Raises LogUnavailable."""
        ...


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    proxy: str


def release_routes(releaser: Releaser | None) -> list[HTTPRouteHandler]:
    """The route; none where no proxies are served. It is authorised as a write."""
    if releaser is None:
        return []

    @post("/release", status_code=200)
    async def release(request: Call) -> Response[bytes]:
        asked = read(await request.body(), _Body, "Bad Request", f'the body must be {{"proxy": NAME or "{ALL}"}}')
        proxy = None if asked.proxy == ALL else asked.proxy
        released = await releaser.release(proxy, auth.actor(request))
        if proxy is not None and not (released.proxies or released.quarantines or released.restored):
            raise Problem(404, "Not found", f'nothing is kept from a proxy "{proxy}"')
        return json_response(released)

    return [release, resume_route(releaser.zone, releaser.halting)]
