"""Where a zone egress dials guarded TCP services: a listener within Envoy, behind the one that knows who the client is.

Envoy's TCP proxy picks its cluster before the TLS handshake, so the one of the outer listener cannot wait for the
client's certificate. It connects to this one after the handshake, and with it goes what `tcp_access` has written by
then: the cluster to dial, by which connections are pooled too. Only guarded services take this way (a copy of pointers
within a worker thread, no socket). Envoy needs `envoy.bootstrap.internal_listener` in its bootstrap for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state
from envoy_data_plane.envoy.extensions.transport_sockets.internal_upstream import v3 as internal
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer import v3 as raw

from zone_cp.view.sources import Sources
from zone_cp.xds import defaults
from zone_cp.xds.chains import chain
from zone_cp.xds.clusters import breakers
from zone_cp.xds.filters import Logged, proxy_to
from zone_cp.xds.shape import extension, pack, part
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded
from zone_cp.xds.tcp_access import GUARDED, UNDECIDED, as_passed_on, closed_clusters
from zone_cp.xds.wire import encode


def guarded_tcp(zone: str, access_log: str, sources: Sources) -> Iterator[Encoded]:
    """The listener within, the cluster that leads there, and those of the connections that nobody may make."""
    # A service that is not held is asked for: in a chain of this kind nobody arrives but by names that are guarded.
    onwards = proxy_to(UNDECIDED, Logged(f"egress/{GUARDED}", access_log, zone), use="on-demand")
    filters = (extension(listener.Filter, "where", set_filter_state.Config, as_passed_on()), onwards)
    body = part(listener.Listener, "name", GUARDED) + part(listener.Listener, "internal_listener", b"")
    yield encode(LISTENER, GUARDED, body + part(listener.Listener, "filter_chains", chain(filters)), sources)
    yield encode(CLUSTER, GUARDED, _within(), sources)
    yield from closed_clusters(sources)


@cache
def _within() -> bytes:
    address = core.Address(envoy_internal_address=core.EnvoyInternalAddress(server_listener_name=GUARDED))
    plain = core.TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=pack(raw.RawBuffer()))
    passing = pack(internal.InternalUpstreamTransport(transport_socket=plain))
    made = cluster.Cluster(
        name=GUARDED,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=defaults.CONNECT_TIMEOUT,
        circuit_breakers=breakers(defaults.EGRESS_LIMIT, defaults.EGRESS_LIMIT),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=GUARDED,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))]
                )
            ],
        ),
        transport_socket=core.TransportSocket(name="envoy.transport_sockets.internal_upstream", typed_config=passing),
    )
    return bytes(made)
