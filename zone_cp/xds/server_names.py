"""Which chain of the zone egress a connection enters: the listener's matcher over server name and application protocol.

Every mesh has the same chains all the time, so no mode, service or permission replaces one; only this matcher
changes, and a listener that differs in its matcher alone keeps its connections. While an egress holds every cluster
(*eager*), the mesh's suffix and the protocol decide, and the listener is constant. While it loads clusters when they
are first used (*on demand*), the matcher lists the server names of the mesh's services: they alone enter a chain that
asks the control plane, so that a client cannot make Envoy or control plane remember a name that it made up.

What a chain lets its clients reach follows from its own literals and trust bundle, whatever this matcher says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Literal, TypeAlias

from envoy_data_plane.envoy.extensions.matching.common_inputs.network import v3 as network_input
from envoy_data_plane.google import protobuf as google
from envoy_data_plane.xds.core import v3 as xds_core
from envoy_data_plane.xds.type.matcher import v3 as tree

from shared.model.resource import ProtocolClass
from shared.naming import sni
from zone_cp.xds import defaults
from zone_cp.xds.domain_matcher import DomainMatcher, ServerNameMatcher
from zone_cp.xds.shape import pack, part, type_url

Use: TypeAlias = Literal["held", "on-demand", "unknown"]
"""What a chain reaches: clusters that are held, or ones to be asked for. `unknown` is `held` with a request each."""

CLASSES: Mapping[ProtocolClass, tuple[str, ...]] = {"http": defaults.ALPN_HTTP, "tcp": defaults.ALPN_TCP}
"""The application protocols that tell the classes apart."""

USES: Mapping[ProtocolClass, tuple[Use, ...]] = {"http": ("held", "on-demand", "unknown"), "tcp": ("held", "on-demand")}
"""The chains of each class."""

Names: TypeAlias = tuple[str, ...]
Known: TypeAlias = tuple[tuple[str, Names, Names], ...]
"""Per mesh: its name and the server names of its services of class http and tcp; none in eager mode."""


def chain_name(mesh: str, protocol_class: ProtocolClass, use: Use) -> str:
    """`default/http`, `default/http/on-demand`, `default/http/unknown`."""
    return f"{mesh}/{protocol_class}" + ("" if use == "held" else f"/{use}")


@lru_cache(maxsize=8)
def matcher(known: Known, *, on_demand: bool) -> bytes:
    """The listener's `filter_chain_matcher`. A connection that it does not match is closed."""
    entries = []
    for mesh, http, tcp in known:
        # A TCP connection ends with its failure; an HTTP one would stay in its chain when its service appears.
        rest: Use = "unknown" if on_demand else "held"
        versions = [sni.CURRENT] if sni.PREVIOUS is None else [sni.CURRENT, sni.PREVIOUS]
        entries.append(_entry([f"*.{mesh}.{version}" for version in versions], mesh, rest, "held"))
        if on_demand:
            entries += [_entry(http, mesh, "on-demand", "held")] if http else []
            entries += [_entry(tcp, mesh, rest, "on-demand")] if tcp else []
    custom = xds_core.TypedExtensionConfig(
        name="envoy.matching.custom_matchers.domain_matcher",
        typed_config=google.Any(type_url=type_url(ServerNameMatcher), value=b"".join(entries)),
    )
    return bytes(tree.Matcher(matcher_tree=tree.MatcherMatcherTree(input=_server_name(), custom_match=custom)))


def _entry(domains: Iterable[str], mesh: str, http: Use, tcp: Use) -> bytes:
    body = b"".join(part(DomainMatcher, "domains", one) for one in domains)
    body += part(DomainMatcher, "on_match", _by_protocol(mesh, http, tcp))
    return part(ServerNameMatcher, "domain_matchers", body)


@cache
def _server_name() -> xds_core.TypedExtensionConfig:
    return xds_core.TypedExtensionConfig(name="server_name", typed_config=pack(network_input.ServerNameInput()))


@cache
def _by_protocol(mesh: str, http: Use, tcp: Use) -> bytes:
    # Envoy writes what a client offers as 'h2','http/1.1'.
    offered = xds_core.TypedExtensionConfig(
        name="application_protocols", typed_config=pack(network_input.ApplicationProtocolInput())
    )
    found = [
        tree.MatcherMatcherListFieldMatcher(
            predicate=tree.MatcherMatcherListPredicate(
                single_predicate=tree.MatcherMatcherListPredicateSinglePredicate(
                    input=offered, value_match=tree.StringMatcher(contains=f"'{protocol}'")
                )
            ),
            on_match=_enter(chain_name(mesh, kind, http if kind == "http" else tcp)),
        )
        for kind, protocols in CLASSES.items()
        for protocol in protocols
    ]
    return bytes(tree.MatcherOnMatch(matcher=tree.Matcher(matcher_list=tree.MatcherMatcherList(matchers=found))))


def _enter(name: str) -> tree.MatcherOnMatch:
    entered = xds_core.TypedExtensionConfig(name="chain", typed_config=pack(google.StringValue(value=name)))
    return tree.MatcherOnMatch(action=entered)
