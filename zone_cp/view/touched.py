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
from shared.events.state import ZoneState, moved
from shared.model.policy import POLICY_KINDS
from shared.model.resource import ResourceKey, key_of

_PROXY_KINDS = frozenset({"Dataplane", "ZoneEgress"})
_KINDS = ("MeshExternalService", "Mesh", "Secret", "HostnameGenerator", *sorted(_PROXY_KINDS), *POLICY_KINDS)


class Touched(msgspec.Struct):
    """Services by key, meshes by name, Secrets by (mesh, name), policies by the mesh they are in, data keys by id,
    proxies by id and by the resource that they are.
    """

    services: set[ResourceKey] = msgspec.field(default_factory=set)
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
                touched.services.add(event.change.key)
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
    touched.services.update(moved(before.own.leases, after.own.leases))
    touched.services.update(moved(before.own.names, after.own.names))
    touched.proxies.update(moved(before.own.proxies, after.own.proxies))
    touched.settings = before.own.settings is not after.own.settings
    return touched


def _touch(touched: Touched, key: ResourceKey) -> None:
    match key.kind:
        case "MeshExternalService":
            touched.services.add(key)
        case "Mesh":
            touched.meshes.add(key.name)
        case "HostnameGenerator":
            touched.generators = True
        case "Secret":
            touched.secrets.add((key.mesh, key.name))
        case kind if kind in _PROXY_KINDS:
            touched.resources.add(key)
        case kind if kind in POLICY_KINDS:
            touched.policies.add(key.mesh)
        case _:
            pass
