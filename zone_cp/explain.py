"""Explain: why a proxy holds a resource, or why not: resource, rule, event, and the event that led to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from immutables import Map

from shared.events.conditions import Condition, Delivery, service_conditions
from shared.events.event import GLOBAL, Event, EventRef
from shared.events.external_hosts import external_hosts
from shared.events.history import History
from shared.events.legacy_conditions import legacy_rows
from shared.events.state import Position, ZoneState
from shared.model import codec
from shared.model.kinds import is_legacy
from shared.model.policy import POLICY_KINDS
from shared.model.resource import Dataplane, ResourceKey, ZoneEgress
from zone_cp.provenance import causes, users
from zone_cp.replay import RedactedSecrets, known_proxy, snapshot_at
from zone_cp.view.gateways import bound_gateway
from zone_cp.view.project import project
from zone_cp.view.zone_view import Failure, MeshView, ProxyView, ZoneView
from zone_cp.xds.compile import compile_whole, reads
from zone_cp.xds.gateway_hosts import listener_name
from zone_cp.xds.inspect import short_type
from zone_cp.xds.ways import dialled_through_egress

ROLES = {
    "MeshExternalService": "what the service is",
    "ExternalService": "what the service is",
    "Mesh": "what its mesh asks for",
    "Secret": "what it reads",
    "MeshGateway": "what a gateway listens for",
    "MeshGatewayRoute": "where a gateway sends what it accepts",
    "Dataplane": "where a workload is",
    "ZoneEgress": "where the zone egress is",
    "VipLeased": "its address",
    "HostnameClaimed": "its name",
    "ProxyConnected": "a proxy is connected",
    "ProxyDisconnected": "a proxy is not connected",
    "VipsYielded": "a proxy is given no VIPs",
    "PushHeld": "a push to the proxy is held back",
    "ResourceQuarantined": "a version of it that was refused is kept back",
}
"""By kind of resource or of change: what an event has to do with a resource."""
PLAIN_NAMES_MAX = 20
"""Resources that use another one and are named."""


class Cause(msgspec.Struct, frozen=True):
    """An event: what it did, what that has to do with the resource, and the event that it follows from."""

    event: str
    time: str
    actor: str
    what: str
    role: str = ""
    because: Cause | None = None


class Explanation(msgspec.Struct, frozen=True):
    """One resource that a proxy holds. used_by: those that are the reason for its being there."""

    resource: str
    used_by: tuple[str, ...]
    causes: tuple[Cause, ...]


def explain(history: History, zone: str, position: Position, proxy: str, wanted: str) -> list[Explanation]:
    """Why `proxy` holds each resource that `wanted` names: an xDS name, a hostname, a VIP or a resource's name.

    Empty when nothing matches. Raises NoSuchMoment when the proxy was unknown.
    """
    state = history.state(zone, position)
    known, view = known_proxy(state, proxy), project(state)
    names = {wanted, *_names(view, wanted), *_listeners(view, known, wanted)}
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(one)}(?![\w-])" for one in sorted(names)))
    snapshot = snapshot_at(history, zone, position, proxy)
    found = []
    for type_url, resources in snapshot.resources.items():
        for name, encoded in sorted(resources.items()):
            if pattern.search(name):
                used = [f"{short_type(one.type_url)} {one.name}" for one in users(snapshot, encoded)]
                cited = {*causes(snapshot, encoded, known), *_kept_back(state, proxy, type_url, name)}
                links = [_cause(history, one) for one in sorted(cited, key=_moment)]
                found.append(Explanation(f"{short_type(type_url)} {name}", tuple(used[:PLAIN_NAMES_MAX]), tuple(links)))
    return found


def absent(history: History, zone: str, position: Position, proxy: str, wanted: str) -> list[str]:
    """Why `proxy` holds nothing that `wanted` names, or nothing that works: sentences, the most telling first."""
    state = history.state(zone, position)
    known, view = known_proxy(state, proxy), project(state)
    keys = list(_services(state, view, wanted))
    if not keys:
        return [f'there is no external service, hostname or VIP "{wanted}" in zone {zone} at {position}']
    return list(dict.fromkeys(reason for key in keys for reason in _missing(state, view, known, key)))


def _missing(state: ZoneState, view: ZoneView, proxy: ProxyView, key: ResourceKey) -> Iterator[str]:
    resource, mesh = proxy.resource, view.meshes.get(key.mesh)
    if not state.own.proxies[proxy.proxy].online:
        yield f"{proxy.proxy} is not connected"
    if isinstance(resource, Dataplane) and resource.mesh != key.mesh:
        yield f"{proxy.proxy} is in mesh {resource.mesh}, {key} in mesh {key.mesh}"
    for one in _conditions(state, key, compile_whole(view, proxy, RedactedSecrets()).failures):
        if one.status != "True":
            yield f"{key}: {one.type} is {one.status}, {one.reason}: {one.message}"
    if mesh is None:
        return
    yield from _held_back(state, mesh, proxy.proxy, key)
    if isinstance(resource, ZoneEgress) and not dialled_through_egress(mesh, key):
        why = f"mesh {mesh.name} does not leave through the zone egress"
        why = f"routing.zoneEgress of mesh {mesh.name} is not set" if is_legacy(key) else why
        yield f"{why}: its sidecars dial {key.name} themselves"
    if isinstance(resource, Dataplane) and dialled_through_egress(mesh, key) and not reads(view, proxy).any_of([key]):
        yield f"a sidecar with one listener for all VIPs holds nothing of its own for {key.name}: the egress does"


def _conditions(state: ZoneState, key: ResourceKey, failures: Mapping[ResourceKey, Failure]) -> Iterable[Condition]:
    """What is said of a service, as this proxy was found to serve it."""
    told = {one: Delivery(acked=True, refused=why.message, reason=why.reason) for one, why in failures.items()}
    if not is_legacy(key):
        return service_conditions(key, state.hub, state.own, state.zone, delivery=told.get(key))
    doors = {door: told[door] for door in external_hosts(state.hub).of.get(key, ()) if door in told}
    rows = legacy_rows(state.hub, state.own, state.zone, delivery=doors or None, keys=(key,))
    return [one for row in rows for one in row.conditions]


def _held_back(state: ZoneState, mesh: MeshView, proxy: str, key: ResourceKey) -> Iterator[str]:
    """What the zone keeps from the proxy of what it should have of a service."""
    hold = state.own.holds.get(proxy)
    if hold is not None and not hold.released:
        yield f"a push to {proxy} is held back since event {hold.event}: {hold.reason}"
    if (yielded := state.own.yields.get(proxy)) is not None:
        yield f"{proxy} is given no VIPs since event {yielded.event}: {yielded.to}, of its host, listens there"
    doors = external_hosts(state.hub).of.get(key, ()) if is_legacy(key) else (key,)
    names = {service.cluster for door in doors if (service := mesh.services.get(door)) is not None}
    for _, one in sorted(state.own.quarantined.items()):
        if one.name in names:
            what = f"{short_type(one.type_url)} {one.name}"
            yield f"a version of {what} is kept back since event {one.event}, {one.proxy} refused it: {one.reason}"


def _kept_back(state: ZoneState, proxy: str, type_url: str, name: str) -> Iterator[EventRef]:
    """The events because of which a proxy may hold an earlier version of a resource."""
    hold = state.own.holds.get(proxy)
    if hold is not None and not hold.released:
        yield hold.event
    for one in state.own.quarantined.values():
        if (one.type_url, one.name) == (type_url, name):
            yield one.event


# --- what is meant ----------------------------------------------------------------------------------------------


def _names(view: ZoneView, wanted: str) -> Iterator[str]:
    for mesh in view.meshes.values():
        for service in mesh.services.values():
            if wanted in (service.vip, service.name, service.service, str(service.key), *service.hostnames):
                yield service.cluster
                yield service.vip
        for one in mesh.abroad.values():
            if wanted in (one.gateway.name, str(one.gateway), *one.hostnames):
                yield one.vip


def _listeners(view: ZoneView, proxy: ProxyView, wanted: str) -> Iterator[str]:
    """What a builtin gateway listens with for a hostname that its MeshGateway says."""
    mesh = view.meshes.get(proxy.resource.mesh) if isinstance(proxy.resource, Dataplane) else None
    gateway = bound_gateway(mesh, proxy.resource) if mesh and isinstance(proxy.resource, Dataplane) else None
    if gateway is not None:
        found = (one for one in gateway.ports if any(wanted == each.hostname for each in one.listeners))
        yield from (listener_name(gateway, port) for port in found)


def _services(state: ZoneState, view: ZoneView, wanted: str) -> Iterator[ResourceKey]:
    """The resources that `wanted` means; of a door of legacy ExternalServices, those behind it."""
    found: dict[ResourceKey, None] = {}
    behind: dict[ResourceKey, list[ResourceKey]] = {}
    for key, doors in external_hosts(state.hub).of.items():
        for door in doors:
            behind.setdefault(door, []).append(key)
    for mesh in view.meshes.values():
        for service in mesh.services.values():
            if wanted and wanted in (service.vip, service.cluster, service.service, *service.hostnames):
                found |= dict.fromkeys(behind.get(service.key, (service.key,)))
    for log in (state.hub, state.own):
        for kind in ("MeshExternalService", "ExternalService"):
            found |= dict.fromkeys(key for key in log.kinds.get(kind, Map()) if wanted in (key.name, str(key)))
    yield from sorted(found)


# --- events -----------------------------------------------------------------------------------------------------


def _moment(reference: EventRef) -> tuple[str, str, int]:
    return (reference.time, reference.origin, reference.n)


def _cause(history: History, reference: EventRef) -> Cause:
    event = history.event(reference.origin or GLOBAL, reference.n)
    behind = _behind(history, event)
    return _link(event, None if behind is None else _link(behind, None))


def _behind(history: History, event: Event) -> Event | None:
    """The event that a zone decided about: the one of global's that it had just seen, or one just before of its own."""
    if not event.cause:
        return None
    log = history.log(event.origin)
    places = [(history.hub, event.seen)] if event.origin != GLOBAL else []
    places += [(log, n) for n in range(event.n - 1, max(0, event.n - 1 - _NEAR), -1)]
    for where, n in places:
        if 1 <= n <= len(where) and where.envelope(n).id == event.cause:
            return where.event(n)
    return None


_NEAR = 64
"""How far back in its own log a cause is looked for: decisions stand right behind what they are about."""


def _link(event: Event, because: Cause | None) -> Cause:
    change: dict[str, Any] = codec.to_plain(event.change)
    subject = change.get("resource") or change.get("key") or change
    parts = [str(subject[part]) for part in ("type", "kind", "mesh", "name") if subject.get(part)]
    parts += [str(change[part]) for part in ("ip", "hostname", "proxy") if change.get(part)]
    if generator := change.get("generator"):
        parts.append(f"by {generator['kind']} {generator['name']}")
    kind = str(subject.get("type") or subject.get("kind") or "")
    role = ROLES.get(change["type"]) or ("what a policy says" if kind in POLICY_KINDS else ROLES.get(kind, ""))
    reference = f"{event.origin}:{event.n}" if event.origin != GLOBAL else str(event.n)
    what = " ".join(dict.fromkeys([change["type"], *parts]))
    return Cause(reference, event.time, event.actor, what, role, because)
