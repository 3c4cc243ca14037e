"""Errors as Kuma's clients read them: problem details with `invalid_parameters`, and the deprecated copies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from shared.events.decide import Rejected
from shared.model.limits import BODY_BYTES_MAX, FAULTS_MAX

MEDIA_TYPE = "application/problem+json"

Parameter = Mapping[str, Any]
"""`field` and `reason`; in a batch also `index` (of the resource, from 0) and `path` (within it)."""


class Problem(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        parameters: Iterable[Parameter] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.parameters = tuple(parameters)
        left = len(self.parameters) - FAULTS_MAX
        self.detail = (detail or title) + (f"; {left} more faults are not told" if left > 0 else "")
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The document. `details` and `causes` repeat `detail` and `invalid_parameters` for old clients."""
        document: dict[str, Any] = {
            "type": "/std-errors",
            "status": self.status,
            "title": self.title,
            "detail": self.detail,
            "details": self.detail,
        }
        if told := self.parameters[:FAULTS_MAX]:
            document["invalid_parameters"] = told
            document["causes"] = [{"field": p["field"], "message": p["reason"]} for p in told]
        return document

    def response(self) -> Response[bytes]:
        """The HTTP response."""
        return Response(
            msgspec.json.encode(self.body()), status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers
        )


def rejected(rejection: Rejected, *, batch: bool) -> Problem:
    """A refusal of the decision; in a batch fields are prefixed with the resource's position."""
    parameters: list[Parameter] = []
    for refusal in rejection.refusals:
        if not batch:
            if refusal.path:
                parameters.append({"field": refusal.path, "reason": refusal.reason})
            continue
        where = f"resources[{refusal.index}]"
        field = f"{where}.{refusal.path}" if refusal.path else where
        parameters.append({"field": field, "reason": refusal.reason, "index": refusal.index, "path": refusal.path})
    return Problem(rejection.status, rejection.title, rejection.detail, parameters)


def unavailable(*, ambiguous: bool) -> Problem:
    """The event log is away; a write may have happened only if `ambiguous`."""
    detail = f"the event log cannot be reached{'; the write may have happened' if ambiguous else ''}"
    return Problem(503, "Service Unavailable", detail, headers={"Retry-After": "1"})


def stopped(reason: str) -> Problem:
    """The log holds an event that this program cannot read; nothing is written on top of it."""
    return Problem(503, "Stopped before an event", f"nothing was written: {reason}")


def from_http(error: HTTPException) -> Problem:
    """A refusal of the framework itself (no such route, wrong method, body too large)."""
    titles = {404: "Not found", 405: "Method not allowed", 413: "Request body is too large"}
    title = titles.get(error.status_code, "Bad request" if error.status_code < 500 else "Internal Server Error")
    detail = f"a body holds at most {BODY_BYTES_MAX} bytes" if error.status_code == 413 else title
    return Problem(error.status_code, title, detail, headers=dict(error.headers or {}))
