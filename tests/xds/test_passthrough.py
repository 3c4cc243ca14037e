"""The redirect listener under a MeshPassthrough: what is tried first, what is looked into, what costs nothing."""

from __future__ import annotations

from typing import Any

from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import EventRef
from shared.events.state import Stored
from shared.model.policy import Policy
from shared.model.resource import Dataplane, key_of
from tests.builders import resource
from tests.xds.views import Secrets, mesh_view, service, sidecar, zone_view
from zone_cp.view.policies import mesh_policies
from zone_cp.view.zone_view import MeshView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.passthrough import undeclared
from zone_cp.xds.snapshot import CLUSTER, LISTENER, ROUTE, Snapshot

LISTENER_NAME = "outbound/redirect"
INSPECTORS = ["envoy.filters.listener.tls_inspector", "envoy.filters.listener.http_inspector"]


def policy(name: str, n: int = 1, top: Any = None, **default: Any) -> tuple[Policy, Stored]:
    spec = {"targetRef": top or {"kind": "Mesh"}, "default": default}
    made = resource(type="MeshPassthrough", name=name, mesh="default", spec=spec)
    assert isinstance(made, Policy)
    event = EventRef("global", n)
    return made, Stored(key_of(made, ""), made, event, event)


def meshed(*policies: tuple[Policy, Stored], passthrough: bool = True) -> MeshView:
    return mesh_view(service("payments"), policies=mesh_policies(policies), passthrough=passthrough)


def sidecar_resource() -> Dataplane:
    found = sidecar("redirect").resource
    assert isinstance(found, Dataplane)
    return found


def compiled(*policies: tuple[Policy, Stored], passthrough: bool = True) -> Snapshot:
    return compile_proxy(zone_view(meshed(*policies, passthrough=passthrough)), sidecar("redirect"), Secrets())


def listened(snapshot: Snapshot) -> dict[str, Any]:
    return listener.Listener.parse(snapshot.resources[LISTENER][LISTENER_NAME].body).to_dict()


def rest(snapshot: Snapshot) -> str:
    return str(listened(snapshot)["defaultFilterChain"]["name"])


def entered(snapshot: Snapshot) -> list[str]:
    """The chains of the listener's matcher, in the order in which it tries them."""
    tried = listened(snapshot)["filterChainMatcher"]["matcherList"]["matchers"]
    return [one["onMatch"]["action"]["typedConfig"]["value"] for one in tried]


def tls(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "Domain", "value": value, "protocol": "tls"} | more


def test_without_entries_nothing_is_looked_into() -> None:
    """Modes alone change where undeclared traffic goes, and win over the mesh; unset is Matched, as in Kuma's code."""
    assert rest(compiled()) == "passthrough"
    for mode, to in (("All", "passthrough"), ("None", "blackhole"), ("Matched", "blackhole")):
        snapshot = compiled(policy("p", passthroughMode=mode), passthrough=mode == "None")
        assert rest(snapshot) == to
        assert "filterChainMatcher" not in listened(snapshot)
        assert [one["name"] for one in listened(snapshot)["listenerFilters"]] == ["envoy.filters.listener.original_dst"]
    assert rest(compiled(policy("p"))) == "blackhole"


def test_the_policy_that_says_so_is_cited() -> None:
    """Listener, clusters and routes name the events of all policies that were added up."""
    web = {"type": "Domain", "value": "a.example.com", "port": 80, "protocol": "http"}
    snapshot = compiled(
        policy("a", 5, appendMatch=[web]),
        policy("b", 6, top={"kind": "Dataplane", "name": "web-1"}, appendMatch=[tls("b.example.com", port=443)]),
    )
    causes = {EventRef("global", 5), EventRef("global", 6)}
    for kind, name in ((LISTENER, LISTENER_NAME), (CLUSTER, "passthrough-http"), (ROUTE, "passthrough/http/80")):
        assert causes <= set(snapshot.resources[kind][name].sources), name


ENTRIES: list[dict[str, Any]] = [
    {"type": "IP", "value": "10.0.0.1", "port": 443, "protocol": "tls"},
    {"type": "IP", "value": "10.0.0.1", "port": 443},
    {"type": "IP", "value": "10.0.0.1"},
    {"type": "CIDR", "value": "10.0.0.0/16"},
    {"type": "CIDR", "value": "10.0.0.0/8"},
    tls("a.example.com", port=443),
    tls("a.example.com"),
    tls("*.example.com"),
]


@settings(deadline=None, max_examples=30)
@given(shuffled=st.permutations(ENTRIES))
def test_no_order_of_entries_says_anything(shuffled: list[dict[str, Any]]) -> None:
    """Address, range, domain, wildcard; an explicit port before any: whatever was written first."""
    found = undeclared(meshed(policy("p", appendMatch=shuffled)), sidecar_resource())
    assert [one.value for one in found.matches] == [one["value"] for one in ENTRIES]
    assert [one.port for one in found.matches] == [one.get("port") for one in ENTRIES]


def test_vips_are_tried_before_any_entry() -> None:
    """What is declared stays reached as it is declared."""
    assert entered(compiled(policy("p", appendMatch=ENTRIES)))[:2] == ["outbound/http", "outbound/tcp"]


def test_only_ports_that_an_entry_asks_for_are_looked_into() -> None:
    """A server that speaks first must not be kept waiting by an inspector that waits for its client."""
    filters = listened(compiled(policy("p", appendMatch=[tls("a.example.com", port=443)])))["listenerFilters"]
    assert [one["name"] for one in filters[1:]] == INSPECTORS[:1]
    assert filters[1]["filterDisabled"] == {"notMatch": {"destinationPortRange": {"start": 443, "end": 444}}}
    everywhere = [tls("*.example.com"), {"type": "IP", "value": "10.0.0.1", "port": 3306, "protocol": "mysql"}]
    filters = listened(compiled(policy("p", appendMatch=everywhere)))["listenerFilters"]
    assert filters[1]["filterDisabled"] == {"destinationPortRange": {"start": 3306, "end": 3307}}


def test_domains_of_a_port_are_hosts_of_one_route_configuration() -> None:
    """Kuma's domains per entry, those of any port on every port, and a 503 that names the policy for the rest."""
    web = {"type": "Domain", "protocol": "http"}
    snapshot = compiled(
        policy(
            "p",
            appendMatch=[
                web | {"value": "A.example.com", "port": 80},
                web | {"value": "*.example.com", "port": 80},
                web | {"value": "any.example.com", "protocol": "grpc"},
            ],
        )
    )
    made = route.RouteConfiguration.parse(snapshot.resources[ROUTE]["passthrough/http/80"].body)
    hosts = {host.name: (host.domains, host.routes[0]) for host in made.virtual_hosts}
    assert {name: domains for name, (domains, _) in hosts.items()} == {
        "a.example.com": ["a.example.com", "a.example.com:80"],
        "*.example.com": ["*.example.com", "*.example.com:80"],
        "any.example.com": ["any.example.com", "any.example.com:*"],
        "no_match": ["*"],
    }
    grpc = hosts["any.example.com"][1].route
    assert grpc is not None
    assert grpc.cluster == "passthrough-http2"
    refused = hosts["no_match"][1].direct_response
    assert refused is not None
    assert refused.status == 503
    assert "passthrough/http/any" in snapshot.resources[ROUTE]


def test_several_policies_may_say_the_same() -> None:
    """Equal entries of two policies are one: Envoy refuses a chain or a domain that is there twice."""
    entry = {"type": "Domain", "value": "a.example.com", "port": 80, "protocol": "http"}
    twice = compiled(policy("a", appendMatch=[entry]), policy("b", appendMatch=[entry | {"value": "A.example.com"}]))
    names = [one["name"] for one in listened(twice)["filterChains"]]
    assert len(names) == len(set(names))
    made = route.RouteConfiguration.parse(twice.resources[ROUTE]["passthrough/http/80"].body)
    domains = [domain for host in made.virtual_hosts for domain in host.domains]
    assert len(domains) == len(set(domains))
