"""Project: a ZoneState becomes the ZoneView that proxies are served from. Pure; no clock.

`project` builds everything, `project_next` only what some events touched: whatever did not change is the same
object as before, so that the compiler's memo hits. Both give equal views.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TypeVar

import msgspec
from immutables import Map

from shared.events.conditions import through_egress
from shared.events.event import (
    GLOBAL,
    Event,
    EventRef,
    HostnameClaimed,
    HostnameQuarantined,
    ProxyConnected,
    ProxyDisconnected,
    ResourceApplied,
    ResourceDeleted,
    VipLeased,
    VipQuarantined,
    ZoneSettingsChanged,
)
from shared.events.state import LogState, Narrowed, Stored, ZoneState
from shared.model.policy import POLICY_KINDS, Policy
from shared.model.resource import (
    Dataplane,
    Mesh,
    MeshExternalService,
    ProtocolClass,
    ResourceKey,
    ZoneEgress,
    key_of,
)
from shared.naming.vip import CidrFault, parse_cidr, ranges
from zone_cp.view.expiries import NO_EXPIRIES
from zone_cp.view.policies import MeshPolicies, effective, for_egress, mesh_policies, permission
from zone_cp.view.services import secrets_of, service_view
from zone_cp.view.workloads import NO_WORKLOADS, workloads_next
from zone_cp.view.zone_view import EgressView, ExternalServiceView, MeshView, ProxyView, ZoneView

DEFAULT_CERTIFICATE_SECONDS = 24 * 3600

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_duration = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

K = TypeVar("K")
S = TypeVar("S", ExternalServiceView, ExternalServiceView | None)


class Touched(msgspec.Struct):
    """What some events may have changed of a view: services by key, meshes by name, Secrets by (mesh, name),
    policies by the mesh they are in, Dataplanes by key, proxies by id.
    """

    services: set[ResourceKey] = msgspec.field(default_factory=set)
    meshes: set[str] = msgspec.field(default_factory=set)
    secrets: set[tuple[str, str]] = msgspec.field(default_factory=set)
    policies: set[str] = msgspec.field(default_factory=set)
    dataplanes: set[ResourceKey] = msgspec.field(default_factory=set)
    proxies: set[str] = msgspec.field(default_factory=set)
    egresses: bool = False
    settings: bool = False


def project(state: ZoneState) -> ZoneView:
    """The view of a zone at one moment, built whole."""
    touched = Touched(meshes={key.name for log in (state.hub, state.own) for key in log.kinds.get("Mesh", Map())})
    touched.egresses = touched.settings = True
    expiries = NO_EXPIRIES.following(state, (key for key, _ in _all_services(state)))
    empty = ZoneView(state.zone, state.position, Map(), (), Map(), expiries=expiries)
    return _rebuild(empty, state, touched)


def project_next(
    view: ZoneView, before: ZoneState, after: ZoneState, events: Iterable[Event] | None = None
) -> ZoneView:
    """The view of `after`, given the one of `before`. `events` are those between them, of both logs: with them the
    work is proportional to what they touch, without them the two states are compared.
    """
    return _rebuild(view, after, _differing(before, after) if events is None else _touched_by(events))


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
        tuple(dict.fromkeys((stored.last, status.event))),
    )


def dns_table(view: ZoneView, mesh: str) -> Map[str, str]:
    """Names that resolve in a mesh, in lower case, and their VIPs; closed services keep theirs."""
    found = view.meshes.get(mesh)
    services: Iterable[ExternalServiceView] = found.services.values() if found is not None else ()
    return Map({name.lower(): service.vip for service in services for name in service.hostnames})


def duration_seconds(text: str) -> int | None:
    """Seconds of Kuma's duration text (`24h`, `1d`, `1h30m`); None when it is not one."""
    if not text or _duration.sub("", text):
        return None
    return int(sum(float(number) * _SECONDS[unit] for number, unit in _duration.findall(text)))


# --- what changed --------------------------------------------------------------------------------------------------


def _touched_by(events: Iterable[Event]) -> Touched:
    touched = Touched()
    for event in events:
        match event.change:
            case ResourceApplied(resource=resource):
                _touch(touched, key_of(resource, "" if event.origin == GLOBAL else event.origin))
            case ResourceDeleted(key=key):
                _touch(touched, key)
            case VipLeased() | VipQuarantined() | HostnameClaimed() | HostnameQuarantined():
                touched.services.add(event.change.key)
            case ProxyConnected() | ProxyDisconnected():
                touched.egresses = True
                touched.proxies.add(event.change.proxy)
            case ZoneSettingsChanged():
                touched.settings = True
            case _:
                pass  # the other events change nothing that a view shows
    return touched


def _touch(touched: Touched, key: ResourceKey) -> None:
    match key.kind:
        case "MeshExternalService":
            touched.services.add(key)
        case "Mesh":
            touched.meshes.add(key.name)
        case "Secret":
            touched.secrets.add((key.mesh, key.name))
        case "ZoneEgress":
            touched.egresses = True
        case "Dataplane":
            touched.dataplanes.add(key)
        case kind if kind in POLICY_KINDS:
            touched.policies.add(key.mesh)
        case _:
            pass


def _differing(before: ZoneState, after: ZoneState) -> Touched:
    touched = Touched()
    for old, new in ((before.hub, after.hub), (before.own, after.own)):
        for kind in ("MeshExternalService", "Mesh", "Secret", "ZoneEgress", "Dataplane", *POLICY_KINDS):
            for key in _changed(old.kinds.get(kind, Map()), new.kinds.get(kind, Map())):
                _touch(touched, key)
    touched.services.update(_changed(before.own.leases, after.own.leases))
    touched.services.update(_changed(before.own.names, after.own.names))
    touched.proxies = _changed(before.own.proxies, after.own.proxies)
    touched.egresses = touched.egresses or bool(touched.proxies)
    touched.settings = before.own.settings is not after.own.settings
    return touched


def _changed(before: Mapping[K, object], after: Mapping[K, object]) -> set[K]:
    if before is after:
        return set()
    return {key for key, value in after.items() if before.get(key) is not value} | {k for k in before if k not in after}


# --- building --------------------------------------------------------------------------------------------------------


def _rebuild(view: ZoneView, state: ZoneState, touched: Touched) -> ZoneView:
    meshes = view.meshes
    for name in sorted(touched.meshes):
        mesh = _mesh_view(state, name, meshes.get(name))
        if mesh is not None:
            meshes = meshes.set(name, mesh)
        elif name in meshes:
            meshes = meshes.delete(name)
    for name in touched.policies & set(meshes):
        meshes = meshes.set(name, _with_policies(meshes[name], _policies(state, name), _narrowed(state, name)))
    by_mesh: dict[str, set[ResourceKey]] = {}
    for key in (*touched.services, *view.expiries.due(state)):
        by_mesh.setdefault(key.mesh, set()).add(key)
    for name, secret in touched.secrets:
        by_mesh.setdefault(name, set()).update(_using(state, name, secret))
    for name, keys in by_mesh.items():
        if name in meshes:
            services = _services(state, meshes[name].services, keys, meshes[name].policies)
            if services is not meshes[name].services:
                meshes = meshes.set(name, msgspec.structs.replace(meshes[name], services=services))
    for name, dataplanes in _dataplanes(state, touched).items():
        if name in meshes:
            workloads = workloads_next(meshes[name].workloads, state, name, sorted(dataplanes))
            if workloads is not meshes[name].workloads:
                meshes = meshes.set(name, msgspec.structs.replace(meshes[name], workloads=workloads))
    return ZoneView(
        zone=view.zone,
        position=state.position,
        meshes=meshes,
        egresses=_egresses(state) if touched.egresses else view.egresses,
        vip_ranges=_vip_ranges(state) if touched.settings else view.vip_ranges,
        on_demand_above=_on_demand_above(state) if touched.settings else view.on_demand_above,
        expiries=view.expiries.following(state, chain.from_iterable(by_mesh.values())),
    )


def _dataplanes(state: ZoneState, touched: Touched) -> dict[str, set[str]]:
    """The Dataplanes that changed, or whose proxy did, by mesh."""
    keys = set(touched.dataplanes)
    statuses = (state.own.proxies.get(proxy) for proxy in touched.proxies)
    keys.update(status.key for status in statuses if status is not None and status.key.kind == "Dataplane")
    found: dict[str, set[str]] = {}
    for key in keys:
        found.setdefault(key.mesh, set()).add(key.name)
    return found


def _services(
    state: ZoneState,
    services: Map[ResourceKey, ExternalServiceView],
    keys: Iterable[ResourceKey],
    policies: MeshPolicies,
) -> Map[ResourceKey, ExternalServiceView]:
    for key in keys:
        service = _governed(service_view(state, key), policies)
        if service is None:
            services = services.delete(key) if key in services else services
        elif services.get(key) != service:
            services = services.set(key, service)
    return services


def _governed(service: S, policies: MeshPolicies) -> S:
    """A service with what policies say about it; the same object where they say what they said before."""
    if service is None:
        return service
    outside = effective(for_egress(policies), service.key, service.labels)
    guarded = permission(policies, service.key, service.labels)
    if (outside, guarded) == (service.outside, service.permission):
        return service
    return msgspec.structs.replace(service, outside=outside, permission=guarded)


def _narrowed(state: ZoneState, mesh: str) -> tuple[tuple[Narrowed, EventRef], ...]:
    found = (item for log in (state.hub, state.own) for item in log.narrowed.get(mesh, Map()).items())
    return tuple(sorted(found, key=lambda one: (one[1].origin, one[1].n, repr(one[0]))))


def _with_policies(mesh: MeshView, policies: MeshPolicies, narrowed: tuple[tuple[Narrowed, EventRef], ...]) -> MeshView:
    services = mesh.services
    for key, service in mesh.services.items():
        after = _governed(service, policies)
        if after is not service:
            services = services.set(key, after)
    return msgspec.structs.replace(mesh, policies=policies, narrowed=narrowed, services=services)


def _policies(state: ZoneState, mesh: str) -> MeshPolicies:
    """The policies of a mesh: global's and the zone's own."""
    found = (
        (stored.resource, stored)
        for log in (state.hub, state.own)
        for kind in POLICY_KINDS
        for key, stored in log.kinds.get(kind, Map()).items()
        if key.mesh == mesh
    )
    return mesh_policies((policy, stored) for policy, stored in found if isinstance(policy, Policy))


def _using(state: ZoneState, mesh: str, secret: str) -> set[ResourceKey]:
    return {
        key
        for key, stored in _all_services(state)
        if key.mesh == mesh
        and isinstance(stored.resource, MeshExternalService)
        and secret in secrets_of(stored.resource)
    }


def _all_services(state: ZoneState) -> Iterable[tuple[ResourceKey, Stored]]:
    for log in (state.hub, state.own):
        yield from log.kinds.get("MeshExternalService", Map()).items()


def _mesh_view(state: ZoneState, name: str, before: MeshView | None) -> MeshView | None:
    stored = _mesh(state.hub, name) or _mesh(state.own, name, state.zone)
    if stored is None or not isinstance(stored.resource, Mesh):
        return None
    mesh = stored.resource
    if before is not None:
        services, policies, workloads = before.services, before.policies, before.workloads
    else:
        policies = _policies(state, name)
        services = _services(state, Map(), [key for key, _ in _all_services(state) if key.mesh == name], policies)
        members = [key.name for key in state.own.kinds.get("Dataplane", Map()) if key.mesh == name]
        workloads = workloads_next(NO_WORKLOADS, state, name, members)
    enabled = mesh.mtls.enabled_backend if mesh.mtls is not None else ""
    backend = next((item for item in (mesh.mtls.backends if mesh.mtls else ()) if item.name == enabled), None)
    seconds = duration_seconds(backend.dp_cert.rotation.expiration) if backend is not None else None
    return MeshView(
        name=name,
        mtls=backend is not None,
        backend=backend.name if backend is not None else "",
        certificate_seconds=seconds or DEFAULT_CERTIFICATE_SECONDS,
        origination="egress" if through_egress(mesh) else "sidecar",
        forbid_external=mesh.routing.default_forbid_mesh_external_service_access,
        passthrough=mesh.networking.outbound.passthrough,
        services=services,
        sources=(stored.last,),
        permissive=backend is not None and backend.mode == "PERMISSIVE",
        policies=policies,
        workloads=workloads,
        narrowed=_narrowed(state, name),
    )


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


def _vip_ranges(state: ZoneState) -> Map[ProtocolClass, tuple[str, ...]]:
    settings = state.own.settings
    if settings is None or isinstance(parse_cidr(settings.cidr), CidrFault):
        return Map()
    return ranges(settings.cidr)


def _on_demand_above(state: ZoneState) -> int:
    said = msgspec.UNSET if state.own.settings is None else state.own.settings.egress_on_demand_above
    return sys.maxsize if said is msgspec.UNSET else said
