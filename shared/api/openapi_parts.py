"""What the OpenAPI document is put together from."""

from __future__ import annotations

from typing import Any

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
