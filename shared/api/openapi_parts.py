"""What the OpenAPI document is put together from."""

from __future__ import annotations

from typing import Any

from shared.api.dry_run import PARAMETER
from shared.api.schemas import REFERENCE

JSON = "application/json"
PROBLEM = "application/problem+json"
NAME = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**53}


def ref(name: str) -> dict[str, Any]:
    """A schema of the components."""
    return {"$ref": REFERENCE.format(name=name)}


def answer(schema: dict[str, Any], description: str, media: str = JSON) -> dict[str, Any]:
    """A response with a body."""
    return {"description": description, "content": {media: {"schema": schema}}}


def problems(*statuses: int) -> dict[str, Any]:
    """Responses of these statuses, and of those that every call may have."""
    words = {400: "refused", 401: "no accepted token", 403: "no right", 404: "not found", 405: "read-only here"}
    words |= {409: "somebody else wrote first", 413: "too large", 503: "not now", 504: "no answer"}
    return {str(status): answer(ref("Problem"), words[status], PROBLEM) for status in (401, 403, *statuses)}


def path_parameter(name: str) -> dict[str, Any]:
    """A part of the path."""
    return {"name": name, "in": "path", "required": True, "schema": NAME}


def query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter of the query."""
    return {"name": name, "in": "query", "required": False, "schema": schema}


DRY_RUN = query(PARAMETER, {"type": "string", "enum": ["diff"]})
"""Of every write: say what it would lead to, and do nothing."""

_OBJECTS, _TEXTS = ({"type": "array", "items": {"type": kind}} for kind in ("object", "string"))
FORECAST = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("resources", "results", "zones"), _OBJECTS),
        **dict.fromkeys(("warnings", "unknown"), _TEXTS),
        **dict.fromkeys(("touched", "proxies"), NUMBER),
    },
    "required": ["resources", "results", "warnings", "touched", "proxies", "zones", "unknown"],
    "additionalProperties": False,
}
"""What a dry run answers."""


def page_parameters(maximum: int) -> list[dict[str, Any]]:
    """Of lists: how many, from where."""
    return [
        query("size", {"type": "integer", "minimum": 1, "maximum": maximum}),
        query("offset", {"type": "integer", "minimum": 0, "maximum": 2**31}),
    ]


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    """Kuma's list envelope."""
    return {
        "type": "object",
        "properties": {
            "total": {"type": "integer", "minimum": 0},
            "items": {"type": "array", "items": items},
            "next": {"type": ["string", "null"]},
        },
        "required": ["total", "items", "next"],
    }


def operation(name: str, responses: dict[str, Any], parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """One method of a path."""
    return {"operationId": name, "responses": responses, "parameters": parameters or []}


def write(name: str, done: dict[str, Any], *statuses: int, created: bool = False) -> dict[str, Any]:
    """A method that writes, or says with `?dry-run=diff` what that would lead to. done: the answer when written."""
    match_ = {"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}}
    answers = {"200": answer({"anyOf": [FORECAST, done]}, "written, or foretold")} | problems(*statuses)
    answers |= {"201": answer(done, "created")} if created else {}
    return operation(name, answers, [match_, DRY_RUN])


def object_of(**properties: Any) -> dict[str, Any]:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def rows(name: str, schema: str) -> dict[str, Any]:
    """A list without pages."""
    answers = {"200": answer(list_of(ref(schema)), "a page")} | problems(400)
    return {"get": operation(name, answers, page_parameters(10_000))}
