"""The OpenAPI document, made from the model: what the contract tests hold the API to."""

from __future__ import annotations

from typing import Any

from shared.api.release import Released
from shared.api.rollup import ServiceRollup
from shared.api.schemas import REFERENCE, struct_schemas
from shared.api.store import ProxyRow, ServiceStatus
from shared.api.tls_check import TlsReport
from shared.history.listing import LIMIT_MAX
from shared.model.kinds import KINDS, Kind

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_NAME = {"type": "string", "minLength": 1}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2**53}


def document(role: str, version: str) -> dict[str, Any]:
    """OpenAPI 3.1 of a plane ("global" or "zone")."""
    paths: dict[str, Any] = {}
    for kind in KINDS:
        paths |= _kind_paths(kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Zonal, {role} control plane",
            "version": version or "0",
            "description": "Resources in Universal form; the Kubernetes form is accepted in the same places.",
        },
        "paths": paths | _other_paths() | (_zone_paths() if role == "zone" else {}),
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


# --- schemas ----------------------------------------------------------------------------------------------------


def _schemas() -> dict[str, Any]:
    schemas = struct_schemas(
        [*(kind.type for kind in KINDS), ServiceStatus, ServiceRollup, ProxyRow, TlsReport, Released]
    )
    for kind in KINDS:
        schemas[f"{kind.name}Shown"] = _shown(schemas[kind.name])
    schemas["Problem"] = _problem()
    return schemas


def _shown(schema: dict[str, Any]) -> dict[str, Any]:
    """What GET answers: the input's fields, times and the version; nothing else is promised."""
    added = {
        "creationTime": {"type": "string"},
        "modificationTime": {"type": "string"},
        "version": {"type": "integer", "minimum": 1},
    }
    return schema | {"properties": schema["properties"] | added}


def _problem() -> dict[str, Any]:
    parameter = {
        "type": "object",
        "properties": {
            "field": {"type": "string"},
            "reason": {"type": "string"},
            "index": {"type": "integer"},
            "path": {"type": "string"},
        },
        "required": ["field", "reason"],
    }
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "integer"},
            "title": {"type": "string"},
            "detail": {"type": "string"},
            "invalid_parameters": {"type": "array", "items": parameter},
        },
        "required": ["type", "status", "title", "detail"],
    }


# --- paths ------------------------------------------------------------------------------------------------------


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": REFERENCE.format(name=name)}


def _answer(schema: dict[str, Any], description: str, media: str = _JSON) -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema}}}


def _problems(*statuses: int) -> dict[str, Any]:
    words = {400: "refused", 401: "no accepted token", 403: "no right", 404: "not found", 405: "read-only here"}
    words |= {409: "somebody else wrote first", 413: "too large", 503: "not now", 504: "no answer"}
    return {str(status): _answer(_ref("Problem"), words[status], _PROBLEM) for status in (401, 403, *statuses)}


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": _NAME}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _page_parameters(maximum: int) -> list[dict[str, Any]]:
    return [
        _query("size", {"type": "integer", "minimum": 1, "maximum": maximum}),
        _query("offset", {"type": "integer", "minimum": 0, "maximum": 2**31}),
    ]


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "total": {"type": "integer", "minimum": 0},
            "items": {"type": "array", "items": items},
            "next": {"type": ["string", "null"]},
        },
        "required": ["total", "items", "next"],
    }


def _kind_paths(kind: Kind) -> dict[str, Any]:
    prefix = "/meshes/{mesh}" if kind.mesh_scoped else ""
    parameters = [_path_parameter("mesh")] if kind.mesh_scoped else []
    item_parameters = [*parameters, _path_parameter("name")]
    match_ = {"name": "If-Match", "in": "header", "required": False, "schema": {"type": "string"}}
    shown = _ref(f"{kind.name}Shown")
    warnings = {"type": "object", "properties": {"warnings": {"type": "array", "items": {"type": "string"}}}}
    paths: dict[str, Any] = {
        f"{prefix}/{kind.path}/{{name}}": {
            "parameters": item_parameters,
            "get": _operation(
                f"get{kind.name}",
                {"200": _answer(shown, "the resource")} | _problems(400, 404),
                [_query("zone", {"type": "string"})],
            ),
            "put": {
                **_operation(
                    f"put{kind.name}",
                    {"200": _answer(warnings, "replaced or unchanged"), "201": _answer(warnings, "created")}
                    | _problems(400, 404, 405, 409, 413, 503),
                    [match_],
                ),
                "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(kind.name)}}},
            },
            "delete": _operation(
                f"delete{kind.name}",
                {"200": _answer({"type": "object"}, "deleted")} | _problems(400, 404, 405, 409, 503),
                [match_],
            ),
        },
    }
    lists: list[tuple[str, str, list[dict[str, Any]]]] = [(f"/{kind.path}", f"listAll{kind.name}", [])]
    if kind.mesh_scoped:
        lists.append((f"{prefix}/{kind.path}", f"list{kind.name}", parameters))
    for path, name, fixed in lists:
        filters = [_query("name", {"type": "string"}), _query("zone", {"type": "string"})]
        answers = {"200": _answer(_list_of(shown), "a page")} | _problems(400, 404)
        paths[path] = {"parameters": fixed, "get": _operation(name, answers, [*_page_parameters(1000), *filters])}
    return paths


def _operation(name: str, responses: dict[str, Any], parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"operationId": name, "responses": responses, "parameters": parameters or []}


def _other_paths() -> dict[str, Any]:
    free = {"type": "object"}
    unauthenticated: dict[str, Any] = {"security": []}
    healthy = {"200": _answer(free, "alive")}
    not_ready = {"503": _answer(_ref("Problem"), "not yet", _PROBLEM)}
    return {
        "/apply": _apply_path(),
        "/events": _events_path(),
        "/": {"get": _operation("index", {"200": _answer(free, "what this is")} | _problems())},
        "/who-am-i": {"get": _operation("whoAmI", {"200": _answer(free, "the caller")} | _problems())},
        **_status_paths("meshexternalservices", "service"),
        **_status_paths("externalservices", "externalService"),
        "/proxies": _rows("proxies", "ProxyRow"),
        **_history_paths(),
        **_history_event_paths(),
        **_undo_paths(),
        "/healthy": {"get": _operation("healthy", healthy) | unauthenticated},
        "/ready": {"get": _operation("ready", healthy | not_ready) | unauthenticated},
    }


def _status_paths(path: str, name: str) -> dict[str, Any]:
    rows, rollups = _rows(f"{name}Statuses", "ServiceStatus"), _rows(f"{name}Rollups", "ServiceRollup")
    rollup = _of_service("get", f"{name}Rollup", "ServiceRollup", "over all zones")
    where = f"/meshes/{{mesh}}/{path}/{{name}}/_status"
    return {f"/status/{path}": rows, f"/status/{path}/rollup": rollups, where: rollup}


def _zone_paths() -> dict[str, Any]:
    resumed = {
        "type": "object",
        "properties": {"zone": {"type": "string"}, "resumed": {"type": "object"}},
        "required": ["zone", "resumed"],
    }
    answers = {"200": _answer(resumed, "what had halted, and why")} | _problems(503)
    return _check_paths() | _release_path() | {"/resume": {"post": _operation("resume", answers)}}


def _check_paths() -> dict[str, Any]:
    path = "/meshes/{mesh}/meshexternalservices/{name}/_check-tls"
    return {path: _of_service("post", "checkTls", "TlsReport", "what the egress met", 409, 504)}


def _release_path() -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {"proxy": {"type": "string"}},
        "required": ["proxy"],
        "additionalProperties": False,
    }
    answers = {"200": _answer(_ref("Released"), "what is not kept from proxies any more")} | _problems(400, 404, 503)
    request = {"required": True, "content": {_JSON: {"schema": body}}}
    return {"/release": {"post": {**_operation("release", answers), "requestBody": request}}}


def _of_service(method: str, name: str, schema: str, description: str, *problems: int) -> dict[str, Any]:
    answers = {"200": _answer(_ref(schema), description)} | _problems(404, *problems)
    parameters = [_path_parameter("mesh"), _path_parameter("name")]
    return {"parameters": parameters, method: _operation(name, answers, [_query("zone", {"type": "string"})])}


def _apply_path() -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {
            "resources": {"type": "array", "minItems": 1, "items": {"oneOf": [_ref(kind.name) for kind in KINDS]}}
        },
        "required": ["resources"],
        "additionalProperties": False,
    }
    result = {
        "type": "object",
        "properties": {
            **{name: {"type": "string"} for name in ("type", "mesh", "name", "zone")},
            "outcome": {"type": "string", "enum": ["created", "configured", "unchanged"]},
            "version": _NUMBER,
        },
        "required": ["type", "mesh", "name", "zone", "outcome", "version"],
    }
    applied = {
        "type": "object",
        "properties": {
            "results": {"type": "array", "items": result},
            "warnings": {"type": "array", "items": {"type": "string"}},
            "sequence": _NUMBER,
        },
        "required": ["results", "warnings", "sequence"],
    }
    answers = {"200": _answer(applied, "applied")} | _problems(400, 404, 405, 409, 413, 503)
    request = {"required": True, "content": {_JSON: {"schema": body}}}
    return {"post": {**_operation("apply", answers), "requestBody": request}}


def _events_path() -> dict[str, Any]:
    events = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"type": "object"}}, "last": _NUMBER},
        "required": ["items", "last"],
    }
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000})
    parameters = [_query("origin", {"type": "string"}), _query("after", _NUMBER), _query("until", _NUMBER), limit]
    return {"get": _operation("events", {"200": _answer(events, "events")} | _problems(400, 404), parameters)}


def _history_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    origin = {
        "type": "object",
        "properties": {"origin": text, "events": _NUMBER, "head": text},
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
    kind, view = _query("kind", {"type": "array", "items": text}), _query("view", {"type": "boolean"})
    asked = [*(_query(name, text) for name in ("at", "zone", "proxy")), view, kind]
    logs = [_query("origin", text), _query("after", _NUMBER), _query("until", _NUMBER)]
    lines = _answer(text, "events without secrets, one a line", "application/x-ndjson")
    ends = [_query(name, text) for name in ("good", "bad", "zone", "proxy", "predicate")]
    return _explaining_paths() | {
        "/history/bisect": {
            "get": _operation(
                "historyBisect", {"200": _answer(free, "the event")} | _problems(400, 404, 409, 503), ends
            )
        },
        "/history/origins": {"get": _operation("historyOrigins", {"200": _answer(origins, "all")} | _problems(503))},
        "/history/log": {"get": _operation("historyLog", {"200": lines} | _problems(400, 404, 503), logs)},
        "/history/deliveries": {"get": _operation("historyDeliveries", {"200": _answer(free, "all")} | _problems(503))},
        "/history/trace/{origin}/{n}": _trace_path(),
        "/history/replay": {
            "get": _operation("historyReplay", {"200": _answer(moment, "then")} | _problems(404, 503), asked)
        },
        "/history/verify": {
            "get": _operation(
                "historyVerify",
                {"200": _answer(verified, "what was found")} | _problems(404, 413, 503),
                [_query("origin", text), _query("quick", {"type": "boolean"})],
            )
        },
    }


def _trace_path() -> dict[str, Any]:
    way = [_path_parameter("origin"), {**_path_parameter("n"), "schema": _NUMBER}]
    news = [_query("waitMs", {"type": "integer", "minimum": 0, "maximum": 30_000})]
    news += [_query(name, {"type": "string"}) for name in ("until", "known")]
    answers = {"200": _answer({"type": "object"}, "its way")} | _problems(400, 404, 503)
    return {"parameters": way, "get": _operation("historyTrace", answers, news)}


def _explaining_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    compared = {"type": "object", "properties": {"items": {"type": "array", "items": free}}, "required": ["items"]}
    moments = [_query(name, text) for name in ("before", "after", "zone", "scope", "proxy")]
    moments.append(_query("kind", {"type": "array", "items": text}))
    asked = [_query(name, text) for name in ("proxy", "wanted", "at", "zone")]
    asked.append(_query("absent", {"type": "boolean"}))
    by_zone, why = {"200": _answer(compared, "by zone")}, {"200": _answer(free, "why")}
    return {
        "/history/diff": {"get": _operation("historyDiff", by_zone | _problems(400, 404, 503), moments)},
        "/history/explain": {"get": _operation("historyExplain", why | _problems(404, 503), asked)},
    }


def _history_event_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    several = [_query(name, {"type": "array", "items": text}) for name in ("origin", "kind", "name", "mesh", "actor")]
    bounds = [_query(name, _NUMBER) for name in ("after", "upto")] + [_query(name, text) for name in ("since", "until")]
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX})
    listing = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": free}, "last": free},
        "required": ["items", "last"],
    }
    blame = [_query("zone", text), _query("at", text)]
    event = [_path_parameter("origin"), _path_parameter("n")]
    named = _answer(free, "fields, and the events that set them")
    paths = {
        "/history/events": _operation(
            "historyEvents",
            {"200": _answer(listing, "the newest")} | _problems(400, 404, 503),
            [*several, *bounds, limit],
        ),
        "/history/events/{origin}/{n}": _operation(
            "historyEvent",
            {"200": _answer(free, "the event whole")} | _problems(404, 503),
            [*event, _query("proxies", {"type": "boolean"})],
        ),
    }
    for path, scope in (("/history/blame/meshes/{mesh}", ["mesh"]), ("/history/blame", [])):
        parameters = [*map(_path_parameter, (*scope, "collection", "name")), *blame]
        name = "blameInMesh" if scope else "blame"
        paths[f"{path}/{{collection}}/{{name}}"] = _operation(name, {"200": named} | _problems(404, 503), parameters)
    return {path: {"get": operation} for path, operation in paths.items()}


def _undo_paths() -> dict[str, Any]:
    free, text = {"type": "object"}, {"type": "string"}
    body = {
        "type": "object",
        "properties": {"origin": text, "n": _NUMBER, "batch": {"type": "boolean"}},
        "required": ["origin", "n"],
        "additionalProperties": False,
    }
    asked = [_path_parameter("origin"), _path_parameter("n"), _query("batch", {"type": "boolean"})]
    match_ = {"name": "If-Match", "in": "header", "required": False, "schema": text}
    plan = _operation("undoPlan", {"200": _answer(free, "what it would do")} | _problems(400, 404, 503), asked)
    written = _operation("undo", {"200": _answer(free, "done")} | _problems(400, 404, 405, 409, 503), [match_])
    return {
        "/history/undo/{origin}/{n}": {"get": plan},
        "/history/undo": {"post": {**written, "requestBody": {"required": True, "content": {_JSON: {"schema": body}}}}},
    }


def _rows(name: str, schema: str) -> dict[str, Any]:
    answers = {"200": _answer(_list_of(_ref(schema)), "a page")} | _problems(400)
    return {"get": _operation(name, answers, _page_parameters(10_000))}
