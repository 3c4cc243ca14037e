"""MeshPassthrough: what the redirect listener does with connections that are meant for no VIP.

VIPs come first, whatever a policy says. Then each entry is tried in turn: an address before a domain, a single one
before a range or wildcard, an explicit port before any, and what is said of TLS or HTTP before what is said of TCP.
An entry lets a connection out to where it was going; what none matches is closed. Domains are what the client says
(SNI, Host), as in Kuma 2.14. The listener looks into the first bytes only on ports where an entry asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cache, lru_cache
from ipaddress import ip_network
from typing import TypeAlias

import betterproto2
import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.listener.http_inspector import v3 as http_inspector
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as tls_inspector
from envoy_data_plane.envoy.extensions.matching.common_inputs.network import v3 as network_input
from envoy_data_plane.envoy.extensions.matching.input_matchers.ip import v3 as ip_matcher
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream
from envoy_data_plane.envoy.type import v3 as kinds
from envoy_data_plane.google import protobuf as google
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as tree

from shared.model.passthrough_policy import PassthroughMatch
from shared.model.passthrough_rules import L7_PROTOCOLS
from shared.model.resource import Dataplane
from zone_cp.view.policies import passing
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults
from zone_cp.xds.chains import chain
from zone_cp.xds.clusters import http_options
from zone_cp.xds.filters import Logged, Tuning, manager, manager_filter, proxy_to, router_filter
from zone_cp.xds.shape import pack, part
from zone_cp.xds.snapshot import CLUSTER, ROUTE, Encoded
from zone_cp.xds.wire import encode

IPV4 = 4
INSPECTION_TIMEOUT = timedelta(seconds=1)
"""How long a client may stay silent on a port that is looked into; then it counts as neither TLS nor HTTP."""
UNKNOWN_DOMAIN = (
    "This response comes from Kuma Sidecar. No routes matched this domain - check configuration of your "
    "MeshPassthrough policy.\n"
)

_TCP_CHAIN = "passthrough/tcp"
_CLUSTERS = {"http": "passthrough-http", "http2": "passthrough-http2", "grpc": "passthrough-http2"}
_Predicate: TypeAlias = tree.MatcherMatcherListPredicate
_Single: TypeAlias = tree.MatcherMatcherListPredicateSinglePredicate
_Disabled: TypeAlias = listener.ListenerFilterChainMatchPredicate


class Undeclared(msgspec.Struct, frozen=True):
    """Where undeclared traffic goes: cluster `rest`, except what `matches` lets out."""

    rest: str
    matches: tuple[PassthroughMatch, ...] = ()
    sources: Sources = ()


def undeclared(mesh: MeshView, proxy: Dataplane) -> Undeclared:
    """What holds for a sidecar: its MeshPassthroughs, or else what the mesh says."""
    said = passing(mesh.policies, proxy)
    if said is None:
        return Undeclared(defaults.PASSTHROUGH if mesh.passthrough else defaults.BLACKHOLE)
    match said.conf.passthrough_mode:
        case "All":
            return Undeclared(defaults.PASSTHROUGH, sources=said.sources)
        case "None":
            return Undeclared(defaults.BLACKHOLE, sources=said.sources)
        case _:
            found = (one for one in said.conf.append_match or () if _is_v4(one))
            return Undeclared(defaults.BLACKHOLE, tuple(sorted(found, key=_rank)), said.sources)


def undeclared_resources(out: Undeclared, sources: Sources) -> Iterator[Encoded]:
    """The clusters and routes that the redirect listener refers to."""
    cited = joined(sources, out.sources)
    names = {out.rest, *(_CLUSTERS.get(one.protocol, defaults.PASSTHROUGH) for one in out.matches)}
    for name in sorted(names):
        yield encode(CLUSTER, name, _cluster(name), cited)
    for name, matches in _domains(out.matches).items():
        yield encode(ROUTE, name, _domain_routes(name, matches), cited)
    for protocol in dict.fromkeys(one.protocol for one in out.matches if _is_http(one) and one.type != "Domain"):
        yield encode(ROUTE, _address_chain(protocol), _address_routes(protocol), cited)


def entry_chains(matches: tuple[PassthroughMatch, ...], logged: Logged, tuning: Tuning) -> Iterator[bytes]:
    """The FilterChains that entries lead into, each named."""
    for name in dict.fromkeys(_chain_of(one) for one in matches):
        if name == _TCP_CHAIN:
            only = proxy_to(defaults.PASSTHROUGH, logged, tuning)
        else:
            only = _manager(name, msgspec.structs.replace(logged, stat_prefix=name), tuning)
        yield chain((only,), name=name)


def entry_matcher(vips: Iterable[tuple[str, tuple[str, ...]]], matches: tuple[PassthroughMatch, ...]) -> bytes:
    """The listener's `filter_chain_matcher`: `vips` are names of chains and the networks that they serve."""
    single: dict[str, tree.MatcherOnMatch] = {}
    entries: list[tree.MatcherMatcherListFieldMatcher] = []
    for name, networks in vips:
        if len(networks) == 1 and "/" not in networks[0]:
            single[networks[0]] = _enter(name)
        else:
            entries.append(_entry([_within(networks)], name))
    entries += [_entry(_predicates(one), _chain_of(one)) for one in matches]
    listed = tree.Matcher(matcher_list=tree.MatcherMatcherList(matchers=entries))
    if not single:
        return bytes(listed)
    by_address = tree.MatcherMatcherTree(
        input=_input("address", network_input.DestinationIpInput()),
        exact_match_map=tree.MatcherMatcherTreeMatchMap(map=single),
    )
    return bytes(tree.Matcher(matcher_tree=by_address, on_no_match=tree.MatcherOnMatch(matcher=listed)))


@lru_cache(maxsize=256)
def inspection(matches: tuple[PassthroughMatch, ...]) -> bytes:
    """Fields of the Listener that look into the first bytes, on the ports where an entry needs it."""
    found = b""
    for name, message, wanted in (
        ("envoy.filters.listener.tls_inspector", tls_inspector.TlsInspector(), [_is_tls(one) for one in matches]),
        ("envoy.filters.listener.http_inspector", http_inspector.HttpInspector(), [_is_http(one) for one in matches]),
    ):
        asking = [one for one, is_wanted in zip(matches, wanted, strict=True) if is_wanted]
        if asking:
            silent = {one.port for one in matches if one not in asking and one.protocol in ("tcp", "mysql")}
            made = listener.ListenerFilter(name=name, typed_config=pack(message))
            made.filter_disabled = _disabled({one.port for one in asking}, silent)
            found += part(listener.Listener, "listener_filters", bytes(made))
    if found:
        found += bytes(
            listener.Listener(listener_filters_timeout=INSPECTION_TIMEOUT, continue_on_listener_filters_timeout=True)
        )
    return found


# --- entries ------------------------------------------------------------------------------------------------------


def _is_v4(one: PassthroughMatch) -> bool:
    # The redirect is of IPv4 alone.
    return one.type == "Domain" or ip_network(one.value, strict=False).version == IPV4


def _is_tls(one: PassthroughMatch) -> bool:
    return one.protocol == "tls"


def _is_http(one: PassthroughMatch) -> bool:
    return one.protocol in L7_PROTOCOLS


def _rank(one: PassthroughMatch) -> tuple[int, ...]:
    kind = {"IP": 0, "CIDR": 1, "Domain": 2}[one.type] + int(one.value.startswith("*."))
    width = ip_network(one.value, strict=False).prefixlen if one.type != "Domain" else one.value.count(".")
    protocol = ("tls", "http", "http2", "grpc", "mysql", "tcp").index(one.protocol)
    return kind, int(one.port is None), -width, protocol, one.port or 0


def _chain_of(one: PassthroughMatch) -> str:
    if not _is_http(one):
        return _TCP_CHAIN
    return _domain_chain(one.port) if one.type == "Domain" else _address_chain(one.protocol)


def _domain_chain(port: int | None) -> str:
    return f"passthrough/http/{port or 'any'}"


def _address_chain(protocol: str) -> str:
    return f"passthrough/{protocol}/addresses"


def _predicates(one: PassthroughMatch) -> list[_Predicate]:
    found = [_within((one.value,))] if one.type != "Domain" else []
    if one.port is not None:
        found.append(
            _equal(_input("port", network_input.DestinationPortInput()), tree.StringMatcher(exact=str(one.port)))
        )
    if _is_tls(one):
        spoken = _input("transport", network_input.TransportProtocolInput())
        found.append(_equal(spoken, tree.StringMatcher(exact="tls")))
        if one.type == "Domain":
            found.append(_equal(_input("server_name", network_input.ServerNameInput()), _name(one.value)))
    if _is_http(one):
        spoken = _input("application", network_input.ApplicationProtocolInput())
        versions = [_equal(spoken, tree.StringMatcher(contains=text)) for text in ("'http/1", "'h2c'")]
        found.append(_Predicate(or_matcher=tree.MatcherMatcherListPredicatePredicateList(predicate=versions)))
    return found


def _name(value: str) -> tree.StringMatcher:
    if value.startswith("*."):
        return tree.StringMatcher(suffix=value[1:], ignore_case=True)
    return tree.StringMatcher(exact=value, ignore_case=True)


def _within(networks: tuple[str, ...]) -> _Predicate:
    ranges = [
        core.CidrRange(address_prefix=str(one.network_address), prefix_len=one.prefixlen)
        for one in (ip_network(text, strict=False) for text in networks)
    ]
    within = xds_core.TypedExtensionConfig(
        name="within", typed_config=pack(ip_matcher.Ip(cidr_ranges=ranges, stat_prefix="outbound"))
    )
    address = _input("address", network_input.DestinationIpInput())
    return _Predicate(single_predicate=_Single(input=address, custom_match=within))


def _equal(found: xds_core.TypedExtensionConfig, text: tree.StringMatcher) -> _Predicate:
    return _Predicate(single_predicate=_Single(input=found, value_match=text))


def _input(name: str, message: betterproto2.Message) -> xds_core.TypedExtensionConfig:
    return xds_core.TypedExtensionConfig(name=name, typed_config=pack(message))


def _entry(predicates: list[_Predicate], name: str) -> tree.MatcherMatcherListFieldMatcher:
    together = tree.MatcherMatcherListPredicatePredicateList(predicate=predicates)
    predicate = predicates[0] if len(predicates) == 1 else _Predicate(and_matcher=together)
    return tree.MatcherMatcherListFieldMatcher(predicate=predicate, on_match=_enter(name))


def _enter(name: str) -> tree.MatcherOnMatch:
    entered = xds_core.TypedExtensionConfig(name="chain", typed_config=pack(google.StringValue(value=name)))
    return tree.MatcherOnMatch(action=entered)


def _disabled(ports: set[int | None], silent: set[int | None]) -> _Disabled | None:
    # Whoever waits for the server's first word must not wait for the inspector instead.
    if None not in ports:
        return _Disabled(not_match=_any_of(sorted(port for port in ports if port is not None)))
    others = sorted(port for port in silent - ports if port is not None)
    return _any_of(others) if others else None


def _any_of(ports: list[int]) -> _Disabled:
    rules = [_Disabled(destination_port_range=kinds.Int32Range(start=port, end=port + 1)) for port in ports]
    if len(rules) == 1:
        return rules[0]
    return _Disabled(or_match=listener.ListenerFilterChainMatchPredicateMatchSet(rules=rules))


# --- HTTP ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _manager(name: str, logged: Logged, tuning: Tuning) -> bytes:
    return manager_filter(bytes(manager(name, logged, tuning, [router_filter()])))


def _domains(matches: tuple[PassthroughMatch, ...]) -> dict[str, tuple[PassthroughMatch, ...]]:
    """By route configuration: the domains of a port. Those of any port hold for each explicit one too."""
    http = [one for one in matches if _is_http(one) and one.type == "Domain"]
    anywhere = [one for one in http if one.port is None]
    return {
        _domain_chain(port): tuple(one for one in http if one.port == port and port is not None) + tuple(anywhere)
        for port in dict.fromkeys(one.port for one in http)
    }


@lru_cache(maxsize=1024)
def _domain_routes(name: str, matches: tuple[PassthroughMatch, ...]) -> bytes:
    hosts = {
        one.value.lower(): route.VirtualHost(
            name=one.value.lower(), domains=_hosts(one), routes=[_onward(_CLUSTERS[one.protocol])]
        )
        for one in reversed(matches)
    }
    refused = route.DirectResponseAction(status=503, body=core.DataSource(inline_string=UNKNOWN_DOMAIN))
    rest = route.Route(match=route.RouteMatch(prefix="/"), direct_response=refused)
    unknown = route.VirtualHost(name="no_match", domains=["*"], routes=[rest])
    made = [*(hosts[host] for host in sorted(hosts)), unknown]
    return bytes(route.RouteConfiguration(name=name, virtual_hosts=made, validate_clusters=False))


def _hosts(one: PassthroughMatch) -> list[str]:
    value = one.value.lower()
    return [value, f"{value}:{one.port or '*'}"]


@cache
def _address_routes(protocol: str) -> bytes:
    host = route.VirtualHost(name="addresses", domains=["*"], routes=[_onward(_CLUSTERS[protocol])])
    return bytes(route.RouteConfiguration(name=_address_chain(protocol), virtual_hosts=[host], validate_clusters=False))


def _onward(name: str) -> route.Route:
    done = route.RouteAction(cluster=name, timeout=defaults.NO_TIMEOUT, idle_timeout=defaults.STREAM_IDLE_TIMEOUT)
    return route.Route(match=route.RouteMatch(prefix="/"), route=done)


@cache
def _cluster(name: str) -> bytes:
    # Where traffic goes that is meant for no VIP: on to where it was going, or nowhere.
    if name == defaults.BLACKHOLE:
        kind = cluster.ClusterDiscoveryType.STATIC
        return bytes(cluster.Cluster(name=name, type=kind, connect_timeout=defaults.CONNECT_TIMEOUT))
    explicit = upstream.HttpProtocolOptionsExplicitHttpConfig
    options: dict[str, google.Any] = {}
    if name == _CLUSTERS["http"]:
        plain = explicit(http_protocol_options=core.Http1ProtocolOptions())
        options = http_options(upstream.HttpProtocolOptions(explicit_http_config=plain))
    elif name == _CLUSTERS["http2"]:
        framed = explicit(http2_protocol_options=core.Http2ProtocolOptions())
        options = http_options(upstream.HttpProtocolOptions(explicit_http_config=framed))
    return bytes(
        cluster.Cluster(
            name=name,
            type=cluster.ClusterDiscoveryType.ORIGINAL_DST,
            lb_policy=cluster.ClusterLbPolicy.CLUSTER_PROVIDED,
            connect_timeout=defaults.CONNECT_TIMEOUT,
            typed_extension_protocol_options=options,
        )
    )
