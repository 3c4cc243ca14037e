"""An external service → one Envoy cluster, the same at a zone egress and, in direct mode, at a sidecar.

Static where every endpoint is an IP or a socket, STRICT_DNS where one has a name. A service that cannot be
served keeps its cluster, without endpoints and with the reason in its metadata: listeners print that into
the 503 (fail closed, decisions 2 and 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TypeAlias

from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.google import protobuf as google

from shared.model.addresses import dialled
from shared.model.endpoint_policy import HealthConf
from shared.model.policy import OutlierConf
from shared.model.resource import Endpoint, Protocol
from zone_cp.view.policies import NOTHING_SAID, Effective
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ExternalServiceView, Failure
from zone_cp.xds import defaults
from zone_cp.xds.cluster_policies import (
    cluster_part,
    connect_timeout,
    connections,
    limits,
    outlier_detection,
    panic,
)
from zone_cp.xds.endpoint_policies import balance, health_check
from zone_cp.xds.shape import address, metadata, metadata_of, part, scalar, tag
from zone_cp.xds.snapshot import CLUSTER, Encoded
from zone_cp.xds.upstream_tls import References, external_socket, is_ip, server_name
from zone_cp.xds.wire import encode, piece, tagged

Found: TypeAlias = tuple[References | None, ...]
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
SOCKET_MATCH = "envoy.transport_socket_match"
NO_HEALTH = HealthConf()


_NAME, _ASSIGNMENT = tag(cluster.Cluster, "name"), tag(cluster.Cluster, "load_assignment")
_METADATA, _ASSIGNED = tag(cluster.Cluster, "metadata"), tag(endpoint.ClusterLoadAssignment, "cluster_name")
_LOCALITY, _HOSTS = tag(endpoint.ClusterLoadAssignment, "endpoints"), tag(endpoint.LocalityLbEndpoints, "lb_endpoints")
_ENDPOINT, _ADDRESS = tag(endpoint.LbEndpoint, "endpoint"), tag(endpoint.Endpoint, "address")


def http_options(options: upstream.HttpProtocolOptions, said: Effective = NOTHING_SAID) -> dict[str, google.Any]:
    """`typed_extension_protocol_options` with the connection timeouts of policies, or Kuma's."""
    options.common_http_protocol_options = connections(said)
    return {HTTP_OPTIONS: google.Any.pack(options)}


def protocol_options(protocol: Protocol, said: Effective = NOTHING_SAID) -> dict[str, google.Any]:
    """How a destination is spoken to: HTTP/1.1, HTTP/2, or, for TCP, nothing."""
    explicit = upstream.HttpProtocolOptionsExplicitHttpConfig
    match protocol:
        case "tcp":
            return {}
        case "http":
            version = explicit(http_protocol_options=core.Http1ProtocolOptions())
        case "http2" | "grpc":
            version = explicit(http2_protocol_options=core.Http2ProtocolOptions())
    return http_options(upstream.HttpProtocolOptions(explicit_http_config=version), said)


def breakers(limit: int, retries: int) -> cluster.CircuitBreakers:
    """Equal limits for both routing priorities, remaining ones visible in the statistics."""
    return cluster.CircuitBreakers(
        thresholds=[
            cluster.CircuitBreakersThresholds(
                priority=priority,
                max_connections=limit,
                max_pending_requests=limit,
                max_requests=limit,
                max_retries=retries,
                track_remaining=True,
            )
            for priority in (core.RoutingPriority.DEFAULT, core.RoutingPriority.HIGH)
        ]
    )


def _failover() -> cluster.OutlierDetection:
    # Priorities need someone who notices that the first one is down (2-xds.md §2.3). Answers of the service
    # itself (500) are its own business and eject nothing.
    return cluster.OutlierDetection(
        consecutive_5xx=defaults.FAILOVER_GATEWAY_FAILURES,
        enforcing_consecutive_5xx=0,
        enforcing_success_rate=0,
        consecutive_gateway_failure=defaults.FAILOVER_GATEWAY_FAILURES,
        enforcing_consecutive_gateway_failure=100,
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=defaults.FAILOVER_CONNECT_FAILURES,
        enforcing_consecutive_local_origin_failure=100,
        enforcing_local_origin_success_rate=0,
        base_ejection_time=defaults.FAILOVER_EJECTION,
        max_ejection_percent=100,
    )


def _outliers(said: OutlierConf | None, *, failover: bool) -> cluster.OutlierDetection | None:
    if said is not None:
        return outlier_detection(said)
    return _failover() if failover else None


@cache
def static_part(protocol: Protocol, said: Effective = NOTHING_SAID, *, dns: bool, failover: bool) -> bytes:
    """What clusters of one kind have in common, as bytes; `said` is a `cluster_part`."""
    made = cluster.Cluster(
        type=cluster.ClusterDiscoveryType.STRICT_DNS if dns else cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=connect_timeout(said),
        circuit_breakers=limits(said.breaker),
        outlier_detection=_outliers(said.breaker.outlier_detection, failover=failover),
        typed_extension_protocol_options=protocol_options(protocol, said),
        common_lb_config=panic(said),
    )
    if made.outlier_detection is not None:
        made.common_lb_config = made.common_lb_config or cluster.ClusterCommonLbConfig()
        # By default an ejection within a second of another change is kept from the workers until that second is over.
        made.common_lb_config.update_merge_window = defaults.NO_TIMEOUT
    balance(made, said.balancing)
    if dns:
        made.dns_lookup_family = cluster.ClusterDnsLookupFamily.V4_PREFERRED
    if dns or said.health != NO_HEALTH:
        # A name or a check that nobody answers must not hold up the clusters that come with it (decision 28).
        made.wait_for_warm_on_init = False
    return bytes(made)


def endpoint_failure(service: ExternalServiceView) -> Failure | None:
    """What is wrong with a set of endpoints as a whole."""
    if not service.endpoints:  # of a door whose parts are all at fault, that is said before
        return Failure("NoEndpoints", "it has no endpoints", "spec.endpoints")
    sockets = [one for one in service.endpoints if one.address.startswith("unix://")]
    named = [one for one in service.endpoints if one not in sockets and not is_ip(one.address)]
    if sockets and named:
        message = (
            f"{sockets[0].address} and {named[0].address}: Envoy cannot dial a socket and a DNS name in one cluster"
        )
        return Failure("MixedEndpoints", message, "spec.endpoints")
    return None


def _hostname(service: ExternalServiceView, one: Endpoint) -> str:
    # What `auto_host_rewrite` writes: the external name. For an IP that is `serverName`; else the client's stays.
    if not is_ip(one.address) and not one.address.startswith("unix://"):
        return one.address.removesuffix(".")
    return server_name(service.tls, one.address) if service.tls is not None and service.tls.enabled else ""


def external_host(service: ExternalServiceView) -> str:
    """The name by which the first endpoint is asked; "" where the client's own stays."""
    return _hostname(service, service.endpoints[0]) if service.endpoints else ""


def _lb_endpoint(service: ExternalServiceView, one: Endpoint, socket: str) -> bytes:
    body = tagged(_ADDRESS, address(dialled(one.address), one.port or service.port))
    if hostname := _hostname(service, one):
        body += part(endpoint.Endpoint, "hostname", hostname)
    whole = tagged(_ENDPOINT, body)
    if socket:
        whole += part(endpoint.LbEndpoint, "metadata", metadata(SOCKET_MATCH, host=socket))
    return whole


def _dialled(service: ExternalServiceView, references: Found) -> list[tuple[ExternalServiceView, References]]:
    # What is dialled with what: a part of a service that is closed, or whose material is missing, is left out.
    both = zip(service.dialled, references, strict=True)
    return [(one, found) for one, found in both if found is not None]


def _label(service: ExternalServiceView, part_of: ExternalServiceView, host: str) -> str:
    # What picks the socket of an endpoint. TLS is the host's business, and with parts also the part's.
    return f"{part_of.name}/{host}" if service.parts else host


def _localities(service: ExternalServiceView, references: Found, *, matched: bool) -> Iterator[bytes]:
    if len(service.endpoints) == 1 and not service.parts:  # as most have: nothing to sort
        (each,) = service.endpoints
        yield tagged(_LOCALITY, tagged(_HOSTS, _lb_endpoint(service, each, each.address if matched else "")))
        return
    endpoints = [(one, each) for one, _ in _dialled(service, references) for each in one.endpoints]
    # Priorities are compacted: Envoy takes a gap for a priority that is down (decision 8).
    for compact, priority in enumerate(sorted({each.priority or 0 for _, each in endpoints})):
        hosts = [
            tagged(_HOSTS, _lb_endpoint(one, each, _label(service, one, each.address) if matched else ""))
            for one, each in endpoints
            if (each.priority or 0) == priority
        ]
        group = b"".join(hosts)
        if compact:
            group += scalar(endpoint.LocalityLbEndpoints, "priority", compact)
        yield tagged(_LOCALITY, group)


def _match(host: str, socket: bytes) -> bytes:
    entry = part(google.Struct, "fields", piece(1, "host") + piece(2, part(google.Value, "string_value", host)))
    match = part(cluster.ClusterTransportSocketMatch, "name", host)
    match += part(cluster.ClusterTransportSocketMatch, "match", entry)
    match += part(cluster.ClusterTransportSocketMatch, "transport_socket", socket)
    return part(cluster.Cluster, "transport_socket_matches", match)


def _sockets(service: ExternalServiceView, references: Found) -> tuple[bytes, bool]:
    # The sockets of a cluster, and whether endpoints pick theirs by metadata: SNI and SAN are per host. An endpoint
    # that finds none speaks plaintext, which is what one without TLS is to do.
    if not service.parts and (service.tls is None or not service.tls.enabled):
        return b"", False
    sockets = {
        _label(service, one, each.address): b""
        if one.tls is None or not one.tls.enabled
        else external_socket(one.tls, each.address, found)
        for one, found in _dialled(service, references)
        for each in one.endpoints
    }
    kinds = set(sockets.values())
    if len(kinds) > 1:
        return b"".join(_match(label, socket) for label, socket in sockets.items() if socket), True
    only = next(iter(kinds), b"")
    return part(cluster.Cluster, "transport_socket", only) if only else b"", False


def _described(service: ExternalServiceView) -> bytes:
    key = str(service.key)
    said = (("reason", f"{key}: none of its endpoints can be used right now"), ("service", key))
    return tagged(_METADATA, metadata_of(defaults.METADATA_NAMESPACE, said))


def _checked(service: ExternalServiceView) -> bytes:
    if service.outside is NOTHING_SAID or service.outside.health == NO_HEALTH:
        return b""
    first = service.endpoints[0]
    host = _hostname(service, first) or ("localhost" if first.address.startswith("unix://") else first.address)
    check = health_check(service.outside.health, service.protocol, host)
    return part(cluster.Cluster, "health_checks", bytes(check)) if check is not None else b""


def cluster_body(service: ExternalServiceView, references: Found) -> bytes:
    """The bytes of the Cluster of a service that can be served."""
    sockets, matched = _sockets(service, references)
    dns, failover = False, len(service.endpoints) > 1 and len({one.priority or 0 for one in service.endpoints}) > 1
    for one in service.endpoints:
        dns = dns or not (is_ip(one.address) or one.address.startswith("unix://"))
    assignment = tagged(_ASSIGNED, service.cluster)
    assignment += b"".join(_localities(service, references, matched=matched))
    return b"".join(
        (
            tagged(_NAME, service.cluster),
            static_part(service.protocol, cluster_part(service.outside), dns=dns, failover=failover),
            tagged(_ASSIGNMENT, assignment),
            sockets,
            _checked(service),
            _described(service),
        )
    )


@cache
def _closed_part() -> bytes:
    return bytes(cluster.Cluster(type=cluster.ClusterDiscoveryType.STATIC, connect_timeout=defaults.CONNECT_TIMEOUT))


def closed_body(name: str, service: str, why: str) -> bytes:
    """The bytes of a Cluster without endpoints, that says why it has none. service: what is told to be closed."""
    return b"".join(
        (
            part(cluster.Cluster, "name", name),
            _closed_part(),
            part(cluster.Cluster, "load_assignment", part(endpoint.ClusterLoadAssignment, "cluster_name", name)),
            part(cluster.Cluster, "metadata", metadata(defaults.METADATA_NAMESPACE, service=service, reason=why)),
        )
    )


def _closed(service: ExternalServiceView, failure: Failure) -> bytes:
    why = f"{service.key}: {failure.reason}: {failure.message}" + (f" ({failure.field})" if failure.field else "")
    return closed_body(service.cluster, str(service.key), why)


def service_cluster(
    service: ExternalServiceView, references: Found, failure: Failure | None, mesh_sources: Sources
) -> Encoded:
    """The cluster of one service; references stand beside what it dials (`dialled`), None: that is left out."""
    body = cluster_body(service, references) if failure is None else _closed(service, failure)
    further = (*service.outside.sources, *mesh_sources) if service.outside.sources else mesh_sources
    return encode(CLUSTER, service.cluster, body, joined(service.sources, further))
