"""What a compilation starts from and what it leaves for the next one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.state import Position
from shared.model.kinds import service_key
from shared.model.resource import ResourceKey
from zone_cp.view.gateways import GATEWAY_FIELDS
from zone_cp.view.zone_view import Difference, Failure, MeshView, ZoneView
from zone_cp.xds.assembly import NO_PART, Assembly, Part, PartKey, assembled, empty
from zone_cp.xds.extended import ExtraRoutes
from zone_cp.xds.material import Served

Workload: TypeAlias = tuple[str, str]
"""(mesh, SPIFFE id)."""

CREDENTIALS, SERVICE, ROUTES, ACCESS, REST, ABROAD = range(6)
"""Ranks of parts."""

OF_SOME = GATEWAY_FIELDS | {"workloads", "fronts", "abroad"}
"""Fields of a mesh that concern some of its proxies only: gateways, those that call workloads, sidecars."""


class Changed(msgspec.Struct, frozen=True):
    """What differs from the compilation before: of the view, and of what is in no view.

    identities are workloads whose certificate was replaced, authorities the meshes whose roots or intermediates were.
    only are, by mesh, the services that matter: in place of others an egress may have outlines (None: all matter).
    """

    view: Difference = Difference()
    identities: frozenset[Workload] = frozenset()
    authorities: frozenset[str] = frozenset()
    only: Mapping[str, Collection[ResourceKey]] | None = None

    @property
    def credentials(self) -> frozenset[str]:
        """Meshes in which any certificate or bundle may differ."""
        return self.authorities.union(mesh for mesh, _ in self.identities)


NOTHING_CHANGED = Changed()


class Impaired(msgspec.Struct, frozen=True, order=True):
    """What of a gateway's routes leads nowhere: the event that said so, a condition reason (CamelCase), a sentence."""

    event: EventRef
    reason: str
    message: str


class Reads(msgspec.Struct, frozen=True):
    """What a proxy follows from, by name, of all that is there or may come to be; None: from any.

    services are external ones by kind and name, workloads what Dataplanes serve to each other.
    """

    services: frozenset[tuple[str, str]] | None = frozenset()
    workloads: frozenset[str] | None = frozenset()

    def any_of(self, keys: Collection[ResourceKey]) -> bool:
        """Whether one of these services can change anything of it."""
        return self.services is None or any((key.kind, key.name) in self.services for key in keys)

    def differ(self, was: MeshView | None, now: MeshView | None) -> bool:
        """Whether what Dataplanes serve of it differs: a service that is unchanged is the same object."""
        if was is None or now is None or self.workloads is None:
            return True
        then, found = was.workloads.services, now.workloads.services
        return any(then.get(name) is not found.get(name) for name in self.workloads)


READS_NOTHING, READS_ANY = Reads(), Reads(None, None)
READS_SERVICES, READS_WORKLOADS = Reads(services=None), Reads(workloads=None)


class Compiled(msgspec.Struct, frozen=True):
    """One proxy's snapshot with what it was made of.

    meshes are those it was made from. failures are services that it answers 503 for; extras are routes of services that
    answer by themselves. workloads are the certificates that it holds, reads what can change anything of it. closed are
    listeners of MeshGateways, by their number, that it does not serve; impaired is what leads nowhere of their routes.
    """

    assembly: Assembly
    meshes: Map[str, MeshView] = Map()
    failures: Map[ResourceKey, Failure] = Map()
    extras: Map[ResourceKey, ExtraRoutes] = Map()
    workloads: frozenset[Workload] = frozenset()
    reads: Reads = READS_ANY
    closed: Map[tuple[ResourceKey, int], Failure] = Map()
    impaired: Map[ResourceKey, tuple[Impaired, ...]] = Map()


class Draft:
    """The next `Compiled`, while it is made: parts are set, all others stay as they were."""

    def __init__(self, before: Compiled | None, position: Position) -> None:
        """Without `before` there is nothing yet."""
        self.before = before if before is not None else Compiled(empty(position))
        self._position = position
        self._parts: dict[PartKey, Part] = {}
        self._failures = self.before.failures.mutate()
        self._extras = self.before.extras
        self._rerouted = False
        self.meshes = self.before.meshes
        self.closed: Map[tuple[ResourceKey, int], Failure] = Map()
        self.impaired: Map[ResourceKey, tuple[Impaired, ...]] = Map()
        self.on_demand = self.before.assembly.snapshot.on_demand

    def put(self, rank: int, mesh: str, part: Part, name: str = "", zone: str = "") -> None:
        """Set what is one per mesh and rank, or of these one per name and origin; NO_PART takes it out."""
        self._parts[rank, mesh, name, zone] = part

    def serve(self, key: ResourceKey, served: Served | None, part: Part) -> None:
        """Set what a service brings; None for one that is gone."""
        self._parts[SERVICE, key.mesh, key.name, key.zone] = part
        failure, extra = (None, None) if served is None else (served.failure, served.extra)
        if failure is not None:
            self._failures[key] = failure
        else:
            self._failures.pop(key, None)
        if extra is not None and extra.routes:
            self._rerouted = self._rerouted or self._extras.get(key) != extra
            self._extras = self._extras.set(key, extra)
        elif key in self._extras:
            self._extras, self._rerouted = self._extras.delete(key), True

    def fail(self, failures: Mapping[ResourceKey, Failure]) -> None:
        """Set all services that are answered 503 for, where no parts of services are set."""
        self._failures = Map(failures).mutate()

    def served(self) -> Iterator[ResourceKey]:
        """The services that brought anything before; looks at all parts."""
        for rank, mesh, name, zone in self.before.assembly.parts:
            if rank == SERVICE:
                yield service_key(mesh, name, zone)

    def rerouted(self) -> bool:
        """Whether the routes that services bring are others than at the last call."""
        told, self._rerouted = self._rerouted, False
        return told

    def extras(self, mesh: str) -> list[ExtraRoutes]:
        """The routes that the services of a mesh bring, by key."""
        return [extra for key, extra in sorted(self._extras.items()) if key.mesh == mesh]

    def compiled(self, *, workloads: frozenset[Workload] = frozenset(), reads: Reads = READS_NOTHING) -> Compiled:
        """The result; nothing can be set any more."""
        return Compiled(
            assembly=assembled(self.before.assembly, self._position, self._parts, self.on_demand),
            meshes=self.meshes,
            failures=self._failures.finish(),
            extras=self._extras,
            workloads=workloads,
            reads=reads,
            closed=self.closed,
            impaired=self.impaired,
        )


def without(draft: Draft, mesh: str) -> None:
    """Take out everything that was made of a mesh."""
    for key in draft.served():
        if key.mesh == mesh:
            draft.serve(key, None, NO_PART)
    for rank in (CREDENTIALS, ROUTES, ACCESS, REST):
        draft.put(rank, mesh, NO_PART)
    for rank, whose, name, zone in draft.before.assembly.parts:
        if rank == ABROAD and whose == mesh:
            draft.put(ABROAD, mesh, NO_PART, name, zone)


def all_of(view: ZoneView, only: Mapping[str, Collection[ResourceKey]] | None = None) -> Changed:
    """Everything differs. only: see Changed."""
    return Changed(
        only=only,
        view=Difference(
            services={name: tuple(mesh.services) for name, mesh in view.meshes.items()},
            meshes={name: frozenset(MeshView.__struct_fields__) for name in view.meshes},
            egresses=True,
            vip_ranges=True,
            on_demand_above=True,
        ),
    )


def services_alone(difference: Difference) -> bool:
    """Whether services are all of a view that differs, beside what proxies are."""
    of_all = (difference.meshes, difference.egresses, difference.vip_ranges, difference.on_demand_above)
    return not any((*of_all, difference.generators, difference.settings))
