"""Grace: what stands between two moments at a zone egress, so that nobody gets to where neither leads (xds.md §3).

A service that is gone is kept for a while, since clients may know its address for as long as DNS lets them. What guards
it is kept with it, and it is opened to nobody: whatever takes access from it meanwhile, takes it. And who gains access
to a service that changes in the same turn gains it when the change is there, not to what was there before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from immutables import Map

from shared.events.state import Position
from shared.model.kinds import is_legacy
from shared.model.resource import ProtocolClass
from shared.naming.sni import CLUSTER_PREFIX
from zone_cp.ads.references import references_of
from zone_cp.view.permissions import both
from zone_cp.view.policies import Permission, permission
from zone_cp.view.zone_view import Difference, ExternalServiceView, MeshView, ZoneView
from zone_cp.xds.access import access_config
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, SECRET, Encoded, Snapshot, differing, following
from zone_cp.xds.ways import at_egress

GRACE_SECONDS = 10.0
"""How long an egress keeps the cluster of a service that is gone: twice the time that a name may be remembered."""
RULES = frozenset({"policies", "forbid_external", "mtls", "origination", "legacy_egress"})
"""Fields of a mesh that say who may use what at an egress, or whether it is served there."""
KEPT_LIMIT = 1024
"""Clusters that one egress keeps beyond their time; those that went first are dropped first."""
NOBODY = Permission((), ())

_NOTHING: Map[str, Encoded] = Map()


class Between(msgspec.Struct, frozen=True):
    """What a turn leads to, and by cluster the services that go or change with it, with who could use them last.

    ruled: the meshes in which who may use what may be decided otherwise than before.
    """

    view: ZoneView | None = None
    services: Mapping[str, ExternalServiceView] = Map()
    ruled: frozenset[str] = frozenset()


NOTHING_KNOWN = Between()


class _Kept(msgspec.Struct, frozen=True):
    cluster: Encoded
    secrets: tuple[Encoded, ...]
    until: float
    service: ExternalServiceView | None


class _Changing(msgspec.Struct, frozen=True):
    """A service as it was, with who could use it since; `position` brings another cluster."""

    service: ExternalServiceView
    position: Position


def between(before: ZoneView | None, after: ZoneView, difference: Difference) -> Between:
    """The services that differ between two views, as they were."""
    found: dict[str, ExternalServiceView] = {}
    for name, keys in difference.services.items() if before is not None else ():
        mesh = before.meshes.get(name) if before is not None else None
        for key in keys if mesh is not None else ():
            if mesh is not None and (was := mesh.services.get(key)) is not None:
                found[was.cluster] = resolved(was, mesh)
    return Between(after, found, frozenset(name for name, fields in difference.meshes.items() if fields & RULES))


def resolved(service: ExternalServiceView, mesh: MeshView) -> ExternalServiceView:
    """A service of the mesh, with who may use it said by itself."""
    return _narrowed(service, NOBODY) if _is_closed(service, service.permission, mesh) else service


def _is_closed(service: ExternalServiceView, said: Permission | None, mesh: MeshView) -> bool:
    return said is None and mesh.forbid_external and not is_legacy(service.key)


def judged(service: ExternalServiceView, mesh: MeshView) -> ExternalServiceView:
    """The service for those who could use it so far and can by the policies of the mesh."""
    said = permission(mesh.policies, service.key, service.labels, service.service)
    return _narrowed(service, NOBODY if _is_closed(service, said, mesh) else said)


def _narrowed(service: ExternalServiceView, to: Permission | None) -> ExternalServiceView:
    may = both(service.permission, to)
    return service if may == service.permission else msgspec.structs.replace(service, permission=may)


class Grace:
    """What each egress keeps. The caller says what time it is, and calls `over` when `due`."""

    def __init__(self) -> None:
        """Nothing is gone or changing."""
        self._kept: dict[str, dict[str, _Kept]] = {}
        self._changing: dict[str, dict[str, _Changing]] = {}
        self._view: ZoneView | None = None

    def turn(self, to: Between) -> list[str]:
        """The view is another now: returns the egresses that keep something of which it says something else."""
        self._view = to.view
        found: dict[str, None] = {}
        for egress, kept in self._kept.items() if to.ruled else ():
            for name, one in list(kept.items()):
                if one.service is None or one.service.mesh not in to.ruled:
                    continue
                found[egress] = None
                if (mesh := self._mesh(one.service)) is None:
                    del kept[name]
                else:
                    kept[name] = msgspec.structs.replace(one, service=judged(one.service, mesh))
        return list(found)

    def follow(  # noqa: PLR0917 - what a turn says of one egress
        self, now: float, position: Position, egress: str, before: Snapshot | None, after: Snapshot, what: Between
    ) -> None:
        """An egress is to hold `after` since `position`, and was to hold `before`."""
        kept, changing = self._kept.setdefault(egress, {}), self._changing.setdefault(egress, {})
        clusters = after.resources.get(CLUSTER, _NOTHING)
        if before is None or after.on_demand:
            kept.clear()
        if before is None:
            changing.clear()
            return
        # Of whose guard nothing is known, nothing is kept when guards change.
        regarded = bool(differing(before, after, EXTENSION_CONFIG))
        for cluster in _replaced(before, after):
            service = what.services.get(cluster.name)
            mesh = None if service is None else self._mesh(service)
            if service is not None and mesh is not None and mesh.name in what.ruled and cluster.name not in clusters:
                service = judged(service, mesh)
            if service is not None and cluster.name in changing:  # it may still be as it was before that
                service = _narrowed(service, changing[cluster.name].service.permission)
            if cluster.name in clusters:
                if service is not None and mesh is not None:
                    changing[cluster.name] = _Changing(service, position)
            elif not after.on_demand and (mesh is not None or not regarded):
                kept[cluster.name] = self._keep(now, cluster, before, service)
        for name, one in kept.items():
            if name in clusters and one.service is not None and clusters[name].version != one.cluster.version:
                changing[name] = _Changing(one.service, position)
        unknown = [name for name, one in kept.items() if regarded and one.service is None]
        for name in [*unknown, *(one for one in kept if one in clusters)]:
            kept.pop(name, None)
        for name in [one for one in changing if one not in clusters]:
            del changing[name]
        while len(kept) > KEPT_LIMIT:
            del kept[next(iter(kept))]

    @staticmethod
    def _keep(now: float, cluster: Encoded, before: Snapshot, service: ExternalServiceView | None) -> _Kept:
        secrets = before.resources.get(SECRET, _NOTHING)
        named = references_of(cluster.version, cluster.body).secrets
        mine = tuple(secrets[name] for name in named if name in secrets)
        return _Kept(cluster, mine, now + GRACE_SECONDS, service)

    def _mesh(self, service: ExternalServiceView) -> MeshView | None:
        """The mesh of a service, None where egresses do not serve it."""
        mesh = self._view.meshes.get(service.mesh) if self._view is not None else None
        return mesh if mesh is not None and at_egress(mesh) else None

    def acked(self, egress: str, position: Position) -> list[str]:
        """An egress has answered for everything up to `position`: itself, if it may open something now."""
        changing = self._changing.get(egress, {})
        there = [name for name, one in changing.items() if position.reaches(one.position)]
        opened = any(self._withheld(name, changing[name].service) is not None for name in there)
        for name in there:
            del changing[name]
        return [egress] if opened else []

    def _withheld(self, cluster: str, was: ExternalServiceView) -> ExternalServiceView | None:
        """A service that changes, with who may use it until it has, where that is not who may then."""
        mesh = self._mesh(was)
        now = None if mesh is None else mesh.services.get(was.key)
        if mesh is None or now is None or now.cluster != cluster:
            return None
        now = resolved(now, mesh)
        both_times = _narrowed(now, was.permission)
        return None if _same(now, both_times) else both_times

    def over(self, now: float) -> list[str]:
        """Time has passed: the egresses that keep less now."""
        found = []
        for egress, kept in self._kept.items():
            ended = [name for name, one in kept.items() if one.until <= now]
            for name in ended:
                del kept[name]
            if ended:
                found.append(egress)
        return found

    def due(self) -> float | None:
        """When the first of it is over; None while nothing is kept."""
        return min((one.until for kept in self._kept.values() for one in kept.values()), default=None)

    def left(self, egress: str) -> None:
        """An egress is offline, or not known any more."""
        self._kept.pop(egress, None)
        self._changing.pop(egress, None)

    def with_kept(self, egress: str, snapshot: Snapshot) -> Snapshot:
        """The snapshot and what is kept, guarded."""
        kept = self._kept.get(egress, {})
        known = snapshot.resources.get(SECRET, _NOTHING)
        secrets = {one.name: one for item in kept.values() for one in item.secrets if one.name not in known}
        clusters = {name: item.cluster for name, item in kept.items()}
        filters = {one.name: one for one in self._filters(egress)}
        changes = {SECRET: secrets, CLUSTER: clusters, EXTENSION_CONFIG: filters}
        return following(snapshot, snapshot.position, changes)

    def _filters(self, egress: str) -> Iterator[Encoded]:
        """The filters that say something else of services than those of the view."""
        gone = (one.service for one in self._kept.get(egress, {}).values())
        changing = (self._withheld(name, one.service) for name, one in self._changing.get(egress, {}).items())
        guarded = (one for one in gone if one is not None and one.permission is not None)
        also: dict[tuple[str, ProtocolClass], list[ExternalServiceView]] = {}
        for service in (*guarded, *(one for one in changing if one is not None)):
            also.setdefault((service.mesh, service.protocol_class), []).append(service)
        for (_, protocol_class), services in sorted(also.items()):
            if (mesh := self._mesh(services[0])) is not None:
                yield access_config(protocol_class, mesh, services)


def _same(one: ExternalServiceView, other: ExternalServiceView) -> bool:
    """Whether two services are for the same workloads."""
    said = [None if may is None else (may.deny, may.allow) for may in (one.permission, other.permission)]
    return said[0] == said[1]


def _replaced(before: Snapshot, after: Snapshot) -> Iterator[Encoded]:
    """The clusters of services that are gone, or others."""
    old = before.resources.get(CLUSTER, _NOTHING)
    for name in differing(before, after, CLUSTER):
        if name in old and name.startswith(f"{CLUSTER_PREFIX}/"):
            yield old[name]
