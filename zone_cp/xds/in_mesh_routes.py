"""HTTP between workloads: routes over RDS and connection managers, at the client's sidecar and the server's."""

from __future__ import annotations

from functools import lru_cache

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm

from shared.model.policy import GrpcRetry, HttpRetry
from shared.model.resource import Protocol
from zone_cp.view.policies import Effective
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults
from zone_cp.xds.filters import UNTUNED, Logged, Tuning, manager, manager_filter, response_mapper, router_filter
from zone_cp.xds.in_mesh import Destination, endpoints, spoken
from zone_cp.xds.route_actions import another_host
from zone_cp.xds.route_policies import RouteTuning, apply_timeouts, retry_policy, route_tuning
from zone_cp.xds.snapshot import ROUTE, Encoded
from zone_cp.xds.wire import encode


def outbound_routes(mesh: MeshView, where: Destination, said: Effective) -> Encoded:
    """The routes of a destination at a client: Kuma's default timeouts and retries, or what policies say."""
    name, protocol = where.cluster(mesh.name), spoken(mesh, where)
    sources = joined(endpoints(mesh, where, tls=mesh.mtls).sources, said.sources)
    return encode(ROUTE, name, _outbound_routes(name, protocol, route_tuning(said, protocol)), sources)


def inbound_routes(name: str, sources: Sources) -> Encoded:
    """The routes of an inbound listener: all to the application's cluster of that name, however long it takes."""
    return encode(ROUTE, name, _inbound_routes(name), sources)


def outbound_manager(mesh: str, where: Destination, logged: Logged, tuning: Tuning) -> bytes:
    """A Filter: the HTTP connection manager of an outbound listener; where nobody is ready, its 503 says so."""
    return _outbound_manager(where.cluster(mesh), where.service, logged, tuning)


def outbound_action(protocol: Protocol, tuning: RouteTuning) -> route.RouteAction:
    """What a client's route to another workload does, without a destination."""
    action = route.RouteAction(timeout=defaults.REQUEST_TIMEOUT, idle_timeout=defaults.STREAM_IDLE_TIMEOUT)
    apply_timeouts(action, tuning.timeouts)
    unsaid = GrpcRetry() if protocol == "grpc" else HttpRetry()
    retry = retry_policy(tuning.retry or unsaid)
    if retry is not None:
        retry.retry_host_predicate = [another_host()]
        retry.host_selection_retry_max_attempts = defaults.OTHER_HOST_ATTEMPTS
        if tuning.retry is None and protocol != "grpc":
            retry.per_try_timeout = defaults.IN_MESH_TRY_TIMEOUT
    action.retry_policy = retry
    return action


@lru_cache(maxsize=4096)
def inbound_manager(name: str, logged: Logged) -> bytes:
    """A Filter: the HTTP connection manager of an inbound listener; the client's SPIFFE id becomes a header."""
    made = manager(name, logged, UNTUNED, [router_filter()])
    made.common_http_protocol_options = core.HttpProtocolOptions(idle_timeout=defaults.INBOUND_IDLE_TIMEOUT)
    made.stream_idle_timeout = defaults.INBOUND_STREAM_IDLE_TIMEOUT
    made.forward_client_cert_details = hcm.HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
    made.set_current_client_cert_details = hcm.HttpConnectionManagerSetCurrentClientCertDetails(uri=True)
    return manager_filter(bytes(made))


@lru_cache(maxsize=4096)
def _outbound_manager(name: str, service: str, logged: Logged, tuning: Tuning) -> bytes:
    made = manager(name, logged, tuning, [router_filter()])
    made.generate_request_id = True
    made.normalize_path = True
    nobody = f"no instance of {service} is ready in zone {logged.zone}; in-mesh traffic does not cross zones"
    failed = f"{service}: %LOCAL_REPLY_BODY%: %UPSTREAM_TRANSPORT_FAILURE_REASON%"
    made.local_reply_config = hcm.LocalReplyConfig(
        mappers=[response_mapper("UH", nobody), response_mapper("UF UC UR", failed)]
    )
    return manager_filter(bytes(made))


@lru_cache(maxsize=4096)
def _outbound_routes(name: str, protocol: Protocol, tuning: RouteTuning) -> bytes:
    action = outbound_action(protocol, tuning)
    action.cluster = name
    return _configuration(name, action)


@lru_cache(maxsize=4096)
def _inbound_routes(name: str) -> bytes:
    return _configuration(name, route.RouteAction(cluster=name, timeout=defaults.NO_TIMEOUT))


def _configuration(name: str, action: route.RouteAction) -> bytes:
    only = route.Route(match=route.RouteMatch(prefix="/"), route=action)
    host = route.VirtualHost(name=name, domains=["*"], routes=[only])
    return bytes(route.RouteConfiguration(name=name, virtual_hosts=[host], validate_clusters=False))
