"""A sidecar's way to the zone egress: two clusters, one per class, that share their endpoints.

Limits are raised and nothing is ejected because of 5xx: one bad service must not take the egress away from
all others (decision 26).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.google import protobuf as google

from shared.events.event import EventRef
from shared.model.resource import ProtocolClass
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import EgressView, MeshView
from zone_cp.xds import defaults
from zone_cp.xds.chains import egress_socket
from zone_cp.xds.clusters import breakers, http_options
from zone_cp.xds.governed import Governed
from zone_cp.xds.shape import address, ads, metadata, part
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, Encoded
from zone_cp.xds.wire import encode


@lru_cache(maxsize=1024)
def _cluster(name: str, protocol_class: ProtocolClass, mesh: str, sni: str = "", reason: str = "") -> bytes:
    options: dict[str, google.Any] = {}
    if protocol_class == "http":
        options = http_options(
            upstream.HttpProtocolOptions(
                upstream_http_protocol_options=core.UpstreamHttpProtocolOptions(
                    auto_sni=True, override_auto_sni_header=defaults.SNI_HEADER
                ),
                use_downstream_protocol_config=upstream.HttpProtocolOptionsUseDownstreamHttpConfig(
                    http_protocol_options=core.Http1ProtocolOptions(),
                    http2_protocol_options=core.Http2ProtocolOptions(),
                ),
            )
        )
    made = cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster.ClusterEdsClusterConfig(eds_config=ads(), service_name=defaults.EGRESS_ENDPOINTS),
        connect_timeout=defaults.CONNECT_TIMEOUT,
        circuit_breakers=breakers(defaults.EGRESS_LIMIT, defaults.EGRESS_LIMIT),
        typed_extension_protocol_options=options,
    )
    # HTTP pools offer h2 or http/1.1 themselves; the egress tells the classes apart by that.
    protocols = () if protocol_class == "http" else defaults.ALPN_TCP
    told = metadata(defaults.METADATA_NAMESPACE, service="zone egress", reason=reason) if reason else b""
    whole = bytes(made) + (part(cluster.Cluster, "metadata", told) if told else b"")
    return whole + part(cluster.Cluster, "transport_socket", egress_socket(mesh, protocols, sni))


def egress_clusters(mesh: MeshView, egresses: tuple[EgressView, ...], reason: str = "") -> Iterator[Encoded]:
    """The clusters and their endpoints; no endpoints while no egress is online (fails closed, decision 2).

    reason: what a cluster says why it has none, where its listeners do not.
    """
    http = _cluster(defaults.EGRESS_HTTP, "http", mesh.name, reason=reason)
    tcp = _cluster(defaults.EGRESS_TCP, "tcp", mesh.name, reason=reason)
    yield encode(CLUSTER, defaults.EGRESS_HTTP, http, mesh.sources)
    yield encode(CLUSTER, defaults.EGRESS_TCP, tcp, mesh.sources)
    yield _endpoints(egresses, mesh.sources)


def share_clusters(mesh: MeshView, said: Governed) -> Iterator[Encoded]:
    """A cluster per service that takes a share of TCP connections: a filter state holds one SNI, and no draw."""
    found: dict[str, list[EventRef]] = {}
    for _, shares in said.shared:
        for one in shares.backends:
            found.setdefault(one.sni, []).extend(shares.sources)
    for sni, sources in sorted(found.items()):
        yield share_cluster(mesh, sni, sources)


def share_cluster(mesh: MeshView, sni: str, sources: Collection[EventRef], reason: str = "") -> Encoded:
    """The cluster of one service behind the zone egress; sources: why it is there; reason as in `egress_clusters`."""
    name = defaults.egress_share(sni)
    body = _cluster(name, "tcp", mesh.name, sni, reason)
    return encode(CLUSTER, name, body, joined(mesh.sources, sources))


@lru_cache(maxsize=64)
def _endpoints(egresses: tuple[EgressView, ...], mesh_sources: Sources) -> Encoded:
    hosts = b"".join(
        part(
            endpoint.LocalityLbEndpoints,
            "lb_endpoints",
            part(
                endpoint.LbEndpoint,
                "endpoint",
                part(endpoint.Endpoint, "address", address(one.address, one.port)),
            ),
        )
        for one in sorted(egresses, key=lambda one: one.name)
    )
    body = part(endpoint.ClusterLoadAssignment, "cluster_name", defaults.EGRESS_ENDPOINTS)
    body += part(endpoint.ClusterLoadAssignment, "endpoints", hosts) if hosts else b""
    sources = joined(mesh_sources, *(one.sources for one in egresses))
    return encode(ENDPOINT, defaults.EGRESS_ENDPOINTS, body, sources)
