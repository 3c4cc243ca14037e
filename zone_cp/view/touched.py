"""What events may have changed of a zone's view, told from the events or by comparing the states around them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from immutables import Map

from shared.events.event import (
    GLOBAL,
    DataKeyWrapped,
    Event,
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
from shared.events.external_hosts import external_hosts
from shared.events.state import ZoneState, moved
from shared.model.kinds import is_cross_mesh_host, is_legacy
from shared.model.policy import POLICY_KINDS
from shared.model.resource import ResourceKey, key_of
from shared.model.traffic_permission import TRAFFIC_PERMISSION

GATEWAY_KINDS = frozenset({"MeshGateway", "MeshGatewayRoute"})
_PROXY_KINDS = frozenset({"Dataplane", "ZoneEgress"})
_KINDS = (
    "MeshExternalService",
    "ExternalService",
    "Mesh",
    "Secret",
    "HostnameGenerator",
    *sorted(GATEWAY_KINDS),
    *sorted(_PROXY_KINDS),
    *POLICY_KINDS,
    TRAFFIC_PERMISSION,
)


class Touched(msgspec.Struct):
    """Services by key (legacy: ExternalServices and hosts of such; abroad: what meshes see of others' MeshGateways),
    MeshGateways and their routes by key, meshes by name, Secrets by (mesh, name), policies by the mesh they are in,
    data keys by id, proxies by id and by the resource that they are.
    """

    services: set[ResourceKey] = msgspec.field(default_factory=set)
    legacy: set[ResourceKey] = msgspec.field(default_factory=set)
    abroad: set[ResourceKey] = msgspec.field(default_factory=set)
    gateways: set[ResourceKey] = msgspec.field(default_factory=set)
    meshes: set[str] = msgspec.field(default_factory=set)
    secrets: set[tuple[str, str]] = msgspec.field(default_factory=set)
    policies: set[str] = msgspec.field(default_factory=set)
    data_keys: set[str] = msgspec.field(default_factory=set)
    proxies: set[str] = msgspec.field(default_factory=set)
    resources: set[ResourceKey] = msgspec.field(default_factory=set)
    generators: bool = False
    settings: bool = False


def touched_by(events: Iterable[Event]) -> Touched:
    """What these events may have changed."""
    touched = Touched()
    for event in events:
        match event.change:
            case ResourceApplied(resource=resource):
                _touch(touched, key_of(resource, "" if event.origin == GLOBAL else event.origin))
            case ResourceDeleted(key=key):
                _touch(touched, key)
            case VipLeased() | VipQuarantined() | HostnameClaimed() | HostnameQuarantined():
                _touch_held(touched, event.change.key)
            case ProxyConnected(proxy=proxy) | ProxyDisconnected(proxy=proxy):
                touched.proxies.add(proxy)
            case DataKeyWrapped(kid=kid):
                touched.data_keys.add(kid)
            case ZoneSettingsChanged():
                touched.settings = True
            case _:
                pass  # the other events change nothing that a view shows
    return touched


def differing(before: ZoneState, after: ZoneState) -> Touched:
    """What may have changed between two states; looks at all of what is not the same map."""
    touched = Touched()
    for old, new in ((before.hub, after.hub), (before.own, after.own)):
        for kind in _KINDS:
            for key in moved(old.kinds.get(kind, Map()), new.kinds.get(kind, Map())):
                _touch(touched, key)
        touched.data_keys.update(moved(old.data_keys, new.data_keys))
        # A policy that came and went in between took access nevertheless.
        touched.policies.update(moved(old.narrowed, new.narrowed))
    for key in (*moved(before.own.leases, after.own.leases), *moved(before.own.names, after.own.names)):
        _touch_held(touched, key)
    touched.proxies.update(moved(before.own.proxies, after.own.proxies))
    touched.settings = before.own.settings is not after.own.settings
    return touched


def _touch_held(touched: Touched, key: ResourceKey) -> None:
    if is_cross_mesh_host(key):
        touched.abroad.add(key)
    else:
        (touched.legacy if is_legacy(key) else touched.services).add(key)


def add_doors(touched: Touched, *states: ZoneState) -> None:
    """Add the doors that are to be looked at again for what was touched of ExternalServices, in these states.

    All doors of a host are: what one of them speaks depends on the others.
    """
    if not touched.legacy and not touched.meshes:
        return
    for state in states:
        found = external_hosts(state.hub)
        hosts = {key for key in touched.legacy if key in found.hosts}
        hosts.update(found.doors[door].host for key in touched.legacy for door in found.of.get(key, ()))
        hosts.update(key for key in found.hosts if key.mesh in touched.meshes)
        touched.services.update(door.key for key in hosts for door in found.hosts[key].doors)


def _touch(touched: Touched, key: ResourceKey) -> None:
    match key.kind:
        case "MeshExternalService":
            touched.services.add(key)
        case "ExternalService":
            touched.legacy.add(key)
        case "Mesh":
            touched.meshes.add(key.name)
        case "HostnameGenerator":
            touched.generators = True
        case "Secret":
            touched.secrets.add((key.mesh, key.name))
        case kind if kind in GATEWAY_KINDS:
            touched.gateways.add(key)
        case kind if kind in _PROXY_KINDS:
            touched.resources.add(key)
        case kind if kind in POLICY_KINDS or kind == TRAFFIC_PERMISSION:
            touched.policies.add(key.mesh)
        case _:
            pass


def dataplanes_touched(state: ZoneState, touched: Touched) -> dict[str, set[str]]:
    """The Dataplanes that changed, or whose proxy did, by mesh."""
    keys = {key for key in touched.resources if key.kind == "Dataplane"}
    statuses = (state.own.proxies.get(proxy) for proxy in touched.proxies)
    keys.update(status.key for status in statuses if status is not None and status.key.kind == "Dataplane")
    found: dict[str, set[str]] = {}
    for key in keys:
        found.setdefault(key.mesh, set()).add(key.name)
    return found
