"""A gateway's routes as Envoy's: by listener the virtual hosts of HTTP, or the clusters that TCP is shared out among.

Pure: `virtual_hosts(found, port, one, listener)` and `shared_connections(found, one, listener)` follow from the view of
the gateway and its mesh, and leave in `found` the clusters that they need (`gateway_clusters.py`).

Rules are turned into routes by the generator of sidecars (`http_routes.py`). What differs is where they lead: a gateway
reaches each backend in its own way, and keeps the host that its client asked for unless a route says otherwise (A12).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_filter
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from shared.events.event import EventRef
from shared.model.route_policy import UrlRewrite
from shared.model.target import IntOrString
from zone_cp.view.gateway_routing import host_routings, tcp_routings
from zone_cp.view.gateways import ListenerView, PortView
from zone_cp.view.policies import Effective, merged, with_routes
from zone_cp.view.routing import HttpRouting
from zone_cp.view.sources import Sources
from zone_cp.xds import defaults
from zone_cp.xds.backends import Backend, Shares
from zone_cp.xds.filters import MUTATION_FILTER, header_override
from zone_cp.xds.gateway_backends import Destinations, Told, class_of
from zone_cp.xds.gateway_hosts import Host
from zone_cp.xds.http_routes import Entry, entry_routes, fraction_of
from zone_cp.xds.route_actions import action
from zone_cp.xds.route_policies import RouteTuning, route_tuning
from zone_cp.xds.shape import pack

REMEMBERED = 65536
"""Rules whose routes are kept between compilations."""


class Hosts(msgspec.Struct, frozen=True):
    """The virtual hosts of a listener, and the events that they follow from."""

    hosts: tuple[Host, ...] = ()
    sources: Sources = ()


class Connections(msgspec.Struct, frozen=True):
    """Clusters and their weights; NOBODY closes."""

    clusters: tuple[tuple[str, int], ...] = ((defaults.NOBODY, 1),)
    sources: Sources = ()


def virtual_hosts(found: Destinations, gateway_port: PortView, one: ListenerView, listener: Told) -> Hosts:
    """The virtual hosts of a listener of HTTP or HTTPS."""
    hosts: list[Host] = []
    sources: dict[EventRef, None] = {}
    made: dict[HttpRouting, tuple[bytes, ...]] = {}  # a rule holds in several hosts
    for host in host_routings(found.mesh, found.gateway, gateway_port, one):
        routes: list[bytes] = []
        for rule in host.rules:
            if rule not in made:
                made[rule] = _routes(found, rule, listener, sources)
            routes += made[rule]
        hosts.append(Host(host.hostname, tuple(routes)))
    return Hosts(tuple(hosts), tuple(sources))


def shared_connections(found: Destinations, listeners: Iterable[tuple[ListenerView, Told]]) -> Connections:
    """Where connections of some listeners of TCP or TLS go: all that is said for any of them together (A6)."""
    weights: dict[str, int] = {}
    sources: dict[EventRef, None] = {}
    for one, listener in listeners:
        for said in tcp_routings(found.mesh, found.gateway, one):
            shares = found.shared_out(said.backends, said.origin, listener, "tcp").shares
            sources |= dict.fromkeys((said.origin.source, *shares.sources))
            for backend in shares.backends:
                weights[backend.cluster] = weights.get(backend.cluster, 0) + backend.weight
            for closed in shares.closed:
                weights[defaults.NOBODY] = weights.get(defaults.NOBODY, 0) + closed.weight
    return Connections(tuple(sorted(weights.items())) or ((defaults.NOBODY, 1),), tuple(sources))


# --- rules --------------------------------------------------------------------------------------------------------


def _routes(found: Destinations, rule: HttpRouting, listener: Told, sources: dict[EventRef, None]) -> tuple[bytes, ...]:
    redirected = any(one.type == "RequestRedirect" for one in rule.filters)
    led = found.shared_out(rule.backends, rule.backend_origin, listener, "http")
    mirrors: list[tuple[Backend, IntOrString | None]] = []
    cited = {rule.origin.source: None, rule.backend_origin.source: None} | dict.fromkeys(led.shares.sources)
    for one in rule.filters:
        if one.request_mirror is not None:
            copies = found.shared_out((one.request_mirror.backend_ref,), rule.origin, listener, "http").shares
            # A copy that nobody can take is not made: the client is none the wiser in any case.
            mirrors += ((to, one.request_mirror.percentage) for to in copies.backends)
            cited |= dict.fromkeys(copies.sources)
    held = led.alike(listener)
    said, told = merged(held), with_routes(Effective(http=(rule,)), held, listener.rules)
    (tuned,) = told.http
    about = msgspec.structs.replace(said, timeout=tuned.timeout or said.timeout, retry=tuned.retry or said.retry)
    sources |= cited | dict.fromkeys((*said.sources, *told.sources, *listener.at_large.sources))
    return _encoded(
        Entry(
            name=f"{rule.origin.key.kind}/{rule.origin.key.name}",
            match=rule.match,
            filters=rule.filters,
            shares=None if redirected else msgspec.structs.replace(led.shares, sources=()),
            mirrors=tuple(mirrors),
            tuning=route_tuning(about, class_of(led.protocols)),
            strips_query=rule.strips_query,
        )
    )


@lru_cache(maxsize=REMEMBERED)
def _encoded(entry: Entry) -> tuple[bytes, ...]:
    return tuple(bytes(one) for one in entry_routes(entry, _leading))


# --- where they lead ----------------------------------------------------------------------------------------------


def _leading(entry: Entry, rewrite: UrlRewrite | None) -> route.RouteAction:
    made = _action(entry.tuning)
    host = rewrite.hostname if rewrite is not None else None
    to_backend = rewrite is not None and bool(rewrite.host_to_backend_hostname)
    backends = (entry.shares or Shares()).backends
    made.weighted_clusters = route.WeightedCluster(clusters=[_cluster(one, to_backend=to_backend) for one in backends])
    if host is not None:
        made.host_rewrite_literal = host
    elif to_backend:
        made.auto_host_rewrite = True
    made.request_mirror_policies = [_mirror(to, percentage) for to, percentage in entry.mirrors]
    return made


def _action(tuning: RouteTuning) -> route.RouteAction:
    made = action("mesh", tuning, at_sidecar=True)
    made.cluster_not_found_response_code = route.RouteActionClusterNotFoundResponseCode.INTERNAL_SERVER_ERROR
    if tuning.timeouts.stream_idle_timeout is None:
        made.idle_timeout = defaults.GATEWAY_STREAM_IDLE_TIMEOUT
    return made


def _cluster(one: Backend, *, to_backend: bool) -> route.WeightedClusterClusterWeight:
    written: list[mutation.HeaderMutation] = []
    if one.sni:
        written.append(header_override(defaults.SNI_HEADER, one.sni))
        if not to_backend:
            written.append(header_override(defaults.KEEP_HOST_HEADER, "1"))
    elif one.outside:
        # What tells proxies of the mesh about each other is no business of the outside (decision 25).
        steering = matcher.StringMatcher(prefix="x-envoy-")
        removed = mutation.HeaderMutationRemoveOnMatch(key_matcher=steering)
        written.append(mutation.HeaderMutation(remove_on_match=removed))
    made = route.WeightedClusterClusterWeight(name=one.cluster, weight=one.weight)
    if written:
        per_route = header_filter.HeaderMutationPerRoute(mutations=header_filter.Mutations(request_mutations=written))
        made.typed_per_filter_config = {MUTATION_FILTER: pack(per_route)}
    return made


def _mirror(to: Backend, percentage: IntOrString | None) -> route.RouteActionRequestMirrorPolicy:
    made = route.RouteActionRequestMirrorPolicy(cluster=to.cluster, disable_shadow_host_suffix_append=True)
    # The copy is made after the chosen cluster's headers are written.
    made.request_headers_mutations = [mutation.HeaderMutation(remove=one) for one in defaults.INTERNAL_HEADERS]
    if to.sni:
        made.request_headers_mutations.append(header_override(defaults.SNI_HEADER, to.sni))
    elif to.outside and to.host:
        made.host_rewrite_literal = to.host
    made.runtime_fraction = fraction_of(percentage)
    return made
