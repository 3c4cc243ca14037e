"""An in-mesh service, or those of its instances that carry more tags → one cluster and its endpoints over EDS.

The same for sidecars' outbounds, for gateways' backends and, without TLS, for proxyless gRPC clients. A proxy that
comes or goes, or an inbound that gets ready, changes the endpoints alone; the cluster follows from the mesh, the
protocol and policies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.google import protobuf as google

from shared.model.endpoint_policy import HealthConf
from shared.model.inbound import SERVICE_TAG
from shared.model.remembering import keep
from shared.model.resource import Labels, Protocol
from shared.naming import spiffe
from zone_cp.view.policies import Effective
from zone_cp.view.sources import Sources, joined
from zone_cp.view.workloads import Instance, WorkloadService, selected
from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults
from zone_cp.xds.chains import dialling_socket
from zone_cp.xds.cluster_policies import cluster_part, connect_timeout, limits, outlier_detection, panic
from zone_cp.xds.clusters import protocol_options
from zone_cp.xds.endpoint_policies import balance, health_check
from zone_cp.xds.shape import address, ads, metadata, part
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, Encoded
from zone_cp.xds.wire import encode

REMEMBERED = 65536
"""Destinations whose endpoints are kept between compilations."""

SERVER_NAME_MAX = 255


class Destination(msgspec.Struct, frozen=True, cache_hash=True):
    """`kuma.io/service` and, sorted, further tags that an instance must carry: a subset, as in Kuma."""

    service: str
    tags: tuple[tuple[str, str], ...] = ()

    def cluster(self, mesh: str) -> str:
        """Name of the cluster, its load assignment and its routes: `service/default/backend{version=v1}`."""
        subset = ",".join(f"{tag}={value}" for tag, value in self.tags)
        return f"service/{mesh}/{self.service}" + (f"{{{subset}}}" if subset else "")


def destination(tags: Labels) -> Destination:
    """What the tags of an outbound or a backend mean. Raises KeyError without `kuma.io/service`."""
    rest = sorted((tag, value) for tag, value in tags.items() if tag != SERVICE_TAG)
    return Destination(tags[SERVICE_TAG], tuple(rest))


def spoken(mesh: MeshView, where: Destination) -> Protocol:
    """What a service is spoken to in; tcp while no Dataplane of the zone declares it."""
    service = mesh.workloads.services.get(where.service)
    return service.protocol if service is not None else "tcp"


def in_mesh_resources(
    mesh: MeshView, where: Destination, said: Effective, *, plain: bool = False, name: str = "", reason: str = ""
) -> Iterator[Encoded]:
    """Cluster and endpoints of a destination, as a client dials it to whom policies say `said`.

    plain: without TLS although the mesh has it, for clients that hold no certificate. name: of the cluster, where a
    client dials the same destination in several ways. reason: why nobody is there, where nobody is.
    """
    name, tls = name or where.cluster(mesh.name), mesh.mtls and not plain
    body = _cluster(name, mesh.name, where, spoken(mesh, where), cluster_part(said), reason, tls=tls)
    served = endpoints(mesh, where, tls=tls)
    # What it is spoken to in follows from all who serve it.
    yield encode(CLUSTER, name, body, joined(served.sources, said.sources))
    yield served


@lru_cache(maxsize=REMEMBERED)
def _cluster(  # noqa: PLR0917 - what it is made of, as the key of a cache
    name: str, mesh: str, where: Destination, protocol: Protocol, said: Effective, reason: str, *, tls: bool
) -> bytes:
    outliers, served = said.breaker.outlier_detection, where.cluster(mesh)
    made = cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster.ClusterEdsClusterConfig(
            eds_config=ads(), service_name=served if served != name else ""
        ),
        connect_timeout=connect_timeout(said),
        circuit_breakers=limits(said.breaker),
        outlier_detection=outlier_detection(outliers) if outliers is not None else None,
        typed_extension_protocol_options=protocol_options(protocol, said),
        common_lb_config=panic(said),
    )
    balance(made, said.balancing)
    check = health_check(said.health, protocol, where.service) if said.health != HealthConf() else None
    if check is not None:
        made.health_checks = [check]
        made.wait_for_warm_on_init = False
    described = metadata(defaults.METADATA_NAMESPACE, service=where.service, reason=reason) if reason else b""
    told = part(cluster.Cluster, "metadata", described) if reason else b""
    if not tls:
        return bytes(made) + told
    # Kuma's SNI of a service. Nobody reads it within a zone, so one that is too long for TLS is left out.
    server_name = f"{where.service}{{mesh={mesh}}}"
    server_name = server_name if len(server_name) <= SERVER_NAME_MAX else ""
    socket = dialling_socket(mesh, spiffe.workload_id(mesh, where.service), defaults.ALPN_IN_MESH, server_name)
    return bytes(made) + told + part(cluster.Cluster, "transport_socket", socket)


# --- endpoints --------------------------------------------------------------------------------------------------

_remembered: OrderedDict[tuple[str, Destination, bool, Sources], tuple[WorkloadService, Encoded]] = OrderedDict()
# Good for the same service only, and an unchanged one is the same object in the next view.


def endpoints(mesh: MeshView, where: Destination, *, tls: bool) -> Encoded:
    """The ready instances of a destination; none where nobody is, so that clients are told at once. Its sources are all
    that the destination follows from.
    """
    service = mesh.workloads.services.get(where.service)
    name = where.cluster(mesh.name)
    if service is None:
        return encode(ENDPOINT, name, assignment(name, ()), mesh.sources)
    key = (mesh.name, where, tls, mesh.sources)
    known = _remembered.get(key)
    if known is None or known[0] is not service:
        instances = tuple(selected(service, where.tags, guarded=tls))
        # Who gets no traffic is a cause as well: of being left out.
        sources = joined(mesh.sources, *(one.sources for _, one in sorted(service.instances.items())))
        made = encode(ENDPOINT, name, assignment(name, instances), sources)
        known = keep(_remembered, REMEMBERED, key, (service, made))
    return known[1]


def assignment(name: str, instances: tuple[Instance, ...]) -> bytes:
    """A ClusterLoadAssignment, by zone."""
    body = part(endpoint.ClusterLoadAssignment, "cluster_name", name)
    for zone in sorted({one.zone for one in instances}):
        group = [one for one in instances if one.zone == zone]
        place = part(endpoint.LocalityLbEndpoints, "locality", part(core.Locality, "zone", zone))
        place += b"".join(part(endpoint.LocalityLbEndpoints, "lb_endpoints", _host(one)) for one in group)
        # A locality weighs what its instances do: gRPC ignores one without a weight.
        weight = bytes(google.UInt32Value(value=len(group)))
        place += part(endpoint.LocalityLbEndpoints, "load_balancing_weight", weight)
        body += part(endpoint.ClusterLoadAssignment, "endpoints", place)
    return body


@lru_cache(maxsize=65536)
def _host(one: Instance) -> bytes:
    where = part(endpoint.LbEndpoint, "endpoint", part(endpoint.Endpoint, "address", address(one.address, one.port)))
    return where + part(endpoint.LbEndpoint, "load_balancing_weight", bytes(google.UInt32Value(value=1)))
