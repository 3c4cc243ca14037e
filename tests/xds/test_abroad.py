"""Cross-mesh listeners as Envoys are told about them: at the gateway, and at the sidecars of other meshes (A12)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from shared.events.event import ProxyDisconnected
from shared.model.resource import Dataplane, Resource, ResourceKey
from tests.builders import applied, dataplane, deleted, gateway, mes, mesh, resource
from tests.xds.test_fleet import Played
from zone_cp.view.abroad import NO_MTLS
from zone_cp.xds import compile as compiling
from zone_cp.xds import faults
from zone_cp.xds.abroad import abroad_notes
from zone_cp.xds.inspect import plain
from zone_cp.xds.secrets import MaterialMissing
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, Snapshot

REDIRECT: dict[str, Any] = {"transparentProxying": {"redirectPortOutbound": 15001}}
EDGE = {"type": "BUILTIN", "tags": {"kuma.io/service": "edge-gateway"}}
INTERNAL = "internal.edge.default.mesh"
NAMED = {"port": 80, "protocol": "HTTP", "hostname": "api.example.com", "crossMesh": True}
OPEN = {"port": 8080, "protocol": "HTTP", "crossMesh": True}
KEY = ResourceKey("MeshGateway", "web", f"default/edge:{INTERNAL}")
CLUSTER_NAME = f"abroad/web/default/edge:{INTERNAL}:8080"


class Meshes(Played):
    """A gateway in mesh default, and sidecars in it and in mesh web: one with a listener for all, one with many."""

    def __init__(self, *listeners: dict[str, Any]) -> None:
        super().__init__()
        self.secrets.authorities |= {"default", "web", "other"}
        self.authorities |= {"default", "web", "other"}
        self.hub.append(applied(mesh("web")), applied(edge(*listeners or (OPEN,))))
        self.join(dataplane("edge-1", inbound=[], gateway=EDGE))
        self.join(dataplane("own"))
        self.join(replace(dataplane("all", **REDIRECT), mesh="web"), "redirect")
        self.join(replace(dataplane("many"), mesh="web"))
        self.join(replace(dataplane("bare"), mesh="other"))
        self.step()

    def join(self, one: Dataplane, *features: str) -> None:
        self.connect(one, features)

    def told(self, proxy: str) -> Snapshot:
        snapshot = self.fleet.snapshot(proxy)
        assert snapshot is not None
        return snapshot

    def shown(self, proxy: str) -> dict[str, Any]:
        return plain(self.told(proxy))

    @property
    def vip(self) -> str:
        return self.zone.vip(KEY) or ""


def edge(*listeners: dict[str, Any], service: str = "edge-gateway") -> Resource:
    return gateway("edge", service, *listeners)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose groups were compiled."""
    seen: list[str] = []
    whole = compiling.compile_next

    def counted(before: Any, view: Any, proxy: Any, *rest: Any) -> Any:
        kind = "gateway" if proxy.resource.networking.gateway else "sidecar"
        seen.append(f"{kind} of {proxy.resource.mesh}")
        return whole(before, view, proxy, *rest)

    monkeypatch.setattr("zone_cp.xds.fleet.compile_next", counted)
    return seen


def differing(before: Snapshot, after: Snapshot) -> set[tuple[str, str]]:
    """Type and name of what is not the same."""
    return {
        (type_url, name)
        for type_url, held in after.resources.items()
        for name in {*held, *before.resources[type_url]}
        if held.get(name) is not before.resources[type_url].get(name)
    }


def found(value: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from found(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from found(item, key)


# --- at the sidecars of other meshes ----------------------------------------------------------------------------------


def test_a_sidecar_shows_its_own_identity_and_expects_the_gateways() -> None:
    """By the roots of the gateway's mesh, and nobody else of that mesh."""
    told = Meshes().shown("web.many")
    tls = told["Cluster"][CLUSTER_NAME]["transport_socket"]["typed_config"]
    common = tls["common_tls_context"]
    assert [one["name"] for one in common["tls_certificate_sds_secret_configs"]] == ["identity/web"]
    validation = common["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "trust/default"
    (expected,) = validation["default_validation_context"]["match_typed_subject_alt_names"]
    assert expected == {"san_type": "URI", "matcher": {"exact": "spiffe://default/edge-gateway"}}
    assert (common["alpn_protocols"], tls["sni"]) == (["kuma"], INTERNAL)
    assert {"identity/web", "trust/web", "trust/default"} == set(told["Secret"])


def test_there_is_a_listener_at_the_vip_or_a_chain_of_the_one_for_all() -> None:
    """With the cluster's name written over whatever an application says; one constant route follows it."""
    made = Meshes(OPEN, NAMED)
    other = made.zone.vip(ResourceKey("MeshGateway", "web", "default/edge:api.example.com"))
    many, everything = made.shown("web.many"), made.shown("web.all")
    assert {f"outbound/{made.vip}:8080", f"outbound/{other}:80"} <= set(many["Listener"])
    (chosen,) = found(many["Listener"][f"outbound/{made.vip}:8080"], "early_header_mutation_extensions")
    assert "OVERWRITE_IF_EXISTS_OR_ADD" in str(chosen)
    assert CLUSTER_NAME in str(chosen)
    assert set(everything["Listener"]) == {"outbound/redirect"}
    chains = {one["name"]: one for one in everything["Listener"]["outbound/redirect"]["filter_chains"]}
    only = chains[f"abroad/{made.vip}"]
    assert only["filter_chain_match"] == {"prefix_ranges": [{"address_prefix": made.vip, "prefix_len": 32}]}
    assert f"abroad/web/default/edge:{INTERNAL}:%DOWNSTREAM_LOCAL_PORT%" in str(only)
    assert f"abroad/{other}" in chains
    for told in (many, everything):
        (host,) = told["RouteConfiguration"]["abroad/web"]["virtual_hosts"]
        assert [one["route"]["cluster_header"] for one in host["routes"]] == ["x-zonal-cluster"]
        assert "x-zonal-cluster" in told["RouteConfiguration"]["abroad/web"]["request_headers_to_remove"]


def test_where_a_matcher_picks_the_chain_it_knows_the_vip() -> None:
    """With a MeshPassthrough the redirect listener's chains have no match of their own."""
    made = Meshes()
    entry = {"type": "Domain", "value": "a.example.com", "port": 443, "protocol": "tls"}
    spec = {"targetRef": {"kind": "Mesh"}, "default": {"passthroughMode": "Matched", "appendMatch": [entry]}}
    made.hub.append(applied(resource(type="MeshPassthrough", name="p", mesh="web", spec=spec)))
    made.step()
    one = made.shown("web.all")["Listener"]["outbound/redirect"]
    by_address = one["filter_chain_matcher"]["matcher_tree"]["exact_match_map"]["map"]
    assert f"abroad/{made.vip}" in str(by_address[made.vip])
    assert all("filter_chain_match" not in each for each in one["filter_chains"])


def test_a_mesh_sees_nothing_of_its_own() -> None:
    """Nor are egresses or gateways told of what sidecars see."""
    made = Meshes()
    for proxy in ("default.own", "default.edge-1"):
        assert not [name for held in made.shown(proxy).values() for name in held if name.startswith("abroad/")]


@pytest.mark.parametrize(
    ("proxy", "given_up", "reason"),
    [
        (
            "other.bare",
            (),
            "mesh other has no mTLS: its workloads cannot prove to a MeshGateway of default who they are",
        ),
        ("web.many", ("default",), f"mesh default has none: {NO_MTLS}"),
        ("web.many", ("web",), "mesh web has no mTLS"),
    ],
)
def test_without_mutual_tls_nothing_is_dialled(proxy: str, given_up: tuple[str, ...], reason: str) -> None:
    """The reason is told in the 503; the name and the address stay."""
    made = Meshes()
    made.hub.append(*(applied(mesh(one, mtls=False)) for one in given_up))
    made.step()
    name = CLUSTER_NAME.replace("/web/", f"/{proxy.partition('.')[0]}/")
    told = made.shown(proxy)
    assert "transport_socket" not in told["Cluster"][name]
    assert "endpoints" not in told["ClusterLoadAssignment"][name]
    assert reason in told["Cluster"][name]["metadata"]["filter_metadata"]["zonal"]["reason"]
    assert made.zone.vip(replace(KEY, mesh=proxy.partition(".")[0])) is not None


def test_without_the_other_meshs_roots_nothing_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until they are there, and without a word to anybody whom nobody vouches for."""
    made = Meshes()
    known = made.secrets.trust_bundle

    def missing(name: str) -> str:
        if name == "default":
            raise MaterialMissing("this zone has no intermediate certificate of mesh default yet")
        return known(name)

    with monkeypatch.context() as patched:
        patched.setattr(made.secrets, "trust_bundle", missing)
        made.authorities = {"default"}
        made.step()
        told = made.shown("web.many")
        assert "transport_socket" not in told["Cluster"][CLUSTER_NAME]
        assert "endpoints" not in told["ClusterLoadAssignment"][CLUSTER_NAME]
        assert "no intermediate certificate of mesh default" in str(told["Cluster"][CLUSTER_NAME]["metadata"])
        assert "trust/default" not in told["Secret"]
    made.authorities = {"default"}
    made.step()
    assert made.shown("web.many")["ClusterLoadAssignment"][CLUSTER_NAME]["endpoints"]


def test_any_service_is_expected_where_the_selector_says_so() -> None:
    """`*`: one of those that are bound, and while nobody is, nobody."""
    made = Meshes()
    made.hub.append(applied(edge(OPEN, service="*")))
    made.join(dataplane("edge-2", inbound=[], gateway={"type": "BUILTIN", "tags": {"kuma.io/service": "second"}}))
    made.step()

    def expected() -> list[str]:
        cluster = made.shown("web.many")["Cluster"][CLUSTER_NAME]
        (names,) = found(cluster, "match_typed_subject_alt_names")
        return [one["matcher"]["exact"] for one in names]

    assert expected() == ["spiffe://default/edge-gateway", "spiffe://default/second"]
    made.zone.write(*(deleted(dataplane(name), "east") for name in ("edge-1", "edge-2")))
    made.step()
    assert expected() == ["spiffe://default/"]


def test_an_outbound_by_tags_leads_to_the_gateway() -> None:
    """Without redirect or DNS, as in Kuma: its listener stands where it says, and it is no outbound of its own mesh."""
    made = Meshes()
    tags = {"kuma.io/mesh": "default", "kuma.io/service": "edge-gateway"}
    outbound = [{"port": 9000, "tags": tags}, {"port": 9001, "tags": tags | {"kuma.io/service": "nobody"}}]
    made.join(replace(dataplane("tagged", outbound=outbound, **REDIRECT), mesh="web"), "redirect")
    made.step()
    told = made.shown("web.tagged")
    assert {"outbound/redirect", "outbound/127.0.0.1:9000"} == set(told["Listener"])
    assert CLUSTER_NAME in str(told["Listener"]["outbound/127.0.0.1:9000"])
    assert not [name for name in told["Cluster"] if name.startswith("service/")]
    made.hub.append(deleted(edge(OPEN)))
    made.step()
    assert set(made.shown("web.tagged")["Listener"]) == {"outbound/redirect"}


def test_a_reader_is_told_which_names_lead_nowhere() -> None:
    """While no gateway of the zone is there, or one of the meshes has no mutual TLS."""
    made = Meshes()
    view = made.fleet.view
    assert list(abroad_notes(view.meshes["web"], "east")) == []
    (closed,) = abroad_notes(view.meshes["other"], "east")
    assert closed.startswith(f"{INTERNAL}: MeshGateway edge of mesh default: mesh other has no mTLS")
    made.zone.write(deleted(dataplane("edge-1"), "east"))
    made.step()
    (absent,) = abroad_notes(made.fleet.view.meshes["web"], "east")
    assert absent.endswith("in-mesh traffic does not cross zones")


# --- at the gateway ---------------------------------------------------------------------------------------------------


def test_a_gateway_lets_in_who_any_mesh_vouches_for() -> None:
    """One chain for TLS of sidecars, that demands a certificate; routes ask for TLS (A12)."""
    told = Meshes(OPEN, {"port": 8080, "protocol": "HTTP", "hostname": "a.test", "crossMesh": True}).shown(
        "default.edge-1"
    )
    (only,) = told["Listener"]["edge:HTTP:8080"]["filter_chains"]
    assert only["filter_chain_match"] == {"transport_protocol": "tls", "application_protocols": ["kuma"]}
    tls = only["transport_socket"]["typed_config"]
    assert tls["require_client_certificate"] is True
    common = tls["common_tls_context"]
    assert [one["name"] for one in common["tls_certificate_sds_secret_configs"]] == ["identity/default"]
    combined = common["combined_validation_context"]
    assert combined["validation_context_sds_secret_config"]["name"] == "trust:all"
    assert "match_typed_subject_alt_names" not in combined.get("default_validation_context", {})
    hosts = told["RouteConfiguration"]["edge:HTTP:8080:*"]["virtual_hosts"]
    assert [(one["name"], one["require_tls"]) for one in hosts] == [("a.test", "ALL"), ("*", "ALL")]
    assert all("strict-transport-security" in str(one["response_headers_to_add"]) for one in hosts)
    assert "trust:all" in told["Secret"]


def test_only_meshes_with_mutual_tls_are_trusted() -> None:
    """`other` has none; one that comes is trusted from then on, and no listener differs."""
    made = Meshes()

    def trusted() -> set[bytes]:
        return set(re.findall(rb"bundle of (\w+)", made.told("default.edge-1").resources[SECRET]["trust:all"].body))

    def asked() -> list[str]:
        routes = made.shown("default.edge-1")["RouteConfiguration"]["edge:HTTP:8080:*"]
        return [one["prefix"] for one in found(routes["typed_per_filter_config"], "principal_name")]

    assert trusted() == {b"default", b"web"}
    before = made.told("default.edge-1")
    made.hub.append(applied(mesh("late")))
    made.step()
    assert differing(before, made.told("default.edge-1")) == {(SECRET, "trust:all"), (ROUTE, "edge:HTTP:8080:*")}
    assert trusted() == {b"default", b"late", b"web"}
    assert asked() == ["spiffe://default/", "spiffe://late/", "spiffe://web/"]
    made.hub.append(deleted(mesh("web")))
    made.step()
    assert trusted() == {b"default", b"late"}
    assert asked() == ["spiffe://default/", "spiffe://late/"]


def test_a_gateway_without_cross_mesh_listeners_trusts_its_own_mesh() -> None:
    assert "trust:all" not in Meshes({"port": 8080, "protocol": "HTTP"}).shown("default.edge-1")["Secret"]


def test_without_mutual_tls_the_listener_is_closed() -> None:
    """And said to be; a listener that is not for other meshes is served."""
    made = Meshes(OPEN, {"port": 81, "protocol": "HTTP"})
    made.hub.append(applied(mesh(mtls=False)))
    made.step()
    ((place, why),) = faults.closed(made.fleet).items()
    assert (place[1], why.reason, why.message, why.field) == (0, "NoMutualTls", NO_MTLS, "conf.listeners[0].crossMesh")
    told = made.shown("default.edge-1")
    (only,) = told["Listener"]["edge:HTTP:8080"]["filter_chains"]
    assert [one["name"] for one in only["filters"]] == ["envoy.filters.network.tcp_proxy"]
    assert "trust:all" not in told.get("Secret", {})


# --- work proportional to change --------------------------------------------------------------------------------------


def test_a_gateway_that_goes_changes_endpoints_of_other_meshes_alone(compiled: list[str]) -> None:
    """Its cluster, its listener and routes are the same bytes; its own mesh's sidecars are not looked at."""
    made = Meshes()
    before = {proxy: made.told(proxy) for proxy in ("web.many", "web.all")}
    connection = made.zone.state.own.proxies["default.edge-1"].connection
    made.zone.write(ProxyDisconnected(proxy="default.edge-1", connection=connection))
    compiled.clear()
    turn = made.next(made.events())
    assert sorted(compiled) == ["sidecar of other", "sidecar of web", "sidecar of web"]
    for proxy, snapshot in before.items():
        after = turn.fleet.snapshot(proxy)
        assert after is not None
        assert differing(snapshot, after) == {(ENDPOINT, CLUSTER_NAME)}


def test_a_host_that_comes_touches_none_that_is_there(compiled: list[str]) -> None:
    made = Meshes()
    before = {proxy: made.told(proxy) for proxy in ("web.many", "web.all")}
    more = gateway("second", "second-gateway", NAMED)
    made.hub.append(applied(more))
    compiled.clear()
    made.step()
    key = ResourceKey("MeshGateway", "web", "default/second:api.example.com")
    name, vip = "abroad/web/default/second:api.example.com:80", made.zone.vip(key)
    new = {(CLUSTER, name), (ENDPOINT, name)}
    # The shared bundle is there because of both.
    cited = {(SECRET, "trust/default")}
    assert differing(before["web.many"], made.told("web.many")) - cited == new | {(LISTENER, f"outbound/{vip}:80")}
    assert differing(before["web.all"], made.told("web.all")) - cited == new | {(LISTENER, "outbound/redirect")}
    bundle = [
        made.told("web.all").resources[SECRET]["trust/default"],
        before["web.all"].resources[SECRET]["trust/default"],
    ]
    assert bundle[0].version == bundle[1].version
    assert "sidecar of default" not in compiled
    made.hub.append(deleted(more))
    made.step()
    assert {one for one in made.told("web.all").resources[CLUSTER] if one.startswith("abroad/")} == {CLUSTER_NAME}


def test_the_last_host_takes_all_along() -> None:
    """Routes and the other mesh's roots too."""
    made = Meshes()
    made.hub.append(deleted(edge(OPEN)))
    made.step()
    for proxy in ("web.many", "web.all"):
        held = made.told(proxy).resources
        assert not [name for kind in (CLUSTER, ENDPOINT, ROUTE) for name in held[kind] if name.startswith("abroad/")]
        assert "trust/default" not in held[SECRET]
    assert not made.fleet.names["web"].table


def test_what_does_not_concern_other_meshes_visits_nobody_for_it(compiled: list[str]) -> None:
    """An external service of the gateway's mesh, or a sidecar of it that comes."""
    made = Meshes()
    compiled.clear()
    made.hub.append(applied(mes()))
    made.next(made.events())
    assert "sidecar of web" not in compiled
    made.step()
    compiled.clear()
    made.join(dataplane("own-2", "second"))
    made.next(made.events())
    assert "sidecar of web" not in compiled


def test_new_roots_reach_those_who_trust_them(compiled: list[str]) -> None:
    """The gateway's mesh: sidecars of others. Another mesh: the gateway. Nothing but secrets differs."""
    made = Meshes()
    compiled.clear()
    made.authorities = {"default"}
    made.next(made.events())
    assert compiled.count("sidecar of web") == 2
    compiled.clear()
    made.authorities = {"web"}
    made.next(made.events())
    assert "gateway of default" in compiled


def test_names_resolve_in_other_meshes() -> None:
    made = Meshes(OPEN, NAMED)
    names = made.fleet.names
    assert dict(names["web"].table) == {INTERNAL: made.vip, "api.example.com": names["web"].table["api.example.com"]}
    assert not names["default"].table
    assert set(names["other"].table) == set(names["web"].table)
    assert names["other"].table[INTERNAL] != made.vip
