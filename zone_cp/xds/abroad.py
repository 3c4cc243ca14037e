"""Cross-mesh listeners at a client: what a sidecar holds to reach MeshGateways of other meshes (A12).

Each host has a VIP and, per port, a cluster: mutual TLS with the sidecar's own identity, towards whom the other mesh's
roots vouch for. Chains write the cluster's name into a header, and one constant route follows it, so that a host that
comes or goes touches nothing of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from immutables import Map

from shared.events.cross_mesh import is_cross_mesh, port_meant
from shared.model.resource import Outbound, ResourceKey
from shared.naming import spiffe
from zone_cp.view.policies import Effective
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import AbroadView, Failure, MeshView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds import secrets as sds
from zone_cp.xds.assembly import NO_PART, Part
from zone_cp.xds.chains import abroad_socket, chain, listening
from zone_cp.xds.cluster_policies import cluster_part, connect_timeout, limits, outlier_detection, panic
from zone_cp.xds.clusters import http_options
from zone_cp.xds.connection_policies import chain_tuning
from zone_cp.xds.endpoint_policies import balance
from zone_cp.xds.filters import (
    REASON,
    SERVICE,
    Logged,
    Tuning,
    header_override,
    manager,
    manager_filter,
    response_mapper,
    router_filter,
)
from zone_cp.xds.in_mesh import assignment
from zone_cp.xds.in_mesh_routes import outbound_action
from zone_cp.xds.log_policies import Parties
from zone_cp.xds.parts import ABROAD, Changed, Draft
from zone_cp.xds.route_policies import RouteTuning, route_tuning
from zone_cp.xds.secrets import MaterialMissing, SecretSource
from zone_cp.xds.shape import ads, metadata, pack, part
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Encoded
from zone_cp.xds.wire import encode

PORT = "%DOWNSTREAM_LOCAL_PORT%"


class Abroad(msgspec.Struct, frozen=True):
    """What a sidecar's chains to MeshGateways of other meshes have in common: what is said to it, and how it logs.

    outbounds: those that lead to other meshes by their tags.
    """

    mesh: MeshView
    said: Effective
    parties: Parties
    logged: Logged
    outbounds: tuple[Outbound, ...] = ()

    def part(self, host: AbroadView, source: SecretSource, *, explicit: bool) -> Part:
        """What one host brings, with the listeners of outbounds that mean it. explicit: with one for each port."""
        trusted = _trusted(host.gateway.mesh, source)
        ports = [one.port for one in host.listeners]
        shared = [self._listener(host, port, (host.vip, port)) for port in ports] if explicit else []
        shared += [
            self._listener(host, port, (one.address, one.port))
            for one in self.outbounds
            if (port := port_meant(host.gateway, host.listeners, one)) is not None
        ]
        if isinstance(trusted, str):
            shared.append(sds.trust(defaults.trust_secret(host.gateway.mesh), trusted, host.sources))
        failure = host.failure or (trusted if isinstance(trusted, Failure) else None)
        return Part(tuple(one for port in ports for one in self._port(host, port, failure)), tuple(shared))

    def routes(self) -> Part:
        """What all hosts have in common. It is there because of the first one, which is enough."""
        first = min(self.mesh.abroad.items(), default=None)
        if first is None:
            return NO_PART
        name, tuning = routes_name(self.mesh.name), route_tuning(self.said, "http")
        sources = joined(self.mesh.sources, self.said.sources, first[1].sources)
        return Part((encode(ROUTE, name, _routes(name, tuning), sources),))

    def chains(self) -> tuple[tuple[str, bytes], ...]:
        """Where one listener takes all: each VIP, and the filter of its chain."""
        return tuple((one.vip, self._filter(one, PORT)) for _, one in sorted(self.mesh.abroad.items()))

    @property
    def sources(self) -> Sources:
        """What `chains` follow from."""
        found = (one.sources for _, one in sorted(self.mesh.abroad.items()))
        return joined((), *found, self.said.sources if self.mesh.abroad else ())

    def _port(self, host: AbroadView, port: int, failure: Failure | None) -> Iterator[Encoded]:
        name, gateway = cluster_name(host, port), host.gateway
        reason = failure.message if failure is not None else _nobody(self.logged.zone)
        told = metadata(defaults.METADATA_NAMESPACE, service=_who(host), reason=f"{_who(host)}: {reason}")
        body = _cluster(name, cluster_part(self.said)) + part(cluster.Cluster, "metadata", told)
        if failure is None:
            ids = tuple(spiffe.workload_id(gateway.mesh, one) for one in host.services or ("",))
            socket = abroad_socket(self.mesh.name, gateway.mesh, ids, _hostname(host))
            body += part(cluster.Cluster, "transport_socket", socket)
        yield encode(CLUSTER, name, body, joined(host.sources, self.said.sources))
        ready = [one for one in host.fronts if not one.idle] if failure is None else []
        served = assignment(name, tuple(msgspec.structs.replace(one, port=port) for one in ready))
        yield encode(ENDPOINT, name, served, joined(host.sources, *(one.sources for one in host.fronts)))

    def _listener(self, host: AbroadView, port: int, bind: tuple[str, int]) -> Encoded:
        name = f"outbound/{bind[0]}:{bind[1]}"
        only = chain((self._filter(host, str(port)),))
        body = listening(name, *bind, (only,), direction=core.TrafficDirection.OUTBOUND)
        return encode(LISTENER, name, body, joined(host.sources, self.said.sources))

    def _filter(self, host: AbroadView, port: str) -> bytes:
        parties = msgspec.structs.replace(self.parties, destination=f"{host.gateway.mesh}/{host.gateway.name}")
        tuning = chain_tuning(self.said, "http", parties)
        return _manager(cluster_name(host, port), routes_name(self.mesh.name), self.logged, tuning)


def put_abroad(
    draft: Draft,
    abroad: Abroad,
    old: MeshView | None,
    source: SecretSource,
    renewed: Collection[str],
    *,
    anew: bool,
    explicit: bool,
) -> None:
    """Set what each MeshGateway of another mesh brings that differs, or whose mesh is among `renewed`: has other roots
    now.
    """
    before: Map[ResourceKey, AbroadView] = old.abroad if old is not None else Map()
    for key in sorted({*before, *abroad.mesh.abroad}):
        host = abroad.mesh.abroad.get(key)
        if host is None:
            draft.put(ABROAD, key.mesh, NO_PART, key.name, key.zone)
        elif anew or before.get(key) is not host or host.gateway.mesh in renewed:
            draft.put(ABROAD, key.mesh, abroad.part(host, source, explicit=explicit), key.name, key.zone)
    draft.put(ABROAD, abroad.mesh.name, abroad.routes())


def trusting(view: ZoneView, changed: Changed) -> Iterator[tuple[str, bool]]:
    """Meshes whose gateways (True) or sidecars (False) trust the roots of other meshes, where these may be others."""
    found = {mesh for mesh, fields in changed.view.meshes.items() if fields & {"mtls", "sources"}} | changed.authorities
    for name, mesh in view.meshes.items() if found else ():
        if any(is_cross_mesh(one.stored.resource) for one in mesh.gateways.values()):
            yield name, True
        if any(one.gateway.mesh in found for one in mesh.abroad.values()):
            yield name, False


def abroad_notes(mesh: MeshView, zone: str) -> Iterator[str]:
    """What a reader of a sidecar's configuration should know: which names of other meshes lead nowhere, and why."""
    for _, one in sorted(mesh.abroad.items()):
        names = ", ".join(one.hostnames) or f"{_hostname(one)} (a name that is held by another one)"
        if one.failure is not None:
            yield f"{names}: {_who(one)}: {one.failure.message}"
        elif all(each.idle for each in one.fronts):
            yield f"{names}: {_who(one)}: {_nobody(zone)}"


def cluster_name(host: AbroadView, port: int | str) -> str:
    """`abroad/web/payments/edge:api.example.com:8080`: what mesh web dials of the MeshGateway edge of mesh payments."""
    origin = f"@{host.key.zone}" if host.key.zone else ""
    return f"abroad/{host.key.mesh}/{host.key.name}{origin}:{port}"


def chained(mesh: MeshView | None) -> list[tuple[ResourceKey, str, Sources]]:
    """What the chains of one listener for all follow from, of what a mesh sees."""
    seen = mesh.abroad.items() if mesh is not None else ()
    return [(key, one.vip, one.sources) for key, one in sorted(seen)]


def routes_name(mesh: str) -> str:
    """RDS name of the one route configuration that leads to other meshes."""
    return f"abroad/{mesh}"


def _who(host: AbroadView) -> str:
    return f"MeshGateway {host.gateway.name} of mesh {host.gateway.mesh}"


def _nobody(zone: str) -> str:
    return f"no gateway Dataplane of zone {zone} that is bound to it is connected; in-mesh traffic does not cross zones"


def _hostname(host: AbroadView) -> str:
    return host.key.name.rpartition(":")[2]


def _trusted(mesh: str, source: SecretSource) -> str | Failure:
    try:
        return source.trust_bundle(mesh)
    except MaterialMissing as missing:
        return Failure("NoAuthority", missing.reason)


@lru_cache(maxsize=4096)
def _cluster(name: str, said: Effective) -> bytes:
    outliers = said.breaker.outlier_detection
    options = upstream.HttpProtocolOptions(
        use_downstream_protocol_config=upstream.HttpProtocolOptionsUseDownstreamHttpConfig(
            http_protocol_options=core.Http1ProtocolOptions(), http2_protocol_options=core.Http2ProtocolOptions()
        )
    )
    made = cluster.Cluster(
        name=name,
        type=cluster.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster.ClusterEdsClusterConfig(eds_config=ads()),
        connect_timeout=connect_timeout(said),
        circuit_breakers=limits(said.breaker),
        outlier_detection=outlier_detection(outliers) if outliers is not None else None,
        typed_extension_protocol_options=http_options(options, said),
        common_lb_config=panic(said),
    )
    balance(made, said.balancing)
    return bytes(made)


@lru_cache(maxsize=4096)
def _manager(cluster_text: str, routes: str, logged: Logged, tuning: Tuning) -> bytes:
    made = manager(routes, logged, tuning, [router_filter()])
    made.generate_request_id = True
    made.normalize_path = True
    # Overwritten: an application that sends the header itself does not choose (decision 25).
    chosen = early.HeaderMutation(mutations=[header_override(defaults.CLUSTER_HEADER, cluster_text)])
    name = "envoy.http.early_header_mutation.header_mutation"
    made.early_header_mutation_extensions = [core.TypedExtensionConfig(name=name, typed_config=pack(chosen))]
    unknown = f"the MeshGateway has no cross-mesh listener at %DOWNSTREAM_LOCAL_ADDRESS% (zone {logged.zone})"
    failed = f"{SERVICE}: %LOCAL_REPLY_BODY%: %UPSTREAM_TRANSPORT_FAILURE_REASON%"
    mappers = (("NC", unknown), ("UH", REASON), ("UF UC UR", failed))
    made.local_reply_config = hcm.LocalReplyConfig(mappers=[response_mapper(flags, body) for flags, body in mappers])
    return manager_filter(bytes(made))


@lru_cache(maxsize=4096)
def _routes(name: str, tuning: RouteTuning) -> bytes:
    action = outbound_action("http", tuning)
    action.cluster_header = defaults.CLUSTER_HEADER
    action.cluster_not_found_response_code = route.RouteActionClusterNotFoundResponseCode.SERVICE_UNAVAILABLE
    only = route.Route(match=route.RouteMatch(prefix="/"), route=action)
    host = route.VirtualHost(name=name, domains=["*"], routes=[only])
    return bytes(
        route.RouteConfiguration(
            name=name,
            virtual_hosts=[host],
            request_headers_to_remove=list(defaults.INTERNAL_HEADERS),
            validate_clusters=False,
        )
    )
