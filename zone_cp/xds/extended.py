"""A service that an extension answers for: its routes among its mesh's, and a cluster that dials nobody by itself.

The routes of a mesh are matched on the internal header that names the cluster, which the listener overwrites: a
client cannot choose another service's (decision 25).
"""

from __future__ import annotations

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from zone_cp.extensions.registry import generated
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ExternalServiceView, Failure
from zone_cp.xds import defaults
from zone_cp.xds.clusters import service_cluster
from zone_cp.xds.shape import part
from zone_cp.xds.snapshot import CLUSTER, Encoded
from zone_cp.xds.wire import encode

UNANSWERED = "has no answer to this request; in direct mode no route of another service reaches it"


class ExtraRoutes(msgspec.Struct, frozen=True):
    """Routes of one service, before those of all; `routes` are bytes of `route.Route`."""

    routes: tuple[bytes, ...] = ()
    sources: Sources = ()


class Extended(msgspec.Struct, frozen=True):
    """A service, compiled by its extension."""

    cluster: Encoded
    extra: ExtraRoutes


def extend(service: ExternalServiceView, mesh_sources: Sources) -> Extended | Failure | None:
    """Compile a service by its extension; None for one without."""
    made = generated(service)
    if made is None or isinstance(made, Failure):
        return made
    sources = joined(service.sources, mesh_sources)
    if made.cluster is not None:
        own = encode(CLUSTER, service.cluster, part(cluster.Cluster, "name", service.cluster) + made.cluster, sources)
    else:
        # Never dialled: what no route of the extension takes is told who should have.
        kind = service.extension.type if service.extension is not None else ""
        own = service_cluster(service, (), Failure("NotAnswered", f"extension {kind} {UNANSWERED}"), mesh_sources)
    routes = tuple(_guarded(one, service.cluster) for one in made.routes)
    return Extended(own, ExtraRoutes(routes, service.sources))


def _guarded(body: bytes, cluster_name: str) -> bytes:
    made = route.Route.parse(body)
    exact = matcher.StringMatcher(exact=cluster_name)
    made.match = made.match or route.RouteMatch(prefix="/")
    made.match.headers.append(route.HeaderMatcher(name=defaults.CLUSTER_HEADER, string_match=exact))
    return bytes(made)
