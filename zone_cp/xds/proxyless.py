"""A proxyless gRPC client: every in-mesh service under its own name, as gRPC's xDS resolver asks for it.

`xds:///backend` is an API listener `backend`, its routes, a cluster and its endpoints: the same cluster and endpoints
as a sidecar's, in plaintext, since such a client holds no certificate of the mesh. STRICT inbounds refuse it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from immutables import Map

from shared.model.resource import Dataplane, ResourceKey
from zone_cp.view.policies import Effective
from zone_cp.view.sources import joined
from zone_cp.view.workloads import WorkloadService
from zone_cp.view.zone_view import MeshView, ProxyView, ZoneView
from zone_cp.xds.assembly import NO_PART, Part
from zone_cp.xds.filters import router_filter
from zone_cp.xds.governed import governed
from zone_cp.xds.in_mesh import Destination, endpoints, in_mesh_resources
from zone_cp.xds.in_mesh_routes import outbound_routes
from zone_cp.xds.parts import OF_SOME, READS_WORKLOADS, Changed, Compiled, Draft, without
from zone_cp.xds.shape import ads, pack
from zone_cp.xds.snapshot import LISTENER, Encoded
from zone_cp.xds.wire import encode

PROXYLESS = "proxyless"
"""Feature in the node metadata of such a client."""

_NO_SERVICES: Map[str, WorkloadService] = Map()


def compile_proxyless(
    before: Compiled | None, view: ZoneView, proxy: ProxyView, resource: Dataplane, changed: Changed
) -> Compiled:
    """Everything that a client may ask for by name, given what that was; nothing while its mesh is unknown."""
    draft = Draft(before, view.position)
    old, mesh = draft.meshes.get(resource.mesh), view.meshes.get(resource.mesh)
    if mesh is None:
        without(draft, resource.mesh)
        draft.meshes = Map()
        return draft.compiled()
    services, said = mesh.workloads.services, governed(mesh, resource).at_large
    known = old.workloads.services if old is not None else _NO_SERVICES
    anew = old is None or bool(changed.view.meshes.get(mesh.name, frozenset()) - OF_SOME)
    for name in {*known, *services}:
        if anew or known.get(name) is not services.get(name):
            part = Part((*_service(mesh, name, said, proxy),)) if name in services else NO_PART
            draft.serve(ResourceKey("Dataplane", mesh.name, name), None, part)
    draft.meshes = draft.meshes.set(mesh.name, mesh)
    return draft.compiled(reads=READS_WORKLOADS)


def _service(mesh: MeshView, name: str, said: Effective, proxy: ProxyView) -> Iterator[Encoded]:
    where = Destination(name)
    sources = joined(proxy.sources, endpoints(mesh, where, tls=False).sources)
    yield encode(LISTENER, name, _api_listener(name, where.cluster(mesh.name)), sources)
    yield outbound_routes(mesh, where, said)
    yield from in_mesh_resources(mesh, where, said, plain=True)


@lru_cache(maxsize=4096)
def _api_listener(name: str, routes: str) -> bytes:
    rds = hcm.Rds(config_source=ads(), route_config_name=routes)
    manager = hcm.HttpConnectionManager(rds=rds, http_filters=[router_filter()])
    return bytes(listener.Listener(name=name, api_listener=listener.ApiListener(api_listener=pack(manager))))
