"""Project: a ZoneState becomes the ZoneView that proxies are served from. Pure; no clock.

`project` builds everything, `project_next` only what some events touched: whatever did not change is the same
object as before, so that the compiler's memo hits. Both give equal views.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from itertools import chain
from typing import TypeVar

import msgspec
from immutables import Map

from shared.events.conditions import through_egress
from shared.events.event import Event, EventRef
from shared.events.external_hosts import external_hosts
from shared.events.fault import legacy_through_egress
from shared.events.fold import drop, put
from shared.events.state import LogState, Narrowed, Stored, ZoneState
from shared.model.kinds import is_door
from shared.model.policy import POLICY_KINDS, Policy
from shared.model.resource import Dataplane, Mesh, ResourceKey, ZoneEgress
from shared.model.traffic_permission import TRAFFIC_PERMISSION
from zone_cp.view.abroad import with_abroad, with_dataplanes
from zone_cp.view.gateways import all_gateways, gateways_touched, with_gateways
from zone_cp.view.legacy import legacy_of
from zone_cp.view.policies import Guard, MeshPolicies, Rule, effective, for_egress, mesh_policies, permission
from zone_cp.view.services import readings, service_view
from zone_cp.view.settings import legacy_ranges, on_demand_above, vip_ranges
from zone_cp.view.sources import joined
from zone_cp.view.touched import Touched, add_doors, dataplanes_touched, differing, touched_by
from zone_cp.view.workloads import NO_WORKLOADS
from zone_cp.view.zone_view import (
    Difference,
    EgressView,
    ExternalServiceView,
    MeshView,
    ProxyView,
    Reading,
    ZoneView,
)

DEFAULT_CERTIFICATE_SECONDS = 24 * 3600

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_duration = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

MESH_FIELDS = frozenset(MeshView.__struct_fields__) - {"services", "readers"}

S = TypeVar("S", ExternalServiceView, ExternalServiceView | None)


def project(state: ZoneState) -> ZoneView:
    """The view of a zone at one moment, built whole."""
    return first_step(state)[0]


def first_step(state: ZoneState) -> tuple[ZoneView, Difference]:
    """The view of a zone, built whole, and how it differs from no view at all."""
    touched = Touched(meshes={key.name for log in (state.hub, state.own) for key in log.kinds.get("Mesh", Map())})
    touched.settings = True
    touched.proxies = set(state.own.proxies)
    add_doors(touched, state)
    return _rebuild(empty_view(state), state, touched)


def empty_view(state: ZoneState) -> ZoneView:
    """The view of a zone that knows nothing yet."""
    return ZoneView(state.zone, state.position, Map(), (), Map())


def project_next(
    view: ZoneView, before: ZoneState, after: ZoneState, events: Iterable[Event] | None = None
) -> ZoneView:
    """The view of `after`; see `next_step`."""
    return next_step(view, before, after, events)[0]


def next_step(
    view: ZoneView, before: ZoneState, after: ZoneState, events: Iterable[Event] | None = None
) -> tuple[ZoneView, Difference]:
    """The view of `after`, given the one of `before`, and how they differ. `events` are those between them, of both
    logs: with them the work is proportional to what they touch, without them the two states are compared.
    """
    touched = differing(before, after) if events is None else touched_by(events)
    add_doors(touched, before, after)
    return _rebuild(view, after, touched)


def proxy_view(state: ZoneState, proxy: str) -> ProxyView | None:
    """What a proxy is, as it was when it last connected; None when it or its resource is not known."""
    status = state.own.proxies.get(proxy)
    stored = state.own.resources.get(status.key) if status is not None else None
    if status is None or stored is None or not isinstance(stored.resource, Dataplane | ZoneEgress):
        return None
    return ProxyView(
        proxy,
        stored.resource,
        status.features,
        status.system_ca_path,
        joined((stored.last,), (status.event,)),
    )


def dns_table(view: ZoneView, mesh: str) -> Map[str, str]:
    """Names that resolve in a mesh, in lower case, and their VIPs; closed services keep theirs."""
    found = view.meshes.get(mesh)
    holders = () if found is None else (*found.services.values(), *found.abroad.values())
    return Map({name.lower(): one.vip for one in holders for name in one.hostnames})


def duration_seconds(text: str) -> int | None:
    """Seconds of Kuma's duration text (`24h`, `1d`, `1h30m`); None when it is not one."""
    if not text or _duration.sub("", text):
        return None
    return int(sum(float(number) * _SECONDS[unit] for number, unit in _duration.findall(text)))


# --- building --------------------------------------------------------------------------------------------------------


def _rebuild(view: ZoneView, state: ZoneState, touched: Touched) -> tuple[ZoneView, Difference]:
    meshes = view.meshes
    looked_at: dict[str, set[ResourceKey]] = {}
    for name in sorted(touched.meshes):
        mesh = _mesh_view(state, name, meshes.get(name))
        if mesh is not None:
            meshes = meshes.set(name, mesh)
        elif name in meshes:
            meshes = meshes.delete(name)
    for name in touched.policies & set(meshes):
        governed, said_of = _with_policies(meshes[name], _policies(state, name), _narrowed(state, name))
        meshes = meshes.set(name, governed)
        looked_at.setdefault(name, set()).update(said_of)
    renewed = gateways_touched(meshes, touched)
    for name, keys in renewed.items():
        meshes = meshes.set(name, with_gateways(state, meshes[name], keys))
        looked_at.setdefault(name, set())
    touched.services.update(view.expiries.due(state))
    for name, keys in _services_touched(meshes, touched).items():
        meshes = meshes.set(name, _with_services(state, meshes[name], keys))
        looked_at.setdefault(name, set()).update(keys)
    moved = set()
    for name, dataplanes in dataplanes_touched(state, touched).items():
        if name in meshes:
            mesh, again = meshes[name], with_dataplanes(state, meshes[name], sorted(dataplanes))
            if again is not mesh:
                meshes = meshes.set(name, again)
                looked_at.setdefault(name, set())
            if again.fronts is not mesh.fronts:
                moved.add(name)
    for name, mesh in with_abroad(state, meshes, touched, moved).items():
        meshes = meshes.set(name, mesh)
        looked_at.setdefault(name, set())
    egresses = _egresses(state) if _concern_egresses(state, touched) else view.egresses
    after = ZoneView(
        zone=view.zone,
        position=state.position,
        meshes=meshes,
        egresses=view.egresses if egresses == view.egresses else egresses,
        vip_ranges=vip_ranges(state) if touched.settings else view.vip_ranges,
        on_demand_above=on_demand_above(state) if touched.settings else view.on_demand_above,
        legacy_ranges=legacy_ranges(state) if touched.settings else view.legacy_ranges,
    )
    difference = _difference(view, after, touched, looked_at, renewed)
    differing_keys = chain.from_iterable(difference.services.values())
    return msgspec.structs.replace(after, expiries=view.expiries.following(state, differing_keys, meshes)), difference


def _services_touched(meshes: Map[str, MeshView], touched: Touched) -> dict[str, set[ResourceKey]]:
    """The services to be looked at again, by mesh, of the meshes there are."""
    found: dict[str, set[ResourceKey]] = {}
    for key in touched.services:
        if key.mesh in meshes:
            found.setdefault(key.mesh, set()).add(key)
    for name, secret in touched.secrets:
        if name in meshes and (keys := meshes[name].readers.get(("secret", secret))):
            found.setdefault(name, set()).update(keys)
    for kid in touched.data_keys:
        for name, mesh in meshes.items():
            if keys := mesh.readers.get(("key", kid)):
                found.setdefault(name, set()).update(keys)
    return found


def _concern_egresses(state: ZoneState, touched: Touched) -> bool:
    statuses = (state.own.proxies.get(proxy) for proxy in touched.proxies)
    keys = (*touched.resources, *(status.key for status in statuses if status is not None))
    return any(key.kind == "ZoneEgress" for key in keys)


def _difference(
    before: ZoneView,
    after: ZoneView,
    touched: Touched,
    looked_at: Mapping[str, Collection[ResourceKey]],
    renewed: Container[str],
) -> Difference:
    services: dict[str, Collection[ResourceKey]] = {}
    meshes: dict[str, frozenset[str]] = {}
    for name in {*looked_at, *touched.meshes, *touched.policies}:
        old, new = before.meshes.get(name), after.meshes.get(name)
        if old is not None and new is not None:
            fields = frozenset(one for one in MESH_FIELDS if _differ(getattr(old, one), getattr(new, one)))
            # The bytes behind a gateway's certificate may be readable now or no more.
            if fields := fields | {"gateways"} if name in renewed else fields:
                meshes[name] = fields
        elif (only := old or new) is not None:
            meshes[name], services[name] = MESH_FIELDS, tuple(only.services)
            continue
        if keys := looked_at.get(name):
            services[name] = tuple(keys)
    return Difference(
        services=services,
        meshes=meshes,
        egresses=before.egresses != after.egresses,
        vip_ranges=(before.vip_ranges, before.legacy_ranges) != (after.vip_ranges, after.legacy_ranges),
        on_demand_above=before.on_demand_above != after.on_demand_above,
        proxies=frozenset(touched.proxies),
        resources=frozenset(touched.resources),
        declared=frozenset(touched.services),
        generators=touched.generators,
        settings=touched.settings,
        material=bool(touched.secrets or touched.data_keys),
    )


def _differ(one: object, other: object) -> bool:
    return one is not other and one != other


def _with_services(state: ZoneState, mesh: MeshView, keys: Iterable[ResourceKey]) -> MeshView:
    """The mesh with these services as they are now; the same object where they are as they were."""
    services, readers = mesh.services.mutate(), mesh.readers
    touched, legacy = False, mesh.legacy
    rules = for_egress(mesh.policies)
    keys = tuple(keys)
    if any(is_door(key) for key in keys):
        legacy = legacy_of(state.hub, mesh.name)
    for key in keys:
        before, after = mesh.services.get(key), _governed(service_view(state, key), mesh.policies, rules)
        if before == after:
            continue
        touched = True
        readers = _reindexed(readers, key, before, after)
        if after is None:
            del services[key]
        else:
            services[key] = after
    if not touched and legacy == mesh.legacy:
        return mesh
    return msgspec.structs.replace(mesh, services=services.finish(), readers=readers, legacy=legacy)


def _reindexed(
    readers: Map[Reading, Map[ResourceKey, None]],
    key: ResourceKey,
    before: ExternalServiceView | None,
    after: ExternalServiceView | None,
) -> Map[Reading, Map[ResourceKey, None]]:
    if not any(one is not None and (one.tls is not None or one.parts) for one in (before, after)):
        return readers  # neither reads anything
    had, has = readings(before), readings(after)
    for reading in had - has:
        readers = drop(readers, reading, key)
    for reading in has - had:
        readers = put(readers, reading, key, None)
    return readers


def _governed(service: S, policies: MeshPolicies, rules: tuple[Rule, ...]) -> S:
    """A service with what policies say about it; the same object where they say what they said before.

    rules are those of `policies` that hold for all clients alike.
    """
    if service is None:
        return service
    outside = effective(rules, service.key, service.labels)
    guarded = permission(policies, service.key, service.labels, service.service)
    if (outside, guarded) == (service.outside, service.permission):
        return service
    return msgspec.structs.replace(service, outside=outside, permission=guarded)


def _narrowed(state: ZoneState, mesh: str) -> tuple[tuple[Narrowed, EventRef], ...]:
    found = (item for log in (state.hub, state.own) for item in log.narrowed.get(mesh, Map()).items())
    return tuple(sorted(found, key=lambda one: (one[1].origin, one[1].n, repr(one[0]))))


def _with_policies(
    mesh: MeshView, policies: MeshPolicies, narrowed: tuple[tuple[Narrowed, EventRef], ...]
) -> tuple[MeshView, list[ResourceKey]]:
    """The mesh under other policies, and the services about which they say something else."""
    services, rules = mesh.services.mutate(), for_egress(policies)
    differing = []
    for key, service in _meant(mesh, policies):
        after = _governed(service, policies, rules)
        if after is not service:
            services[key] = after
            differing.append(key)
    return msgspec.structs.replace(mesh, policies=policies, narrowed=narrowed, services=services.finish()), differing


def _meant(mesh: MeshView, policies: MeshPolicies) -> Iterable[tuple[ResourceKey, ExternalServiceView]]:
    """The services that a rule or guard can mean that stands in one of both sets of policies only."""
    before: set[Rule | Guard] = {*mesh.policies.rules, *mesh.policies.guards}
    after: set[Rule | Guard] = {*policies.rules, *policies.guards}
    moved = before ^ after
    if any(not one.to.name or one.to.kind == "Mesh" for one in moved):
        return mesh.services.items()
    keys = {
        ResourceKey("MeshExternalService", mesh.name, str(one.to.name), zone)
        for one in moved
        for zone in ("", one.zone)
    }
    names = {one.to.name for one in moved if one.to.kind == "MeshService"}
    all_doors = mesh.policies.traffic != policies.traffic
    doors = (key for key, one in mesh.services.items() if one.service and (all_doors or one.service in names))
    return [(key, mesh.services[key]) for key in (*keys, *doors) if key in mesh.services]


def _policies(state: ZoneState, mesh: str) -> MeshPolicies:
    """The policies of a mesh: global's and the zone's own."""
    found = (
        (stored.resource, stored)
        for log in (state.hub, state.own)
        for kind in POLICY_KINDS
        for key, stored in log.kinds.get(kind, Map()).items()
        if key.mesh == mesh
    )
    older = (stored for key, stored in state.hub.kinds.get(TRAFFIC_PERMISSION, Map()).items() if key.mesh == mesh)
    return mesh_policies(((policy, stored) for policy, stored in found if isinstance(policy, Policy)), older)


def _all_services(state: ZoneState) -> Iterable[ResourceKey]:
    for log in (state.hub, state.own):
        yield from log.kinds.get("MeshExternalService", Map())
    yield from external_hosts(state.hub).doors


def _mesh_view(state: ZoneState, name: str, before: MeshView | None) -> MeshView | None:
    stored = _mesh(state.hub, name) or _mesh(state.own, name, state.zone)
    if stored is None or not isinstance(stored.resource, Mesh):
        return None
    mesh = stored.resource
    enabled = mesh.mtls.enabled_backend if mesh.mtls is not None else ""
    backend = next((item for item in (mesh.mtls.backends if mesh.mtls else ()) if item.name == enabled), None)
    seconds = duration_seconds(backend.dp_cert.rotation.expiration) if backend is not None else None
    view = MeshView(
        name=name,
        mtls=backend is not None,
        backend=backend.name if backend is not None else "",
        certificate_seconds=seconds or DEFAULT_CERTIFICATE_SECONDS,
        origination="egress" if through_egress(mesh) else "sidecar",
        forbid_external=mesh.routing.default_forbid_mesh_external_service_access,
        passthrough=mesh.networking.outbound.passthrough,
        services=before.services if before is not None else Map(),
        sources=(stored.last,),
        permissive=backend is not None and backend.mode == "PERMISSIVE",
        policies=before.policies if before is not None else _policies(state, name),
        readers=before.readers if before is not None else Map(),
        workloads=before.workloads if before is not None else NO_WORKLOADS,
        narrowed=_narrowed(state, name),
        legacy=before.legacy if before is not None else (),
        legacy_egress=legacy_through_egress(mesh),
        gateways=before.gateways if before is not None else Map(),
        gateway_routes=before.gateway_routes if before is not None else Map(),
        fronts=before.fronts if before is not None else Map(),
        abroad=before.abroad if before is not None else Map(),
    )
    if before is not None:
        return view
    members = [key.name for key in state.own.kinds.get("Dataplane", Map()) if key.mesh == name]
    view = with_dataplanes(state, view, members)
    view = with_gateways(state, view, all_gateways(state, name))
    return _with_services(state, view, [key for key in _all_services(state) if key.mesh == name])


def _mesh(log: LogState, name: str, zone: str = "") -> Stored | None:
    return log.resources.get(ResourceKey("Mesh", "", name, zone))


def _egresses(state: ZoneState) -> tuple[EgressView, ...]:
    """The online zone egresses, one per resource, by name."""
    found: dict[str, EgressView] = {}
    for status in state.own.proxies.values():
        stored = state.own.resources.get(status.key) if status.online else None
        if stored is not None and isinstance(stored.resource, ZoneEgress):
            networking = stored.resource.networking
            found[status.key.name] = EgressView(
                status.key.name, networking.address, networking.port, (stored.last, status.event)
            )
    return tuple(found[name] for name in sorted(found))
