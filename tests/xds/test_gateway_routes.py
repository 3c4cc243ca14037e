"""Routes of gateways: any request is led where the specification says, and what each listener is told is its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy import v3 as tcp_proxy
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.model.resource import Resource
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, gateway, mesh, resource
from zone_cp.replay import RedactedSecrets
from zone_cp.view.project import project
from zone_cp.view.zone_view import ProxyView
from zone_cp.xds import defaults
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.inspect import decode
from zone_cp.xds.snapshot import CLUSTER, LISTENER, ROUTE, Snapshot

PROXY = dataplane("edge-1", inbound=[], gateway={"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}})
HOSTNAMES = ("", "*.b", "*.a.b", "x.a.b", "y.b")
HOSTS = ("x.a.b", "y.a.b", "z.x.a.b", "a.b", "y.b", "c")
PATHS = (
    ("Exact", "/p"),
    ("Exact", "/p/q"),
    ("PathPrefix", "/"),
    ("PathPrefix", "/p"),
    ("RegularExpression", "/p.*"),
    None,
)
ASKED = ("/", "/p", "/p/q", "/pq")


def compiled(*written: Resource, base: Resource | None = None) -> Snapshot:
    hub, own = LogBuilder(), ZoneBuilder()
    hub.append(applied(base or mesh()), *(applied(one) for one in written))
    own.follow(hub)
    return compile_proxy(project(own.state), ProxyView("default.edge-1", PROXY, (), "", ()), RedactedSecrets())


# --- any request, any routes --------------------------------------------------------------------------------------


class Rule(msgspec.Struct, frozen=True):
    """One match and where it leads."""

    path: tuple[str, str] | None
    method: bool
    header: bool
    parameter: bool
    to: str


class Way(msgspec.Struct, frozen=True):
    """A route on the listeners with a tag, or on all ("")."""

    name: str
    old: bool
    tag: str
    hostnames: tuple[str, ...]
    rules: tuple[Rule, ...]


class Asked(msgspec.Struct, frozen=True):
    """A request."""

    host: str
    path: str
    method: str
    header: bool
    parameter: bool


@st.composite
def ways(draw: st.DrawFn) -> tuple[Way, ...]:
    found = []
    for number in range(draw(st.integers(0, 4))):
        rules = tuple(
            Rule(
                draw(st.sampled_from(PATHS)),
                draw(st.booleans()),
                draw(st.booleans()),
                draw(st.booleans()),
                f"s{number}-{count}",
            )
            for count in range(draw(st.integers(1, 3)))
        )
        rules = tuple(one if one.path or one.method or one.header or one.parameter else _plain(one) for one in rules)
        names = draw(st.lists(st.sampled_from(("*", *HOSTNAMES[1:])), max_size=2, unique=True))
        found.append(
            Way(f"r{number}", draw(st.integers(0, 2)) > 0, draw(st.sampled_from(["", "0", "1"])), tuple(names), rules)
        )
    return tuple(found)


def _plain(one: Rule) -> Rule:
    return msgspec.structs.replace(one, path=("PathPrefix", "/"))


def written(way: Way) -> Resource:
    """The route as it is applied."""
    tags = {"at": way.tag} if way.tag else {}
    if not way.old:
        rules = [
            {"matches": [_match(one)], "default": {"backendRefs": [{"kind": "MeshService", "name": one.to}]}}
            for one in way.rules
        ]
        top = {"kind": "MeshGateway", "name": "edge"} | ({"tags": tags} if tags else {})
        item = {"targetRef": {"kind": "Mesh"}, "rules": rules} | ({"hostnames": way.hostnames} if way.hostnames else {})
        return resource(type="MeshHTTPRoute", name=way.name, mesh="default", spec={"targetRef": top, "to": [item]})
    kinds = {"Exact": "EXACT", "PathPrefix": "PREFIX", "RegularExpression": "REGEX"}
    old_rules = []
    for one in way.rules:
        said = _match(one)
        match: dict[str, Any] = {"method": said["method"]} if one.method else {}
        match |= {"path": {"match": kinds[one.path[0]], "value": one.path[1]}} if one.path else {}
        match |= {"headers": [{"name": "x", "value": "1"}]} if one.header else {}
        match |= {"queryParameters": [{"name": "q", "value": "1"}]} if one.parameter else {}
        old_rules.append({"matches": [match], "backends": [{"destination": {"kuma.io/service": one.to}}]})
    selectors = [{"match": {"kuma.io/service": "edge-gateway"} | tags}]
    conf = {"http": {"hostnames": list(way.hostnames), "rules": old_rules}}
    return resource(type="MeshGatewayRoute", name=way.name, mesh="default", selectors=selectors, conf=conf)


def _match(one: Rule) -> dict[str, Any]:
    found: dict[str, Any] = {"path": {"type": one.path[0], "value": one.path[1]}} if one.path else {}
    found |= {"method": "POST"} if one.method else {}
    found |= {"headers": [{"name": "x", "type": "Exact", "value": "1"}]} if one.header else {}
    return found | ({"queryParams": [{"name": "q", "type": "Exact", "value": "1"}]} if one.parameter else {})


def stands_for(name: str, host: str) -> bool:
    """A6: exact names are equal, a wildcard has one label or more in front."""
    return name in ("", "*", host) or (name.startswith("*.") and host.endswith(name[1:]))


def exactness(name: str) -> int:
    """The more, the more exact."""
    return 100 if name and "*" not in name else name.count(".")


def where(listeners: tuple[str, ...], said: Iterable[Way], asked: Asked) -> str | None:
    """Where a request goes, in the words of the specification; "" where no rule takes it, None where nobody listens."""
    covering = [name for name in listeners if stands_for(name, asked.host)]
    if not covering:
        return None
    mine = max(covering, key=exactness)
    on = [one for one in said if one.tag in ("", str(listeners.index(mine) % 2))]
    on = [one for one in on if not one.old and has_a_say(one, listeners, mine)] or [one for one in on if one.old]
    # The more tags, the more specific a policy is; MeshGatewayRoutes are by name alone.
    on.sort(key=lambda one: (0 if one.old else -len(one.tag), one.name))
    taking: list[tuple[Any, str]] = []
    for one in on:
        names = [name for name in one.hostnames or ("*",) if stands_for(name, asked.host)]
        for rule in said_last(one) if names else ():
            if takes(rule, asked):
                nearest = max(exactness(name) for name in (*names, mine))
                taking.append((order(rule, nearest), rule.to))
    return min(taking, key=lambda pair: pair[0])[1] if taking else ""


def has_a_say(way: Way, listeners: tuple[str, ...], mine: str) -> bool:
    """Whether it is about any host of a listener: one that it covers, and no more exact one of its port does."""
    hosts = (*HOSTS, *(name.replace("*", "other") for name in HOSTNAMES if name), "other")
    owned = [
        host
        for host in hosts
        if stands_for(mine, host) and mine == max((one for one in listeners if stands_for(one, host)), key=exactness)
    ]
    return any(stands_for(name, host) for name in way.hostnames or ("*",) for host in owned)


def said_last(way: Way) -> tuple[Rule, ...]:
    """B1: rules of MeshHTTPRoutes are merged by their matches, so that of equal ones the last counts."""
    if way.old:
        return way.rules
    found = {msgspec.structs.replace(rule, to=""): rule for rule in way.rules}
    return tuple(found.values())


def order(rule: Rule, nearest: int) -> tuple[int, ...]:
    """A8: exact, prefix, pattern, none; longer; with a method; more headers, parameters; the more exact hostname."""
    kind = ["Exact", "PathPrefix", "RegularExpression"].index(rule.path[0]) if rule.path else 3
    length = len(rule.path[1]) if rule.path and kind else 0
    return kind, -length, not rule.method, not rule.header, not rule.parameter, -nearest


def takes(rule: Rule, asked: Asked) -> bool:
    """Whether all of a match holds."""
    kind, value = rule.path or ("PathPrefix", "/")
    fits = {
        "Exact": asked.path == value,
        "PathPrefix": asked.path == value or asked.path.startswith(value.rstrip("/") + "/"),
        "RegularExpression": re.fullmatch(value, asked.path) is not None,
    }[kind]
    wanted = (not rule.method or asked.method == "POST") and (not rule.header or asked.header)
    return fits and wanted and (not rule.parameter or asked.parameter)


def led(found: route.RouteConfiguration, asked: Asked) -> str | None:
    """Where Envoy leads a request: the virtual host of the longest name, and its first route that matches."""
    hosts = {one.domains[0]: one for one in found.virtual_hosts}
    assert len(hosts) == len(found.virtual_hosts)
    names = [name for name in hosts if stands_for(name, asked.host)]
    if not names:
        return None
    for one in hosts[max(names, key=exactness)].routes:
        if _matches(one.match or route.RouteMatch(), asked):
            if one.direct_response is not None:
                return ""
            assert one.route is not None
            assert one.route.weighted_clusters is not None
            (to,) = one.route.weighted_clusters.clusters
            return to.name.removeprefix("service/default/")
    return ""


def _matches(match: route.RouteMatch, asked: Asked) -> bool:
    if match.prefix:
        fits = asked.path.startswith(match.prefix)
    elif match.path:
        fits = asked.path == match.path
    elif match.path_separated_prefix:
        fits = asked.path == match.path_separated_prefix or asked.path.startswith(match.path_separated_prefix + "/")
    else:
        assert match.safe_regex is not None
        fits = re.fullmatch(match.safe_regex.regex, asked.path) is not None
    wanted = {one.name for one in match.headers}
    fits = fits and (":method" not in wanted or asked.method == "POST") and ("x" not in wanted or asked.header)
    return fits and (not match.query_parameters or asked.parameter)


REQUESTS = st.builds(
    Asked,
    st.sampled_from(HOSTS),
    st.sampled_from(ASKED),
    st.sampled_from(["GET", "POST"]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(HOSTNAMES), min_size=1, max_size=4, unique=True),
    ways(),
    st.lists(REQUESTS, min_size=5, max_size=12),
    st.randoms(use_true_random=False),
)
def test_any_request_is_led_where_the_specification_says(
    names: list[str], said: tuple[Way, ...], requests: list[Asked], random: Any
) -> None:
    """Whatever listeners share a port and whatever routes are on them; in whatever order they were applied."""
    edge = gateway(
        "edge",
        "edge-gateway",
        *(
            {"port": 80, "protocol": "HTTP", "hostname": name, "tags": {"at": str(number % 2)}}
            for number, name in enumerate(names)
        ),
    )
    events = [edge, *(written(one) for one in said)]
    table = compiled(*events).resources[ROUTE]["edge:HTTP:80:*"]
    random.shuffle(events)
    assert compiled(*events).resources[ROUTE]["edge:HTTP:80:*"].body == table.body
    found = decode(table)
    assert isinstance(found, route.RouteConfiguration)
    for asked in requests:
        assert led(found, asked) == where(tuple(names), said, asked), asked


# --- what listeners are told ---------------------------------------------------------------------------------------


def http_listener(tag: str, hostname: str, port: int = 80) -> dict[str, Any]:
    return {"port": port, "protocol": "HTTP", "hostname": hostname, "tags": {"at": tag}}


def everything_to(*references: dict[str, Any], name: str = "r") -> Resource:
    rules = [
        {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "default": {"backendRefs": list(references)}}
    ]
    item = {"targetRef": {"kind": "Mesh"}, "rules": rules}
    spec = {"targetRef": {"kind": "MeshGateway", "name": "edge"}, "to": [item]}
    return resource(type="MeshHTTPRoute", name=name, mesh="default", spec=spec)


def policy(said: str, default: dict[str, Any], **top: Any) -> Resource:
    spec = {"targetRef": top, "to": [{"targetRef": {"kind": "Mesh"}, "default": default}]}
    return resource(type=said, name="p", mesh="default", spec=spec)


def clusters(made: Snapshot) -> dict[str, cluster.Cluster]:
    found = {}
    for name, one in made.resources[CLUSTER].items():
        decoded = decode(one)
        assert isinstance(decoded, cluster.Cluster)
        found[name] = decoded
    return found


EDGE = gateway("edge", "edge-gateway", http_listener("0", "a.test"), http_listener("1", "b.test"))
WEB = everything_to({"kind": "MeshService", "name": "web"})
SLOW = {"connectionTimeout": "9s"}


def test_listeners_share_a_cluster_until_a_policy_tells_them_apart() -> None:
    """A policy about all of a gateway tunes the one there is; one about a listener's tags gives it another."""
    whole = policy("MeshTimeout", SLOW, kind="Mesh", proxyTypes=["Gateway"])
    assert clusters(compiled(EDGE, WEB, whole))["service/default/web"].connect_timeout == timedelta(seconds=9)
    single = policy("MeshTimeout", SLOW, kind="MeshGateway", name="edge", tags={"at": "1"})
    made = clusters(compiled(EDGE, WEB, single))
    (other,) = [name for name in made if name.startswith("service/default/web@")]
    found = [made[name].connect_timeout for name in ("service/default/web", other)]
    assert found == [timedelta(seconds=5), timedelta(seconds=9)]
    endpoints = made[other].eds_cluster_config
    assert endpoints is not None
    assert endpoints.service_name == "service/default/web"
    elsewhere = policy("MeshTimeout", SLOW, kind="MeshGateway", name="another")
    assert compiled(EDGE, WEB, elsewhere).resources[CLUSTER] == compiled(EDGE, WEB).resources[CLUSTER]


def test_breakers_checks_and_balancing_hold_for_a_gateways_clusters() -> None:
    """MeshCircuitBreaker, MeshHealthCheck and MeshLoadBalancingStrategy, said to gateways or to a MeshGateway."""
    for top in ({"kind": "Mesh", "proxyTypes": ["Gateway"]}, {"kind": "MeshGateway", "name": "edge"}):
        breaker = policy("MeshCircuitBreaker", {"connectionLimits": {"maxConnections": 7}}, **top)
        check = policy("MeshHealthCheck", {"interval": "3s", "tcp": {}}, **top)
        chosen = policy("MeshLoadBalancingStrategy", {"loadBalancer": {"type": "Random"}}, **top)
        made = clusters(compiled(EDGE, WEB, breaker, check, chosen))
        (web,) = [one for name, one in made.items() if name.startswith("service/default/web")]
        assert web.circuit_breakers is not None
        assert web.circuit_breakers.thresholds[0].max_connections == 7
        assert web.health_checks[0].interval == timedelta(seconds=3)
        assert web.lb_policy == cluster.ClusterLbPolicy.RANDOM


def test_what_sidecars_are_told_is_not_told_to_gateways() -> None:
    """Policies for sidecars alone change nothing of a gateway."""
    said = policy("MeshTimeout", SLOW, kind="Mesh", proxyTypes=["Sidecar"])
    assert compiled(EDGE, WEB, said).resources[CLUSTER] == compiled(EDGE, WEB).resources[CLUSTER]


def test_connections_go_to_all_that_routes_say() -> None:
    """Of a listener of TCP; without a route they go to nobody."""
    edge = gateway("edge", "edge-gateway", {"port": 90, "protocol": "TCP"})
    assert proxied(compiled(edge)) == {defaults.NOBODY: 1}
    one = tcp_route("one", {"a": 3, "b": 1})
    other = tcp_route("other", {"c": 0})
    assert proxied(compiled(edge, one, other)) == {
        "service/default/a": 3,
        "service/default/b": 1,
        "service/default/c": 1,  # a weight says nothing of a backend alone
    }


def tcp_route(name: str, weights: dict[str, int]) -> Resource:
    backends = [{"destination": {"kuma.io/service": one}, "weight": many} for one, many in weights.items()]
    selectors = [{"match": {"kuma.io/service": "edge-gateway"}}]
    conf = {"tcp": {"rules": [{"backends": backends}]}}
    return resource(type="MeshGatewayRoute", name=name, mesh="default", selectors=selectors, conf=conf)


def proxied(made: Snapshot, name: str = "edge:TCP:90") -> dict[str, int]:
    found = decode(made.resources[LISTENER][name])
    assert isinstance(found, listener.Listener)
    typed = found.filter_chains[0].filters[-1].typed_config
    assert typed is not None
    proxy = tcp_proxy.TcpProxy.parse(typed.value)
    if proxy.cluster:
        return {proxy.cluster: 1}
    assert proxy.weighted_clusters is not None
    return {one.name: one.weight for one in proxy.weighted_clusters.clusters}
