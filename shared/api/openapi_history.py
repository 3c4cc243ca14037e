"""The paths of history in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.api.openapi_parts import (
    JSON,
    NUMBER,
    answer,
    object_of,
    operation,
    path_parameter,
    problems,
    query,
    write,
)
from shared.history.listing import LIMIT_MAX
from shared.history.order import ENDPOINTS_MAX, PROBE_SECONDS_MAX


def history_paths() -> dict[str, Any]:
    """All of them."""
    return {**_history_paths(), **_compiling_paths(), **_history_event_paths(), **_undo_paths(), **_task_paths()}


def _history_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    origin = {
        "type": "object",
        "properties": {"origin": text, "events": NUMBER, "head": text},
        "required": ["origin", "events", "head"],
    }
    origins = {"type": "object", "properties": {"items": {"type": "array", "items": origin}, "limits": text}}
    moment = {
        "type": "object",
        "properties": {"zone": text, "position": text, "proxy": {"type": ["string", "null"]}, "found": free}
        | {"served": {"type": ["object", "null"]}},
        "required": ["zone", "position", "proxy", "served", "found"],
    }
    verified = {
        "type": "object",
        "properties": {"sound": {"type": "boolean"}, "items": {"type": "array", "items": free}},
        "required": ["sound", "items"],
    }
    kind, view = query("kind", {"type": "array", "items": text}), query("view", {"type": "boolean"})
    asked = [*(query(name, text) for name in ("at", "zone", "proxy")), view, kind]
    logs = [query("origin", text), query("after", NUMBER), query("until", NUMBER)]
    lines = answer(text, "events without secrets, one a line", "application/x-ndjson")
    ends = [query(name, text) for name in ("good", "bad", "zone", "proxy", "predicate")]
    return _explaining_paths() | {
        "/history/bisect": {
            "get": operation("historyBisect", {"200": answer(free, "the event")} | problems(400, 404, 409, 503), ends)
        },
        "/history/origins": {"get": operation("historyOrigins", {"200": answer(origins, "all")} | problems(503))},
        "/history/log": {"get": operation("historyLog", {"200": lines} | problems(400, 404, 503), logs)},
        "/history/deliveries": {
            "get": operation(
                "historyDeliveries", {"200": answer(free, "all")} | problems(404, 503), [query("zone", text)]
            )
        },
        "/history/trace/{origin}/{n}": _trace_path(),
        "/history/replay": {
            "get": operation("historyReplay", {"200": answer(moment, "then")} | problems(404, 503), asked)
        },
        "/history/verify": {
            "get": operation(
                "historyVerify",
                {"200": answer(verified, "what was found")} | problems(404, 413, 503),
                [query("origin", text), query("quick", {"type": "boolean"})],
            )
        },
    }


def _trace_path() -> dict[str, Any]:
    way = [path_parameter("origin"), {**path_parameter("n"), "schema": NUMBER}]
    news = [query("waitMs", {"type": "integer", "minimum": 0, "maximum": 30_000})]
    news += [query(name, {"type": "string"}) for name in ("until", "known")]
    answers = {"200": answer({"type": "object"}, "its way")} | problems(400, 404, 503)
    return {"parameters": way, "get": operation("historyTrace", answers, news)}


def _explaining_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    compared = {"type": "object", "properties": {"items": {"type": "array", "items": free}}, "required": ["items"]}
    moments = [query(name, text) for name in ("before", "after", "zone", "scope", "proxy")]
    moments.append(query("kind", {"type": "array", "items": text}))
    asked = [query(name, text) for name in ("proxy", "wanted", "at", "zone")]
    asked.append(query("absent", {"type": "boolean"}))
    by_zone, why = {"200": answer(compared, "by zone")}, {"200": answer(free, "why")}
    return {
        "/history/diff": {"get": operation("historyDiff", by_zone | problems(400, 404, 503), moments)},
        "/history/explain": {"get": operation("historyExplain", why | problems(404, 503), asked)},
    }


def _compiling_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    lines = answer(text, "what proxies should hold, a line for each situation", "application/x-ndjson")
    asked = [query("at", text), query("body", {"type": "array", "items": text})]
    found = object_of(ours=text, theirs=text, items={"type": "array", "items": free})
    with_ = {**query("with", {"type": "string", "pattern": "^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$"}), "required": True}
    answers = {"200": answer(found, "what differs, by zone")} | problems(400, 404, 503)
    return {
        "/history/compile": {"get": operation("historyCompile", {"200": lines} | problems(404, 503), asked)},
        "/history/preflight": {"get": operation("historyPreflight", answers, [with_, query("at", text)])},
    }


def _history_event_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    several = [query(name, {"type": "array", "items": text}) for name in ("origin", "kind", "name", "mesh", "actor")]
    bounds = [query(name, NUMBER) for name in ("after", "upto")] + [query(name, text) for name in ("since", "until")]
    limit = query("limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX})
    listing = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": free}, "last": free},
        "required": ["items", "last"],
    }
    blame = [query("zone", text), query("at", text)]
    event = [path_parameter("origin"), path_parameter("n")]
    named = answer(free, "fields, and the events that set them")
    paths = {
        "/history/events": operation(
            "historyEvents",
            {"200": answer(listing, "the newest")} | problems(400, 404, 503),
            [*several, *bounds, limit],
        ),
        "/history/events/{origin}/{n}": operation(
            "historyEvent",
            {"200": answer(free, "the event whole")} | problems(404, 503),
            [*event, query("proxies", {"type": "boolean"})],
        ),
    }
    for path, scope in (("/history/blame/meshes/{mesh}", ["mesh"]), ("/history/blame", [])):
        parameters = [*map(path_parameter, (*scope, "collection", "name")), *blame]
        name = "blameInMesh" if scope else "blame"
        paths[f"{path}/{{collection}}/{{name}}"] = operation(name, {"200": named} | problems(404, 503), parameters)
    return {path: {"get": operation} for path, operation in paths.items()}


def _orders() -> Iterator[dict[str, Any]]:
    text = {"type": "string"}
    yield _order("verify", {"origins": {"type": "array", "items": text}})
    yield _order("repair", {"known": NUMBER})
    asked: dict[str, Any] = {name: {"type": ["string", "null"]} for name in ("bad", "zone", "proxy")}
    asked["fresh"] = {"type": "boolean"}
    asked |= {"good": text, "timeoutSeconds": {"type": "number", "exclusiveMinimum": 0, "maximum": PROBE_SECONDS_MAX}}
    url = {
        "type": "string",
        "pattern": r"^http://[a-z0-9][a-z0-9.-]{0,250}(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~/-]{0,500})?$",
    }
    probe = {
        "type": "object",
        "properties": {"url": url, "method": {"enum": ["GET", "HEAD"]}, "expect": {**NUMBER, "maximum": 599}},
        "required": ["url"],
        "additionalProperties": False,
    }
    yield _order("bisect", {**asked, "predicate": text}, "good", "predicate")
    octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    address = {"type": "string", "pattern": rf"^({octet}\.){{3}}{octet}:[1-9][0-9]{{0,3}}$"}
    endpoints = {
        "type": "object",
        "maxProperties": ENDPOINTS_MAX,
        "propertyNames": {"pattern": r"^[a-z0-9][a-z0-9.-]{0,250}:[1-9][0-9]{0,3}$"},
        "additionalProperties": address,
    }
    yield _order("bisect", {**asked, "proxy": text, "probe": probe, "endpoints": endpoints}, "good", "proxy", "probe")


def _order(do: str, properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"do": {"enum": [do]}, **properties},
        "required": ["do", *required],
        "additionalProperties": False,
    }


def _task_paths() -> dict[str, Any]:
    text, free = {"type": "string"}, {"type": "object"}
    order = {"oneOf": [*_orders()]}
    task = object_of(
        **dict.fromkeys(("id", "actor", "started", "ended", "fault"), text),
        order=free,
        progress={},
        remarks={"type": "array", "items": text},
        result={},
        made=NUMBER,
        standing={"enum": ["running", "done", "failed", "cancelled"]},
    )
    tasks = {"type": "array", "items": task}
    one, wait = [path_parameter("task")], query("waitMs", {"type": "integer", "minimum": 0, "maximum": 30_000})
    ordered = operation("orderTask", {"202": answer(task, "it has begun")} | problems(400, 409))
    archive = answer(text, "a store for the hub", "application/x-tar")
    return {
        "/history/tasks": {
            "get": operation("tasks", {"200": answer(object_of(items=tasks), "the newest")} | problems()),
            "post": {**ordered, "requestBody": {"required": True, "content": {JSON: {"schema": order}}}},
        },
        "/history/tasks/{task}": {
            "get": operation("task", {"200": answer(task, "as it stands")} | problems(400, 404), [*one, wait]),
            "delete": operation("cancelTask", {"200": answer(task, "as it ended")} | problems(404), one),
        },
        "/history/tasks/{task}/store": {
            "get": operation("taskStore", {"200": archive} | problems(404), one),
        },
    }


def _undo_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    body = {
        "type": "object",
        "properties": {"origin": text, "n": NUMBER, "batch": {"type": "boolean"}},
        "required": ["origin", "n"],
        "additionalProperties": False,
    }
    asked = [path_parameter("origin"), path_parameter("n"), query("batch", {"type": "boolean"})]
    plan = operation("undoPlan", {"200": answer(free, "what it would do")} | problems(400, 404, 503), asked)
    done = object_of(plan=free, results={"type": "array", "items": free}, warnings={"type": "array", "items": text})
    written = write("undo", done, 400, 404, 405, 409, 503)
    return {
        "/history/undo/{origin}/{n}": {"get": plan},
        "/history/undo": {"post": {**written, "requestBody": {"required": True, "content": {JSON: {"schema": body}}}}},
    }
