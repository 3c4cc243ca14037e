"""Requests and responses of the API: JSON bodies, numbers of a query, Kuma's list envelope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlencode

import msgspec
from litestar import Request, Response
from litestar.datastructures import State

from shared.api.problem import Problem

Call: TypeAlias = Request[Any, Any, State]


def page(call: Call, items: Sequence[Any], total: int, offset: int, size: int) -> dict[str, Any]:
    """Kuma's list envelope; `next` repeats the query with the next offset."""
    following = None
    if offset + size < total:
        query = [(key, value) for key, value in call.query_params.multi_items() if key not in ("offset", "size")]
        query += [("offset", str(offset + size)), ("size", str(size))]
        following = f"{str(call.base_url).rstrip('/')}{call.url.path}?{urlencode(query)}"
    return {"total": total, "items": items, "next": following}


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """A JSON response."""
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json", headers=headers)


def number(call: Call, name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query, `default` when absent; 400 out of [low, high]."""
    text = call.query_params.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    if low <= number <= high:
        return number
    reason = f"must be a whole number from {low} to {high}"
    if name == "size" and number > high:
        reason = f"invalid page size of {number}. Maximum page size is {high}"
    raise Problem(400, "Could not retrieve resources", "Invalid query", [{"field": name, "reason": reason}])
