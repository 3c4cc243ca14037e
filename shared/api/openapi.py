"""The OpenAPI document, made from the model: what the contract tests hold the API to."""

from __future__ import annotations

from typing import Any

from shared.api.gateways import BOUND, MEANING, BoundDataplane
from shared.api.halted import REASON_MAX
from shared.api.openapi_history import history_paths
from shared.api.openapi_parts import (
    JSON,
    NUMBER,
    PROBLEM,
    answer,
    list_of,
    object_of,
    operation,
    page_parameters,
    path_parameter,
    problems,
    query,
    ref,
    rows,
    write,
)
from shared.api.release import Released
from shared.api.rollup import ServiceRollup
from shared.api.schemas import struct_schemas
from shared.api.store import ProxyRow, ProxyStatus, ServiceStatus
from shared.api.tls_check import TlsReport
from shared.model.kinds import KINDS, Kind

SHOWN = (ServiceStatus, ServiceRollup, ProxyStatus, ProxyRow, BoundDataplane, TlsReport, Released)
"""What is answered beside resources."""


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
    schemas = struct_schemas([*(kind.type for kind in KINDS), *SHOWN])
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


def _kind_paths(kind: Kind) -> dict[str, Any]:
    prefix = "/meshes/{mesh}" if kind.mesh_scoped else ""
    parameters = [path_parameter("mesh")] if kind.mesh_scoped else []
    item_parameters = [*parameters, path_parameter("name")]
    shown = ref(f"{kind.name}Shown")
    warnings = {"type": "object", "properties": {"warnings": {"type": "array", "items": {"type": "string"}}}}
    paths: dict[str, Any] = {
        f"{prefix}/{kind.path}/{{name}}": {
            "parameters": item_parameters,
            "get": operation(
                f"get{kind.name}",
                {"200": answer(shown, "the resource")} | problems(400, 404),
                [query("zone", {"type": "string"})],
            ),
            "put": {
                **write(f"put{kind.name}", warnings, 400, 404, 405, 409, 413, 503, created=True),
                "requestBody": {"required": True, "content": {JSON: {"schema": ref(kind.name)}}},
            },
            "delete": write(f"delete{kind.name}", {"type": "object"}, 400, 404, 405, 409, 503),
        },
    }
    lists: list[tuple[str, str, list[dict[str, Any]]]] = [(f"/{kind.path}", f"listAll{kind.name}", [])]
    if kind.mesh_scoped:
        lists.append((f"{prefix}/{kind.path}", f"list{kind.name}", parameters))
    for path, name, fixed in lists:
        filters = [query("name", {"type": "string"}), query("zone", {"type": "string"})]
        answers = {"200": answer(list_of(shown), "a page")} | problems(400, 404)
        paths[path] = {"parameters": fixed, "get": operation(name, answers, [*page_parameters(1000), *filters])}
    return paths


def _other_paths() -> dict[str, Any]:
    free = {"type": "object"}
    unauthenticated: dict[str, Any] = {"security": []}
    healthy = {"200": answer(free, "alive")}
    not_ready = {"503": answer(ref("Problem"), "not yet", PROBLEM)}
    return {
        "/apply": _apply_path(),
        "/events": _events_path(),
        "/": {"get": operation("index", {"200": answer(free, "what this is")} | problems())},
        "/who-am-i": {"get": operation("whoAmI", {"200": answer(free, "the caller")} | problems())},
        **_status_paths("meshexternalservices", "service"),
        **_status_paths("externalservices", "externalService"),
        **_status_paths("meshgateways", "meshGateway"),
        BOUND: _dataplanes_path("MeshGateway"),
        **{path: _dataplanes_path(kind) for kind, path in MEANING.items()},
        "/proxies": rows("proxies", "ProxyRow"),
        "/status/dataplanes": rows("dataplaneStatuses", "ProxyStatus"),
        "/status/zoneegresses": rows("zoneEgressStatuses", "ProxyStatus"),
        **history_paths(),
        **_halted_paths(),
        "/healthy": {"get": operation("healthy", healthy) | unauthenticated},
        "/ready": {"get": operation("ready", healthy | not_ready) | unauthenticated},
    }


def _dataplanes_path(kind: str) -> dict[str, Any]:
    answers = {"200": answer(list_of(ref("BoundDataplane")), "a page")} | problems(400, 404)
    parameters = [*page_parameters(10_000), query("zone", {"type": "string"})]
    listing = operation(f"{kind[0].lower()}{kind[1:]}Dataplanes", answers, parameters)
    return {"parameters": [path_parameter("mesh"), path_parameter("name")], "get": listing}


def _halted_paths() -> dict[str, Any]:
    text = {"type": "string"}
    parts = {"type": "array", "items": object_of(what=text, reason=text, mend=text)}
    zones = {"type": "object", "additionalProperties": parts}
    listed = {"200": answer(object_of(items=parts, total=NUMBER, zones=zones), "what stands still")} | problems()
    body = object_of(origin=text, n=NUMBER, reason={"type": "string", "minLength": 1, "maxLength": REASON_MAX})
    recorded = {"type": "array", "items": object_of(origin=text, n=NUMBER, id=text)}
    answers = {"200": answer(object_of(recorded=recorded, halted=parts), "the tombstone, and what stands still now")}
    request = {"required": True, "content": {JSON: {"schema": body}}}
    skip = {**operation("skip", answers | problems(400, 409, 503)), "requestBody": request}
    return {"/halted": {"get": operation("halted", listed)}, "/skip": {"post": skip}}


def _status_paths(path: str, name: str) -> dict[str, Any]:
    single, rollups = rows(f"{name}Statuses", "ServiceStatus"), rows(f"{name}Rollups", "ServiceRollup")
    rollup = _of_service("get", f"{name}Rollup", "ServiceRollup", "over all zones")
    where = f"/meshes/{{mesh}}/{path}/{{name}}/_status"
    return {f"/status/{path}": single, f"/status/{path}/rollup": rollups, where: rollup}


def _zone_paths() -> dict[str, Any]:
    resumed = {
        "type": "object",
        "properties": {"zone": {"type": "string"}, "resumed": {"type": "object"}},
        "required": ["zone", "resumed"],
    }
    answers = {"200": answer(resumed, "what had halted, and why")} | problems(503)
    return _check_paths() | _release_path() | {"/resume": {"post": operation("resume", answers)}}


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
    answers = {"200": answer(ref("Released"), "what is not kept from proxies any more")} | problems(400, 404, 503)
    request = {"required": True, "content": {JSON: {"schema": body}}}
    return {"/release": {"post": {**operation("release", answers), "requestBody": request}}}


def _of_service(method: str, name: str, schema: str, description: str, *statuses: int) -> dict[str, Any]:
    answers = {"200": answer(ref(schema), description)} | problems(404, *statuses)
    parameters = [path_parameter("mesh"), path_parameter("name")]
    return {"parameters": parameters, method: operation(name, answers, [query("zone", {"type": "string"})])}


def _apply_path() -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {
            "resources": {"type": "array", "minItems": 1, "items": {"oneOf": [ref(kind.name) for kind in KINDS]}}
        },
        "required": ["resources"],
        "additionalProperties": False,
    }
    result = {
        "type": "object",
        "properties": {
            **{name: {"type": "string"} for name in ("type", "mesh", "name", "zone")},
            "outcome": {"type": "string", "enum": ["created", "configured", "unchanged"]},
            "version": NUMBER,
        },
        "required": ["type", "mesh", "name", "zone", "outcome", "version"],
    }
    applied = {
        "type": "object",
        "properties": {
            "results": {"type": "array", "items": result},
            "warnings": {"type": "array", "items": {"type": "string"}},
            "sequence": NUMBER,
        },
        "required": ["results", "warnings", "sequence"],
    }
    request = {"required": True, "content": {JSON: {"schema": body}}}
    return {"post": {**write("apply", applied, 400, 404, 405, 409, 413, 503), "requestBody": request}}


def _events_path() -> dict[str, Any]:
    events = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"type": "object"}}, "last": NUMBER},
        "required": ["items", "last"],
    }
    limit = query("limit", {"type": "integer", "minimum": 1, "maximum": 1000})
    parameters = [query("origin", {"type": "string"}), query("after", NUMBER), query("until", NUMBER), limit]
    return {"get": operation("events", {"200": answer(events, "events")} | problems(400, 404), parameters)}
