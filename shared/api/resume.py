"""`POST /resume`: let a zone try again what halted, once an operator has repaired why it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler

from shared.api.response import json_response


class Halting(Protocol):
    """Something that halts at a fault and waits for an operator (`shared.nats.copy.Copier`, `outbox.Outbox`)."""

    @property
    def fault(self) -> Exception | None:
        """Why it halted, None while it goes on."""
        ...

    def resume(self) -> None:
        """Try again; a fault that is still there halts it anew."""
        ...


class Resumed(msgspec.Struct, frozen=True):
    """What had halted, and why."""

    zone: str
    resumed: dict[str, str]


def resume_route(zone: str, parts: Mapping[str, Halting]) -> HTTPRouteHandler:
    """The route of a zone. It is authorised as a write."""

    @post("/resume", status_code=200)
    async def resume() -> Response[bytes]:
        halted = {what: str(part.fault) for what, part in parts.items() if part.fault is not None}
        for what in halted:
            parts[what].resume()
        return json_response(Resumed(zone, halted))

    return resume
