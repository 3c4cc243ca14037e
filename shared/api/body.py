"""Bodies of requests: JSON without repeated keys, as an object or as a struct."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from shared.api.problem import Problem
from shared.model.repeated import repeated_keys

T = TypeVar("T")


def read(data: bytes, wanted: type[T], title: str, refusal: str) -> T:
    """The body as `wanted`. Raises Problem (400); refusal: what is said before the reason where it is none."""
    try:
        value = msgspec.json.decode(data, type=wanted)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem(400, title, f"{refusal}: {error}") from None
    refuse_repeated(data, title)
    return value


def read_object(data: bytes, title: str) -> dict[str, Any]:
    """The body as an object. Raises Problem (400)."""
    value = read(data, object, title, "the body is not JSON")
    if not isinstance(value, dict):
        raise Problem(400, title, "the body must be a JSON object")
    return value


def refuse_repeated(data: bytes, title: str) -> None:
    """Raises Problem (400) for a valid body that gives a key twice, with its path and where it stands."""
    try:
        found = repeated_keys(data.decode())
    except RecursionError:
        raise Problem(400, title, "the body is nested too deeply") from None
    if found:
        parameters = [
            {"field": one.path, "reason": f"{one.reason} (line {one.line}, column {one.column})"} for one in found
        ]
        raise Problem(400, title, "the body gives a key twice", parameters)
