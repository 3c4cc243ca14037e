"""Who lost access to external services, and when: what a fold remembers of permissions beside their present state.

Envoy asks who may use a service only when a connection begins, so the connections of whoever loses a service have to be
closed, and nobody else's. What is served is a function of the state alone; therefore the state has to say that somebody
lost something, and must go on saying it: each group of workloads keeps the newest event that took something from it.

Only Meshes and permissions are looked at: no other event has to be folded to know it (`shared/events/index.py`).
A group may be told too large (another log may allow what this one no longer does), never too small, but for one case:
a service that is relabelled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from immutables import Map

from shared.events.event import GLOBAL, EventRef, ResourceApplied, ResourceDeleted
from shared.events.state import LogState, Narrowed
from shared.events.traffic_permission import allowed_by
from shared.model.policy import EFFECT_LABEL, SHADOW, MeshTrafficPermission, SpiffeMatch
from shared.model.resource import Mesh, Resource, ResourceKey, key_of
from shared.model.traffic_permission import TrafficPermission

NARROWED_LIMIT = 1024
"""Groups that are remembered per mesh; beyond it the one that lost something longest ago is forgotten."""

KINDS = frozenset({"Mesh", "MeshTrafficPermission", "TrafficPermission"})
"""What gives and takes access."""
TYPES = frozenset({Mesh, MeshTrafficPermission, TrafficPermission})
"""The same, as types."""
EVERYBODY = SpiffeMatch(type="Prefix", value="spiffe://")


def concerns(change: ResourceApplied | ResourceDeleted) -> bool:
    """Whether it writes or deletes what gives and takes access."""
    if isinstance(change, ResourceApplied):
        return type(change.resource) in TYPES
    return change.key.kind in KINDS


def narrowed(before: LogState, after: LogState, change: ResourceApplied | ResourceDeleted, event: EventRef) -> LogState:
    """`after`, the state after a change that `concerns` access, with those that lost some by it."""
    zone = "" if after.origin == GLOBAL else after.origin
    key = change.key if isinstance(change, ResourceDeleted) else key_of(change.resource, zone)
    mesh = key.name if key.kind == "Mesh" else key.mesh
    if key.kind == "Mesh" and key not in after.resources:
        kept = after.narrowed
        return msgspec.structs.replace(after, narrowed=kept.delete(mesh)) if mesh in kept else after
    groups = list(_losers(before, after, key, mesh))
    if not groups:
        return after
    known = after.narrowed.get(mesh, Map())
    for group in groups:
        known = known.set(group, event)
    while len(known) > NARROWED_LIMIT:
        known = known.delete(min(known, key=lambda one: known[one].n))
    return msgspec.structs.replace(after, narrowed=after.narrowed.set(mesh, known))


def _losers(before: LogState, after: LogState, key: ResourceKey, mesh: str) -> Iterator[Narrowed]:
    old, new = (_resource(state, key) for state in (before, after))
    if isinstance(old, TrafficPermission) or isinstance(new, TrafficPermission):
        yield from _traffic(before, after, mesh)
        return
    if isinstance(new, Mesh):
        forbade = isinstance(old, Mesh) and _forbids(old)
        if old is not None and _forbids(new) and not forbade:
            yield Narrowed(EVERYBODY)
        return
    was, now = (one if isinstance(one, MeshTrafficPermission) else None for one in (old, new))
    if was is not None and now is not None and was.spec.target_ref == now.spec.target_ref:
        yield from _changed(after, key, was, now)
        return
    if was is not None:
        yield from _removed(after, key, was, mesh)
    if now is not None:
        yield from _added(after, key, now, mesh)


def _traffic(before: LogState, after: LogState, mesh: str) -> Iterator[Narrowed]:
    """Who lost a legacy service by a TrafficPermission that came, went or changed: of those that any of them names, and
    of all others.
    """
    were, are = _traffic_permissions(before, mesh), _traffic_permissions(after, mesh)
    named = sorted({service for _, one in (*were, *are) for service in one.services})
    for service in (*named, ""):
        then, now = allowed_by(were, service), allowed_by(are, service)
        if now is None:
            continue
        lost = {EVERYBODY} if then is None else then - now
        for one in lost:
            yield Narrowed(one, _sorted(now))


def _traffic_permissions(state: LogState, mesh: str) -> list[tuple[int, TrafficPermission]]:
    stored = (one for key, one in state.kinds.get("TrafficPermission", Map()).items() if key.mesh == mesh)
    return [(one.created.n, one.resource) for one in stored if isinstance(one.resource, TrafficPermission)]


def _changed(
    state: LogState, key: ResourceKey, was: MeshTrafficPermission, now: MeshTrafficPermission
) -> Iterator[Narrowed]:
    for one in _denied(now) - _denied(was):
        yield Narrowed(one)
    allowed = _allowed(now).union(*(_allowed(one) for one in _alike(state, key, now)))
    for one in _allowed(was) - allowed:
        yield Narrowed(one, _sorted(allowed))


def _added(state: LogState, key: ResourceKey, now: MeshTrafficPermission, mesh: str) -> Iterator[Narrowed]:
    for one in _denied(now):
        yield Narrowed(one)
    closed = _resource(state, ResourceKey("Mesh", "", mesh, key.zone))
    # That a mesh forbids MeshExternalServices says nothing of legacy ones, which are meant by MeshService.
    legacy = now.spec.target_ref.kind == "MeshService"
    if not _alike(state, key, now) and (legacy or not (isinstance(closed, Mesh) and _forbids(closed))):
        yield Narrowed(EVERYBODY, _sorted(_allowed(now)))


def _removed(state: LogState, key: ResourceKey, was: MeshTrafficPermission, mesh: str) -> Iterator[Narrowed]:
    alike = _alike(state, key, was)
    named = was.spec.target_ref.name
    wider = any(not (named and one.spec.target_ref.name) for one in _others(state, key))
    closed = _resource(state, ResourceKey("Mesh", "", mesh, key.zone))
    if alike or wider or (isinstance(closed, Mesh) and _forbids(closed)):
        spared = _sorted({match for one in alike for match in _allowed(one)})
        for one in _allowed(was):
            yield Narrowed(one, spared)


def _resource(state: LogState, key: ResourceKey) -> Resource | None:
    stored = state.resources.get(key)
    if stored is None:
        return None
    found = stored.resource
    shadowed = isinstance(found, MeshTrafficPermission) and found.labels.get(EFFECT_LABEL) == SHADOW
    return None if shadowed else found


def _alike(state: LogState, key: ResourceKey, one: MeshTrafficPermission) -> list[MeshTrafficPermission]:
    return [other for other in _others(state, key) if other.spec.target_ref == one.spec.target_ref]


def _others(state: LogState, key: ResourceKey) -> Iterator[MeshTrafficPermission]:
    for other in state.kinds.get("MeshTrafficPermission", Map()):
        found = _resource(state, other) if other != key and other.mesh == key.mesh else None
        if isinstance(found, MeshTrafficPermission):
            yield found


def _forbids(mesh: Mesh) -> bool:
    return mesh.routing.default_forbid_mesh_external_service_access


def _denied(one: MeshTrafficPermission) -> frozenset[SpiffeMatch]:
    return frozenset(entry.spiffe_id for rule in one.spec.rules for entry in rule.default.deny or ())


def _allowed(one: MeshTrafficPermission) -> frozenset[SpiffeMatch]:
    return frozenset(entry.spiffe_id for rule in one.spec.rules for entry in rule.default.allow or ())


def _sorted(matches: Iterable[SpiffeMatch]) -> tuple[SpiffeMatch, ...]:
    return tuple(sorted(matches, key=lambda one: (one.type, one.value)))
