"""A sidecar's outbounds by tags: one listener each, that leads to the ready instances of an in-mesh service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from envoy_data_plane.envoy.config.core import v3 as core
from msgspec.structs import replace

from shared.events.cross_mesh import is_abroad
from shared.events.external_hosts import service_door
from shared.model.inbound import SERVICE_TAG
from shared.model.resource import Outbound, Protocol, protocol_class
from zone_cp.view.policies import Effective
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView, ProxyView
from zone_cp.xds.chains import chain, listening
from zone_cp.xds.connection_policies import chain_tuning
from zone_cp.xds.filters import Logged, Tuning, proxy_to
from zone_cp.xds.in_mesh import Destination, destination, endpoints, in_mesh_resources, spoken
from zone_cp.xds.in_mesh_routes import outbound_manager, outbound_routes
from zone_cp.xds.log_policies import Parties
from zone_cp.xds.snapshot import LISTENER, Encoded
from zone_cp.xds.wire import encode


def outbound_resources(
    mesh: MeshView,
    proxy: ProxyView,
    outbounds: Sequence[Outbound],
    said: Effective,
    *,
    parties: Parties,
    logged: Logged,
) -> Iterator[Encoded]:
    """The listeners of outbounds by tags, with the clusters, endpoints and routes that they lead to."""
    wheres = [(one, destination(one.tags)) for one in outbounds]
    for where in dict.fromkeys(where for _, where in wheres):
        yield from in_mesh_resources(mesh, where, said)
        if spoken(mesh, where) != "tcp":
            yield outbound_routes(mesh, where, said)
    for outbound, where in wheres:
        protocol = spoken(mesh, where)
        tuning = chain_tuning(said, protocol_class(protocol), replace(parties, destination=where.service))
        name = f"outbound/{outbound.address}:{outbound.port}"
        only = _filter(mesh.name, where, protocol, replace(logged, stat_prefix=name), tuning)
        served = endpoints(mesh, where, tls=mesh.mtls).sources
        body = _listener(name, outbound.address, outbound.port, only, exclusive=proxy.exclusive)
        yield encode(LISTENER, name, body, joined(proxy.sources, served, said.sources))


def outside(mesh: MeshView, outbound: Outbound) -> ExternalServiceView | None:
    """The door that an outbound by tags goes through; None where it leads into the mesh.

    A service that Dataplanes of the zone declare goes before an ExternalService, and instances alone carry more tags.
    """
    name = outbound.tags.get(SERVICE_TAG, "")
    if not mesh.legacy or not name or len(outbound.tags) > 1 or name in mesh.workloads.services:
        return None
    return mesh.services.get(service_door(mesh.name, name))


def within(mesh: MeshView, outbound: Outbound) -> bool:
    """Whether an outbound by tags leads to other workloads of the mesh."""
    return SERVICE_TAG in outbound.tags and outside(mesh, outbound) is None and not is_abroad(outbound, mesh.name)


def _filter(mesh: str, where: Destination, protocol: Protocol, logged: Logged, tuning: Tuning) -> bytes:
    if protocol == "tcp":
        return proxy_to(where.cluster(mesh), logged, tuning)
    return outbound_manager(mesh, where, logged, tuning)


@lru_cache(maxsize=4096)
def _listener(name: str, host: str, port: int, only: bytes, *, exclusive: bool) -> bytes:
    direction = core.TrafficDirection.OUTBOUND
    return listening(name, host, port, (chain((only,)),), direction=direction, exclusive=exclusive)
