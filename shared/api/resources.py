"""Kuma's resource endpoints: item, list, and the atomic batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Response

from shared.api import shown
from shared.api.auth import actor
from shared.api.body import read_object
from shared.api.dry_run import DryRuns, is_dry
from shared.api.problem import Problem, rejected
from shared.api.response import Call, json_response, number, page
from shared.api.store import Put, Remove, ResourceStore, Written
from shared.events.decide import INVALID, NO_MESH, NOT_DELETED, NOT_FOUND, Rejected
from shared.events.state import Stored
from shared.history.supposed import outcome
from shared.model import kinds, manifest
from shared.model.kinds import Kind
from shared.model.limits import RESOURCES_MAX
from shared.model.resource import Resource, ResourceKey, mesh_of

PAGE_DEFAULT = 100
PAGE_MAX = 1000
OTHER_TYPE = "type from the URL has to be the same as in body"
SEQUENCE_HEADER = "Zonal-Sequence"
"""Of a deletion: the last event of the log that it was written to."""
_LABEL_FILTER = "filter[labels."


class Resources:
    """The endpoints of one plane; `zone` is "" on global."""

    def __init__(self, store: ResourceStore, zone: str) -> None:
        self.store = store
        self.zone = zone
        self._dry_runs = DryRuns(store)

    # --- reading --------------------------------------------------------------------------------------------

    async def get(self, call: Call, kind: Kind, mesh: str, name: str) -> Response[bytes]:
        """One resource; `?zone=` picks an origin ("" for global). Else this plane's own one goes first."""
        stored = await self._find(kind, mesh, name, call.query_params.get("zone"))
        if stored is None:
            raise Problem(404, "Could not retrieve a resource", NOT_FOUND)
        return json_response(shown.resource_body(stored), headers={"ETag": shown.etag(stored)})

    async def _find(self, kind: Kind, mesh: str, name: str, zone: str | None) -> Stored | None:
        origins = [zone] if zone is not None else list(dict.fromkeys((self.zone, "")))
        for origin in origins:
            stored = await self.store.get(ResourceKey(kind.name, mesh, name, origin))
            if stored is not None:
                return stored
        return None

    async def list(self, call: Call, kind: Kind, mesh: str | None) -> Response[bytes]:
        """A page of a collection, sorted by mesh and name. 404 when the mesh does not exist."""
        if mesh is not None:
            await self._require_mesh(mesh)
        size = number(call, "size", PAGE_DEFAULT, 1, PAGE_MAX)
        offset = number(call, "offset", 0, 0, 2**31)
        chosen = _filtered(await self.store.list(kind.name, mesh), call)
        chosen.sort(key=lambda stored: (stored.key.mesh, stored.key.name, stored.key.zone))
        return json_response(
            page(call, [shown.resource_body(s) for s in chosen[offset : offset + size]], len(chosen), offset, size)
        )

    async def _require_mesh(self, mesh: str) -> None:
        if await self.store.get(ResourceKey("Mesh", "", mesh)) is None:
            raise Problem(404, NO_MESH, NOT_FOUND)

    # --- writing --------------------------------------------------------------------------------------------

    async def put(self, call: Call, kind: Kind, mesh: str, name: str) -> Response[bytes]:
        """Create (201) or replace (200) a resource; `If-Match` makes a stale write a 409."""
        self._require_writable(kind)
        if kind.mesh_scoped:
            await self._require_mesh(mesh)
        body = read_object(await call.body(), INVALID)
        resource = _at_url(_read_one(body, kind, mesh, name), mesh, name)
        if is_dry(call):
            return await self._dry_runs.answer([Put(resource, _expected(call))], call, batch=False)
        written = await self._write([Put(resource, _expected(call))], call, batch=False)
        created = written.results[0].outcome == "created"
        stored = await self._find(kind, mesh, name, self.zone)
        return json_response(
            {"warnings": written.warnings} if written.warnings else {},
            status=201 if created else 200,
            headers={"ETag": shown.etag(stored)} if stored else {},
        )

    async def delete(self, call: Call, kind: Kind, mesh: str, name: str) -> Response[bytes]:
        """Delete a resource of this plane's origin."""
        self._require_writable(kind)
        commands = [Remove(ResourceKey(kind.name, mesh, name, self.zone), _expected(call))]
        try:
            if is_dry(call):
                return await self._dry_runs.answer(commands, call, batch=False)
            written = await self._write(commands, call, batch=False)
        except Problem as problem:
            title = NOT_DELETED if problem.status in (400, 404) else problem.title
            raise Problem(problem.status, title, problem.detail, problem.parameters) from None
        said = {"warnings": written.warnings} if written.warnings else {}
        return json_response(said, headers={SEQUENCE_HEADER: str(written.sequence)})

    async def apply(self, call: Call) -> Response[bytes]:
        """Apply `{"resources": […]}`, all or nothing; with `?dry-run=diff` say what that would lead to instead."""
        body = read_object(await call.body(), INVALID)
        members = body.get("resources")
        if set(body) != {"resources"} or not isinstance(members, list) or not members:
            reason = "must be a list of at least one resource, and the only field"
            raise Problem(400, INVALID, "Resource is not valid", [{"field": "resources", "reason": reason}])
        if len(members) > RESOURCES_MAX:
            reason = f"must hold no more than {RESOURCES_MAX} resources"
            raise Problem(400, INVALID, "Resource is not valid", [{"field": "resources", "reason": reason}])
        resources, parameters = _read_batch(members)
        if parameters:
            raise Problem(400, INVALID, "Resource is not valid", parameters)
        commands = [Put(resource) for resource in resources]
        if is_dry(call):
            return await self._dry_runs.answer(commands, call, batch=True)
        written = await self._write(commands, call, batch=True)
        results = [{**outcome(result), "version": result.version} for result in written.results]
        return json_response({"results": results, "warnings": written.warnings, "sequence": written.sequence})

    def _require_writable(self, kind: Kind) -> None:
        if reason := kinds.read_only_reason(kind, zone=self.zone):
            raise Problem(405, "Method not allowed", reason, headers={"Allow": "GET"})

    async def _write(self, commands: Sequence[Put | Remove], call: Call, *, batch: bool) -> Written:
        outcome = await self.store.write(commands, actor(call))
        if isinstance(outcome, Rejected):
            raise rejected(outcome, batch=batch)
        return outcome


def _filtered(found: Sequence[Stored], call: Call) -> list[Stored]:
    part = call.query_params.get("name", "")
    labels = {
        key[len(_LABEL_FILTER) : -1]: value
        for key, value in call.query_params.items()
        if key.startswith(_LABEL_FILTER) and key.endswith("]")
    }
    zone = call.query_params.get("zone")
    return [
        stored
        for stored in found
        if part in stored.key.name
        and (zone is None or stored.key.zone == zone)
        and all(stored.resource.labels.get(key) == value for key, value in labels.items())
    ]


def _expected(call: Call) -> int | None:
    """The version a write expects: `If-Match: "12"`, or `If-None-Match: *` for none."""
    if call.headers.get("if-none-match", "").strip() == "*":
        return 0
    header = call.headers.get("if-match", "").strip()
    if header in ("", "*"):
        return None
    text = header.removeprefix("W/").strip('"')
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 15):
        raise Problem(
            400, INVALID, "Invalid header", [{"field": "If-Match", "reason": 'must be a version such as "12"'}]
        )
    return int(text)


def _read_one(body: dict[str, Any], kind: Kind, mesh: str, name: str) -> Resource:
    """The body as a resource; what the URL says already may be left out."""
    if "kind" not in body and "apiVersion" not in body:
        body = {"type": kind.name, "name": name, **body}
        if kind.mesh_scoped:
            body = {"mesh": mesh, **body}
    said = body.get("kind") if "kind" in body else body.get("type")
    if isinstance(said, str) and said != kind.name and kinds.by_name(said) is not None:
        raise Problem(400, INVALID, "Resource is not valid", [{"field": "type", "reason": OTHER_TYPE}])
    resources, parameters = _read_batch([body])
    if parameters:
        plain = [{"field": p["path"], "reason": p["reason"]} for p in parameters]
        raise Problem(400, INVALID, "Resource is not valid", plain)
    if not isinstance(resources[0], kind.type):
        raise Problem(400, INVALID, "Resource is not valid", [{"field": "type", "reason": OTHER_TYPE}])
    return resources[0]


def _at_url(resource: Resource, mesh: str, name: str) -> Resource:
    parameters = []
    if resource.name != name:
        parameters.append({"field": "name", "reason": "name from the URL has to be the same as in body"})
    if mesh_of(resource) != mesh:
        parameters.append({"field": "mesh", "reason": "mesh from the URL has to be the same as in body"})
    if parameters:
        raise Problem(400, INVALID, "Resource is not valid", parameters)
    return resource


def _read_batch(members: Sequence[Any]) -> tuple[list[Resource], list[dict[str, Any]]]:
    resources: list[Resource] = []
    parameters: list[dict[str, Any]] = []
    for index, member in enumerate(members):
        parsed = manifest.parse_plain(member)
        where = f"resources[{index}]"
        if not parsed.faults and len(parsed.documents) != 1:
            parameters.append({"field": where, "reason": "must be one resource", "index": index, "path": ""})
        resources.extend(document.resource for document in parsed.documents)
        for fault in parsed.faults:
            field = f"{where}.{fault.path}" if fault.path else where
            parameters.append({"field": field, "reason": fault.reason, "index": index, "path": fault.path})
    return resources, parameters
