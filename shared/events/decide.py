"""Commands → changes: the rules of every write, the same on global and in a zone, as one pure function.

A batch is all or nothing: each command is judged on top of those before it, all faults are reported together,
and changes come out only when there is none. What is unchanged makes no event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from shared.events import gateway_writes
from shared.events.event import Change, DataKeyWrapped, ResourceApplied, ResourceDeleted
from shared.events.in_mesh import dataplane_warnings, outside, present, served
from shared.events.origin_labels import label_violations, origin_reason
from shared.events.sealing import is_sealed, keep_sealed, key_ids, missing_secrets, secret_uses
from shared.events.state import LogState, Stored
from shared.model import codec, kinds
from shared.model.external_service import ExternalService
from shared.model.gateway import MeshGateway
from shared.model.labels import MES_ORIGINATION_LABEL, allowed_addresses, computed, is_direct
from shared.model.limits import RESOURCE_BYTES_MAX
from shared.model.policy import Policy
from shared.model.policy_warnings import policy_warnings
from shared.model.resource import (
    ORIGIN_LABEL,
    Dataplane,
    Mesh,
    MeshExternalService,
    Resource,
    ResourceKey,
    Secret,
    key_of,
    mesh_of,
)
from shared.model.route_policy import MeshHTTPRoute, MeshTCPRoute
from shared.model.route_warnings import route_warnings
from shared.model.service_warnings import service_warnings
from shared.model.traffic_permission import TrafficPermission
from shared.model.traffic_permission_rules import traffic_permission_warnings
from shared.model.validate import validate

NOT_FOUND = "Not found"
INVALID = "Could not process a resource"
NO_MESH = "Failed to retrieve Mesh"
NOT_DELETED = "Could not delete a resource"
CONFLICT = "Could not update a resource"
CHANGED_CA = "Changing CA when mTLS is enabled is forbidden. Disable mTLS first and then change the CA"
MESH_IN_USE = "unable to delete mesh, there are still some dataplanes attached"

_TITLES = {404: NOT_FOUND, 405: "Method not allowed", 409: CONFLICT}


class Apply(msgspec.Struct, frozen=True):
    """Create or replace, whole. `expected_version` None: whatever stands there; 0: nothing may; n: that event's.

    cause: id of the event that this takes back, "" for a write of its own.
    """

    resource: Resource
    expected_version: int | None = None
    cause: str = ""


class Delete(msgspec.Struct, frozen=True):
    """Delete what stands at `key`; `expected_version` and `cause` as in Apply."""

    key: ResourceKey
    expected_version: int | None = None
    cause: str = ""


Command: TypeAlias = Apply | Delete
Outcome: TypeAlias = Literal["created", "configured", "unchanged", "deleted"]


class Result(msgspec.Struct, frozen=True):
    """What became of one command. `version` is the resource's version where it stays; else 0 until the event
    is written: `change` is the position of its change in the decision.
    """

    key: ResourceKey
    outcome: Outcome
    version: int = 0
    change: int | None = None


class Decision(msgspec.Struct, frozen=True):
    """Changes to append, one result per command, and warnings for the author. causes: of each change, see Apply."""

    changes: tuple[Change, ...]
    results: tuple[Result, ...]
    warnings: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True):
    """Why command number `index` (from 0) is refused, and at which field ("" when at none)."""

    index: int
    path: str
    reason: str
    status: int = 400


class Rejected(msgspec.Struct, frozen=True):
    """Nothing may be written. `status` is 400, 404, 405 or 409; mixed batches are 400."""

    status: int
    title: str
    refusals: tuple[Refusal, ...]
    detail: str = ""


def decide_write(
    commands: Sequence[Command],
    own: LogState,
    hub: LogState | None = None,
    zone: str = "",
    *,
    zones: Mapping[str, LogState] | None = None,
    allowed: tuple[str, ...] = (),
    reserved: tuple[str, ...] = (),
    wraps: Sequence[DataKeyWrapped] = (),
    now: str = "",
) -> Decision | Rejected:
    """Judge commands against the log they would be written to.

    own: state of the log to write. hub: global's state as the zone knows it, None on global. zone: "" on global.
    zones: on global, the zones' states. allowed, reserved: see `validate`. wraps: data keys made while sealing;
    those that the decision needs precede their resource. now: event time, for what is said of certificates.
    Raises ValueError for resources that are not sealed.
    """
    batch = _Batch(own, hub, zone, zones=zones or {}, allowed=allowed, reserved=reserved, now=now)
    causes: list[str] = []
    for index, command in enumerate(commands):
        match command:
            case Apply():
                batch.apply(index, command)
            case Delete():
                batch.delete(index, command)
        causes += [command.cause] * (len(batch.changes) - len(causes))
    if batch.refusals:
        return _rejected(batch.refusals)
    needed = {
        kid for change in batch.changes if isinstance(change, ResourceApplied) for kid in key_ids(change.resource)
    }
    first = tuple(wrap for wrap in wraps if wrap.kid in needed)
    shift = len(first)
    results = tuple(
        msgspec.structs.replace(result, change=result.change + shift) if result.change is not None else result
        for result in batch.results
    )
    warnings = tuple(dict.fromkeys(batch.warnings()))
    return Decision(first + tuple(batch.changes), results, warnings, ("",) * shift + tuple(causes))


def _rejected(refusals: Sequence[Refusal]) -> Rejected:
    statuses = {refusal.status for refusal in refusals}
    status = statuses.pop() if len(statuses) == 1 else 400
    title = _TITLES.get(status, INVALID)
    if status == 404 and all(refusal.path == "mesh" for refusal in refusals):
        title = NO_MESH
    detail = "Resource is not valid" if status == 400 else refusals[0].reason
    return Rejected(status, title, tuple(refusals), detail)


class _Batch:
    """The state as it will be after the commands judged so far."""

    def __init__(
        self,
        own: LogState,
        hub: LogState | None,
        zone: str,
        *,
        zones: Mapping[str, LogState],
        allowed: tuple[str, ...],
        reserved: tuple[str, ...],
        now: str,
    ) -> None:
        self.own = own
        self.hub = hub
        self.zone = zone
        self.zones = zones
        self.allowed = allowed
        self.reserved = reserved
        self.now = now
        self.changes: list[Change] = []
        self.results: list[Result] = []
        self.refusals: list[Refusal] = []
        self._applied: list[Resource] = []
        self._staged: dict[ResourceKey, Resource | None] = {}
        self._refused_meshes: set[str] = set()

    def apply(self, index: int, command: Apply) -> None:
        resource = command.resource
        key = key_of(resource, self.zone)
        before = len(self.refusals)
        self._judge_apply(index, command, key)
        if len(self.refusals) > before:
            if isinstance(resource, Mesh):
                self._refused_meshes.add(resource.name)
            return
        if not is_sealed(resource):
            raise ValueError(f"{key} holds a secret in clear: seal it before it is decided on")
        stored = self.own.resources.get(key)
        after = computed(resource, self.zone)
        if stored is not None:
            after = keep_sealed(after, stored.resource)
        if (size := len(codec.encode(after))) > RESOURCE_BYTES_MAX:
            self._refuse(index, "", f"is too large: {size} bytes, at most {RESOURCE_BYTES_MAX} are possible")
            return
        self._staged[key] = after
        self._applied.append(after)
        if stored is not None and stored.resource == after:
            self.results.append(Result(key, "unchanged", stored.last.n))
            return
        self.results.append(Result(key, "configured" if stored else "created", 0, len(self.changes)))
        self.changes.append(ResourceApplied(resource=after))

    def delete(self, index: int, command: Delete) -> None:
        key = command.key
        stored = self.own.resources.get(key)
        if reason := self._read_only(key.kind):
            self._refuse(index, "", reason, 405)
        elif key in self._staged:
            self._refuse(index, "name", f"{key} stands twice in this batch")
        elif key.zone != self.zone or (stored is None and self._at_hub(key)):
            self._refuse(index, f'labels["{ORIGIN_LABEL}"]', origin_reason(self.zone))
        elif stored is None:
            self._refuse(index, "", NOT_FOUND, 404)
        elif self._is_stale(index, command.expected_version, stored):
            return
        elif key.kind == "Mesh" and self._has_dataplanes(key.name):
            self._refuse(index, "mesh", MESH_IN_USE)
        else:
            self._staged[key] = None
            if key.kind == "Mesh":
                self.changes.extend(ResourceDeleted(key=member) for member in self._members(key.name))
            self.results.append(Result(key, "deleted", 0, len(self.changes)))
            self.changes.append(ResourceDeleted(key=key))

    # --- judging --------------------------------------------------------------------------------------------

    def warnings(self) -> Iterator[str]:
        """What authors should know, seen with all of the batch: what one resource names may come after it."""
        for resource in self._applied:
            yield from self._warnings(resource)
        logs = (self.own, *self.zones.values())
        gone = [key for key, staged in self._staged.items() if staged is None and key.kind == "Secret"]
        yield from filter(None, (secret_uses(key, logs, self._at) for key in gone))

    def _refuse(self, index: int, path: str, reason: str, status: int = 400) -> None:
        self.refusals.append(Refusal(index, path, reason, status))

    def _judge_apply(self, index: int, command: Apply, key: ResourceKey) -> None:
        resource = command.resource
        if reason := self._read_only(key.kind):
            self._refuse(index, "", reason, 405)
            return
        if key in self._staged:
            self._refuse(index, "name", f"{key} stands twice in this batch")
            return
        mesh_name = mesh_of(resource)
        mesh = resource if isinstance(resource, Mesh) else self._mesh(mesh_name) if mesh_name else None
        if mesh_name and mesh is None and mesh_name not in self._refused_meshes:
            # Reported where the reader looks for it, but with Kuma's status for a path that does not exist.
            self._refuse(index, "mesh", f'mesh "{mesh_name}" is not found', 404)
        stored = self.own.resources.get(key)
        for path, reason in label_violations(resource, stored, self.zone):
            self._refuse(index, path, reason)
        for violation in validate(resource, self.allowed + allowed_addresses(mesh), self.reserved):
            self._refuse(index, violation.path, violation.reason)
        if isinstance(resource, Secret | MeshGateway):
            for path, reason in gateway_writes.certificate_refusals(
                key, resource, self._at, self._gateways(key.mesh), self.zone
            ):
                self._refuse(index, path, reason)
        if isinstance(resource, Mesh) and stored is not None and _changes_ca(stored.resource, resource):
            self._refuse(index, "mtls.enabledBackend", CHANGED_CA)
        self._is_stale(index, command.expected_version, stored)

    def _is_stale(self, index: int, expected: int | None, stored: Stored | None) -> bool:
        actual = stored.last.n if stored else 0
        if expected is None or expected == actual:
            return False
        stands = f"the resource is at version {actual}" if stored else "the resource does not exist"
        self._refuse(index, "", f"{stands}, not at {expected}: somebody else wrote first", 409)
        return True

    def _warnings(self, resource: Resource) -> Iterator[str]:
        if isinstance(resource, Policy):
            yield from policy_warnings(resource, self._mesh(resource.mesh))
            yield from gateway_writes.gateway_missing(resource, self._gateways(resource.mesh), self.zone)
        if isinstance(resource, MeshHTTPRoute | MeshTCPRoute):
            yield from route_warnings(resource, lambda name: self._service(resource.mesh, name))
        if isinstance(resource, MeshGateway):
            yield from gateway_writes.cross_mesh_warnings(resource, self._mesh(resource.mesh))
        match resource:
            case Mesh() if resource.labels.get(MES_ORIGINATION_LABEL) == "sidecar" or is_direct(resource):
                why = "has no mTLS" if not (resource.mtls and resource.mtls.enabled_backend) else "asks for it by label"
                yield (
                    f"mesh {resource.name} {why}: TLS to MeshExternalServices is originated at the sidecars, so the "
                    "keys and CAs of spec.tls reach the applications' hosts"
                )
            case MeshExternalService():
                yield from service_warnings(resource)
                if resource.spec.tls is not None and resource.spec.tls.enabled:
                    yield from missing_secrets(resource, self._globally)
            case ExternalService():
                yield from missing_secrets(resource, self._globally)
            case Secret() | MeshGateway():
                key, found = key_of(resource, self.zone), self._gateways(resource.mesh)
                yield from gateway_writes.certificate_warnings(key, resource, self._at, found, self.zone, self.now)
            case TrafficPermission():
                yield from traffic_permission_warnings(resource, self._outside(resource.mesh))
            case Dataplane():
                mesh = self._mesh(resource.mesh)
                yield from dataplane_warnings(resource, mesh, lambda: self._reached(resource.mesh), self.zone)
            case _:
                pass

    def _reached(self, mesh: str) -> frozenset[str]:
        return served(present(self.own, self._staged, mesh, "Dataplane")) | self._outside(mesh)

    def _outside(self, mesh: str) -> frozenset[str]:
        return outside(present(self.hub or self.own, self._staged, mesh, "ExternalService"))

    # --- looking up -----------------------------------------------------------------------------------------

    def _read_only(self, kind: str) -> str | None:
        known = kinds.by_name(kind)
        return kinds.read_only_reason(known, zone=self.zone) if known else f"unknown kind {kind}"

    def _at(self, key: ResourceKey) -> Resource | None:
        """What stands at `key` in any log that is known, seen through the batch."""
        if key in self._staged:
            return self._staged[key]
        logs = (self.own, self.hub, self.zones.get(key.zone))
        return next((log.resources[key].resource for log in logs if log is not None and key in log.resources), None)

    def _gateways(self, mesh: str) -> Iterator[tuple[ResourceKey, MeshGateway]]:
        """The MeshGateways of a mesh in all logs that are known, seen through the batch."""
        logs = [log for log in (self.own, self.hub, *self.zones.values()) if log is not None]
        keys = {key for log in logs for key in log.kinds.get("MeshGateway", ())} | self._staged.keys()
        for key in sorted(key for key in keys if key.kind == "MeshGateway" and key.mesh == mesh):
            one = self._at(key)
            if isinstance(one, MeshGateway):
                yield key, one

    def _globally(self, key: ResourceKey) -> Resource | None:
        """What global's log holds at `key`, seen through the batch."""
        if key in self._staged:
            return self._staged[key]
        stored = (self.own if self.hub is None else self.hub).resources.get(key)
        return stored.resource if stored else None

    def _mesh(self, name: str) -> Mesh | None:
        mesh = self._globally(ResourceKey("Mesh", "", name))
        return mesh if isinstance(mesh, Mesh) else None

    def _service(self, mesh: str, name: str) -> MeshExternalService | None:
        """The service that a policy written here means by a name: the zone's own before global's."""
        key = ResourceKey("MeshExternalService", mesh, name, self.zone)
        stored = self.own.resources.get(key)
        own = self._staged.get(key, stored.resource if stored is not None else None)
        found = own or self._globally(msgspec.structs.replace(key, zone=""))
        return found if isinstance(found, MeshExternalService) else None

    def _at_hub(self, key: ResourceKey) -> bool:
        at_hub = msgspec.structs.replace(key, zone="")
        return self.hub is not None and at_hub in self.hub.resources

    def _members(self, mesh: str) -> list[ResourceKey]:
        return sorted(
            key
            for key in self.own.resources
            if key.mesh == mesh and self._staged.get(key, self.own.resources[key].resource) is not None
        )

    def _has_dataplanes(self, mesh: str) -> bool:
        return any(
            key.mesh == mesh for state in (self.own, *self.zones.values()) for key in state.kinds.get("Dataplane", ())
        )


def _changes_ca(before: Resource, after: Mesh) -> bool:
    was = before.mtls.enabled_backend if isinstance(before, Mesh) and before.mtls else ""
    now = after.mtls.enabled_backend if after.mtls else ""
    return bool(was and now and was != now)
