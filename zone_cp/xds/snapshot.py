"""Snapshot: everything one proxy should hold, already encoded (`wire.py`), with the cause of every resource."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from immutables import Map

from shared.events.state import Position
from zone_cp.view.lineage import UNKNOWN, Lineage
from zone_cp.view.sources import Sources

TYPE_PREFIX = "type.googleapis.com/"
CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION_CONFIG = TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
RUNTIME = TYPE_PREFIX + "envoy.service.runtime.v3.Runtime"

PUSH_ORDER = (SECRET, CLUSTER, ENDPOINT, RUNTIME, LISTENER, ROUTE, EXTENSION_CONFIG)
"""Order of additions and changes (xds.md §3, §7.6), save of EXTENSION_CONFIG (`ads/guarding.py`); removals go the
other way. A limit is there before its listener.
"""


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """One xDS resource, encoded once and shared by every stream.

    body is the resource message itself; field is the bytes of a whole `resources` entry of a
    DeltaDiscoveryResponse including tag and length; version is a content hash, the same in every instance.
    """

    name: str
    type_url: str
    version: str
    body: bytes
    field: bytes
    sources: Sources = ()


class Snapshot(msgspec.Struct, frozen=True):
    """resources: type URL, then name. position is the moment it was compiled from.

    versions: by type URL, what is reported as the version of the whole type; the position where there is none.
    lineages: by type URL, which earlier maps of `resources` the one here was made from. A type that did not change is
    the same map as before; a type without a lineage is compared as a whole.
    on_demand: clusters whose names begin like this are sent to who names or holds them only ("": none).
    """

    position: Position
    resources: Map[str, Map[str, Encoded]]
    versions: Map[str, str] = Map()
    lineages: Map[str, Lineage] = Map()
    on_demand: str = ""


def following(before: Snapshot, position: Position, changes: Mapping[str, Mapping[str, Encoded | None]]) -> Snapshot:
    """The snapshot after `before`, with `changes` by type URL and name (None: it is gone).

    Work is proportional to the changes. Types in which nothing comes out different keep their map, and a snapshot in
    which no type does is `before` itself: it goes on holding at `position`.
    """
    resources, lineages = before.resources, before.lineages
    for type_url, changed in changes.items():
        held = before.resources.get(type_url, _NOTHING)
        differing = {name: one for name, one in changed.items() if not _same(held.get(name), one)}
        if not differing:
            continue
        after = held.mutate()
        for name, one in differing.items():
            if one is None:
                del after[name]
            else:
                after[name] = one
        resources = resources.set(type_url, after.finish())
        lineages = lineages.set(type_url, lineages.get(type_url, UNKNOWN).then(held, differing))
    if resources is before.resources:
        return before
    return Snapshot(position, resources, before.versions, lineages, before.on_demand)


def differing(before: Snapshot, after: Snapshot, type_url: str) -> list[str]:
    """Names of one type of which the two snapshots do not hold the same version. Work is proportional to the changes
    where `after` was made from `before`.
    """
    old, new = (one.resources.get(type_url, _NOTHING) for one in (before, after))
    if old is new:
        return []
    names = after.lineages.get(type_url, UNKNOWN).since(old)
    names = {*old, *new} if names is None else names
    return [name for name in names if _version(old, name) != _version(new, name)]


_NOTHING: Map[str, Encoded] = Map()


def _version(held: Map[str, Encoded], name: str) -> str:
    return held[name].version if name in held else ""


def _same(one: Encoded | None, other: Encoded | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or (one.version == other.version and one.sources == other.sources)
