"""Snapshot: everything one proxy should hold, already encoded (`wire.py`), with the cause of every resource."""

from __future__ import annotations

import msgspec
from immutables import Map

from shared.events.state import Position
from zone_cp.view.zone_view import Sources

TYPE_PREFIX = "type.googleapis.com/"
CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINT = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTE = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION_CONFIG = TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"

PUSH_ORDER = (SECRET, CLUSTER, ENDPOINT, LISTENER, ROUTE, EXTENSION_CONFIG)
"""Order of additions and changes (xds.md §3, §7.6); removals go the other way."""


class Encoded(msgspec.Struct, frozen=True):
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
    """

    position: Position
    resources: Map[str, Map[str, Encoded]]
    versions: Map[str, str] = Map()
