"""Snapshots of whole proxies: what is in them, what is not, and what they share."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest
from immutables import Map

from shared.events.event import EventRef
from shared.model.inbound import Inbound
from shared.model.resource import BackendRef, Endpoint, Outbound
from shared.naming import sni
from tests.xds.views import (
    MESH_EVENT,
    PROXY_EVENT,
    Authority,
    Secrets,
    egress,
    egress_view,
    mesh_view,
    outbound_to,
    secured,
    service,
    services_of,
    sidecar,
    zone_view,
)
from zone_cp.view.zone_view import ProxyView, ZoneView
from zone_cp.xds import defaults
from zone_cp.xds.compile import access_log_path, compile_proxy
from zone_cp.xds.inspect import plain
from zone_cp.xds.sidecar import referenced
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, SECRET, Snapshot

SECRETS = Secrets()
CA = Authority()
PAIR = CA.issue("external-client")
PAYMENTS = service(
    tls=secured("api.test"), ca=CA.pem, client=PAIR, endpoints=(Endpoint(address="backend.test", port=443),)
)
ECHO = service("echo", vip="127.17.0.1", port=9000, protocol="tcp")


def compiled(view: ZoneView, proxy: ProxyView) -> Snapshot:
    return compile_proxy(view, proxy, SECRETS)


def names(snapshot: Snapshot, type_url: str) -> set[str]:
    return set(snapshot.resources[type_url])


@pytest.mark.parametrize("proxy", [sidecar(), sidecar("redirect", redirect_port=15001)])
def test_a_sidecar_in_egress_mode_knows_nothing_of_the_outside(proxy: ProxyView) -> None:
    """No external address, CA, certificate, key or server name on an application's host (decision 2)."""
    snapshot = compiled(zone_view(mesh_view(PAYMENTS, ECHO), egresses=(egress_view(10002),)), proxy)
    held = b"".join(one.body for resources in snapshot.resources.values() for one in resources.values())
    for secret in ("backend.test", "api.test", "192.0.2.1", CA.pem, *PAIR, "payments-ca"):
        assert secret.encode() not in held
    assert names(snapshot, CLUSTER) - {"passthrough"} == {"egress-http", "egress-tcp"}


def test_with_redirect_a_service_adds_no_resource() -> None:
    """The constant sidecar: adding, changing and closing services leaves every byte as it is (decision 26)."""
    proxy = sidecar("redirect", redirect_port=15001)
    empty, full = (compiled(zone_view(mesh_view(*services)), proxy) for services in ((), (PAYMENTS, ECHO)))
    assert _versions(empty) == _versions(full)


def _versions(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    return {(kind, name): one.version for kind, found in snapshot.resources.items() for name, one in found.items()}


def test_the_redirect_listener_says_the_sni_that_the_egress_expects() -> None:
    """What Envoy makes of the format string is `service_sni` of the address dialled (decision 25)."""
    snapshot = compiled(zone_view(mesh_view()), sidecar("redirect", redirect_port=15001))
    text = json.dumps(plain(snapshot)["Listener"]["outbound/redirect"])
    forms = set(re.findall(r"v%DOWNSTREAM[^\"]*", text))
    assert len(forms) == 1
    made = forms.pop().replace("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "127.16.0.1")
    assert made.replace("%DOWNSTREAM_LOCAL_PORT%", "8080") == sni.service_sni("127.16.0.1", 8080, "default")


def test_internal_headers_are_overwritten_never_appended() -> None:
    """A value sent by a client must not win: on both sides the action is OVERWRITE (decision 25)."""
    view = zone_view(mesh_view(PAYMENTS, ECHO))
    for proxy in (egress(), sidecar(), sidecar("redirect", redirect_port=15001)):
        text = json.dumps(plain(compiled(view, proxy))["Listener"])
        assert text.count('"append_action": "OVERWRITE_IF_EXISTS_OR_ADD"') == text.count('"append": {') > 0


@pytest.mark.parametrize("exclusive", [True, False])
def test_explicit_listeners_are_exclusive_where_envoy_was_made_for_it(*, exclusive: bool) -> None:
    """VIPs and outbounds of both kinds; the flag of a listener that listens cannot be changed."""
    tagged = Outbound(port=7001, tags=Map({"kuma.io/service": "other"}))
    proxy = sidecar(*(["exclusive-ports"] if exclusive else []), outbound=(outbound_to("echo", 7000), tagged))
    found = plain(compiled(zone_view(mesh_view(PAYMENTS, ECHO)), proxy))["Listener"]
    assert len(found) == 4
    assert {name for name, one in found.items() if one.get("enable_reuse_port") is not None} == (
        {name for name in found if name.startswith("outbound/")} if exclusive else set()
    )


def test_without_redirect_there_is_one_listener_per_vip() -> None:
    """Small listeners on VIP:port, and explicit ones for backendRef outbounds."""
    snapshot = compiled(zone_view(mesh_view(PAYMENTS, ECHO)), sidecar(outbound=(outbound_to("echo", 7000),)))
    expected = {"outbound/127.16.0.1:8080", "outbound/127.17.0.1:9000", "outbound/127.0.0.1:7000"}
    assert {name for name in names(snapshot, LISTENER) if name.startswith("outbound/")} == expected


def test_a_backend_ref_means_the_zones_own_service_first() -> None:
    """A name resolves in the zone first, then among global ones; labels must all match."""
    own, far = (service(vip=f"127.16.0.{n}", zone=zone) for n, zone in ((1, "east"), (2, "")))
    mesh = mesh_view(far, own)
    assert referenced(mesh, outbound_to("payments", 1), "east") == own
    assert referenced(mesh_view(far), outbound_to("payments", 1), "east") == far
    assert referenced(mesh, outbound_to("nobody", 1), "east") is None
    labelled = BackendRef(kind="MeshExternalService", labels=Map({"app": "payments"}), port=8080)
    assert referenced(mesh, Outbound(port=1, backend_ref=labelled), "east") == own
    assert (
        referenced(mesh, Outbound(port=1, backend_ref=BackendRef(kind="MeshService", name="payments")), "east") is None
    )


def test_the_egress_listener_is_constant_while_services_come_and_go() -> None:
    """Chains are per mesh and class, and entered by SNI suffix and application protocol."""
    view = zone_view(mesh_view(PAYMENTS, ECHO), mesh_view(name="other"), mesh_view(name="clear", mtls=False))
    snapshot = compiled(view, egress())
    listener = plain(snapshot)["Listener"]["egress"]
    assert entered(listener) == {
        f"*.{mesh}.mes": {"'h2'": f"{mesh}/http", "'http/1.1'": f"{mesh}/http", "'mes-tcp'": f"{mesh}/tcp"}
        for mesh in ("default", "other")
    }
    emptied = zone_view(mesh_view(), mesh_view(name="other"), mesh_view(name="clear", mtls=False))
    assert (
        compiled(emptied, egress()).resources[LISTENER]["egress"].version
        == snapshot.resources[LISTENER]["egress"].version
    )
    assert services_of(snapshot).keys() == {PAYMENTS.cluster, ECHO.cluster}


def entered(listener: dict[str, Any]) -> dict[str, dict[str, str]]:
    """By server name and application protocol: the chain of the egress that a connection enters."""
    domains = listener["filter_chain_matcher"]["matcher_tree"]["custom_match"]["typed_config"]["domain_matchers"]
    chains = {one["name"] for one in listener["filter_chains"]}
    found: dict[str, dict[str, str]] = {}
    for entry in domains:
        for one in entry["on_match"]["matcher"]["matcher_list"]["matchers"]:
            protocol = one["predicate"]["single_predicate"]["value_match"]["contains"]
            chain = one["on_match"]["action"]["typed_config"]["value"]
            assert chain in chains
            for domain in entry["domains"]:
                found.setdefault(domain, {})[protocol] = chain
    return found


def test_on_demand_only_names_of_services_are_asked_for() -> None:
    """Their own class's chain loads a cluster when it is first used; the chains themselves are those of eager mode."""
    view = zone_view(mesh_view(PAYMENTS, ECHO), mesh_view(name="other"))
    eager, lazy = (compiled(msgspec.structs.replace(view, on_demand_above=above), egress()) for above in (2, 1))
    listeners = [plain(one)["Listener"]["egress"] for one in (eager, lazy)]
    assert (eager.on_demand, lazy.on_demand) == ("", "mes/")
    assert eager.resources[CLUSTER] == lazy.resources[CLUSTER]
    assert listeners[0]["filter_chains"] == listeners[1]["filter_chains"]

    def chains(http: str, tcp: str) -> dict[str, str]:
        return {"'h2'": http, "'http/1.1'": http, "'mes-tcp'": tcp}

    assert entered(listeners[1]) == {
        "*.default.mes": chains("default/http/unknown", "default/tcp"),
        "*.other.mes": chains("other/http/unknown", "other/tcp"),
        PAYMENTS.sni: chains("default/http/on-demand", "default/tcp"),
        ECHO.sni: chains("default/http/unknown", "default/tcp/on-demand"),
    }


def test_every_chain_of_the_egress_demands_a_certificate_of_its_mesh() -> None:
    """Client certificate required, verified by the mesh's trust bundle, SAN prefix `spiffe://<mesh>/`."""
    listener = plain(compiled(zone_view(mesh_view(), mesh_view(name="other")), egress()))["Listener"]["egress"]
    for chain in listener["filter_chains"]:
        mesh = chain["name"].partition("/")[0]
        context = chain["transport_socket"]["typed_config"]
        combined = context["common_tls_context"]["combined_validation_context"]
        assert context["require_client_certificate"] is True
        assert combined["validation_context_sds_secret_config"]["name"] == f"trust/{mesh}"
        assert combined["default_validation_context"]["match_typed_subject_alt_names"] == [
            {"san_type": "URI", "matcher": {"prefix": f"spiffe://{mesh}/"}}
        ]


def test_every_name_that_is_referred_to_is_there() -> None:
    """Snapshots are consistent: no SDS, RDS or EDS name without its resource."""
    view = zone_view(mesh_view(PAYMENTS, ECHO), egresses=(egress_view(1),))
    direct = zone_view(mesh_view(PAYMENTS, ECHO, origination="sidecar"))
    for snapshot in (
        compiled(view, egress()),
        compiled(view, sidecar()),
        compiled(view, sidecar("redirect", redirect_port=1)),
        compiled(direct, sidecar()),
    ):
        tree = plain(snapshot)
        text = json.dumps({kind: tree[kind] for kind in ("Cluster", "Listener")})
        assert set(re.findall(r'"route_config_name": "([^"]+)"', text)) <= names(snapshot, ROUTE)
        assert set(re.findall(r'"service_name": "([^"]+)"', text)) == names(snapshot, ENDPOINT)
        assert set(re.findall(r'"name": "([^"]+)", "sds_config"', text)) <= names(snapshot, SECRET)


def test_direct_mode_uses_the_same_clusters_as_the_egress() -> None:
    """A mesh without mTLS, or with origination at the sidecar: byte for byte the egress's clusters (decision 26)."""
    through = services_of(compiled(zone_view(mesh_view(PAYMENTS, ECHO)), egress()))
    for settings in ({"origination": "sidecar"}, {"mtls": False}):
        direct = compiled(zone_view(mesh_view(PAYMENTS, ECHO, **settings)), sidecar()).resources
        assert {name: direct[CLUSTER][name].version for name in through} == {k: v.version for k, v in through.items()}
        assert "zone-egress" not in direct[ENDPOINT]


def test_forbidding_changes_no_listener() -> None:
    """Who may go where comes over ECDS: the chains, and with them connections, stay (decisions 20, 23)."""
    allowed, forbidden = (
        compiled(zone_view(mesh_view(PAYMENTS, ECHO, forbid_external=value)), egress()) for value in (False, True)
    )
    differing = {
        (one.type_url, one.name)
        for resources in forbidden.resources.values()
        for one in resources.values()
        if allowed.resources[one.type_url][one.name].version != one.version
    }
    assert differing == {(EXTENSION_CONFIG, "access/http/default"), (EXTENSION_CONFIG, "destination/tcp/default")}


def test_what_did_not_change_is_the_same_object() -> None:
    """Encoded once: a second proxy, and the next moment, share the bytes."""
    before = zone_view(mesh_view(PAYMENTS, ECHO))
    changed = msgspec.structs.replace(ECHO, endpoints=(Endpoint(address="192.0.2.9", port=1),))
    after = zone_view(mesh_view(PAYMENTS, changed), z=2)
    first, second, later = compiled(before, egress()), compiled(before, egress(10003)), compiled(after, egress())
    for key in (PAYMENTS.cluster, ECHO.cluster):
        assert first.resources[CLUSTER][key] is second.resources[CLUSTER][key]
    assert first.resources[CLUSTER][PAYMENTS.cluster] is later.resources[CLUSTER][PAYMENTS.cluster]
    assert first.resources[CLUSTER][ECHO.cluster].version != later.resources[CLUSTER][ECHO.cluster].version


def test_every_resource_names_its_cause() -> None:
    """`sources` cite the events of service, lease, mesh and proxy: what `zonal explain` prints."""
    view = zone_view(mesh_view(PAYMENTS), egresses=(egress_view(1),))
    resources = compiled(view, egress()).resources
    assert resources[CLUSTER][PAYMENTS.cluster].sources == (*PAYMENTS.sources, *MESH_EVENT)
    assert resources[LISTENER]["egress"].sources == (*PROXY_EVENT, *MESH_EVENT)
    assert resources[SECRET]["secret/default/payments-ca"].sources == (EventRef("global", 7),)
    for snapshot in (compiled(view, egress()), compiled(view, sidecar())):
        assert all(one.sources for found in snapshot.resources.values() for one in found.values())


def test_a_proxy_of_no_known_mesh_holds_nothing() -> None:
    """A Dataplane whose mesh is not there is served an empty snapshot, of every type."""
    snapshot = compiled(zone_view(), sidecar())
    assert {kind: len(found) for kind, found in snapshot.resources.items()} == dict.fromkeys(snapshot.resources, 0)


def test_no_passthrough_is_a_closed_door() -> None:
    """`passthrough: false`: what is no VIP goes to a cluster without endpoints."""
    proxy = sidecar("redirect", redirect_port=15001)
    open_, closed = (compiled(zone_view(mesh_view(passthrough=value)), proxy) for value in (True, False))
    assert plain(open_)["Cluster"][defaults.PASSTHROUGH]["type"] == "ORIGINAL_DST"
    assert "load_assignment" not in plain(closed)["Cluster"][defaults.BLACKHOLE]


@pytest.mark.parametrize(("settings", "chains"), [({}, 1), ({"permissive": True}, 3), ({"mtls": False}, 1)])
def test_inbounds_are_guarded_as_the_mesh_says(settings: dict[str, Any], chains: int) -> None:
    """STRICT: mutual TLS only; PERMISSIVE: plaintext and the application's own TLS beside it; no mTLS: plaintext."""
    inbound = Inbound(port=8000, service_port=8001, tags=Map({"kuma.io/service": "web"}))
    listener = plain(compiled(zone_view(mesh_view(**settings)), sidecar(inbound=(inbound,))))["Listener"]
    found = listener["inbound/127.0.0.1:8000"]["filter_chains"]
    assert len(found) == chains
    assert ("transport_socket" in found[0]) == settings.get("mtls", True)


def test_plain_data_holds_no_key() -> None:
    """Inspection shows fingerprints for certificates and nothing of keys."""
    text = json.dumps(plain(compiled(zone_view(mesh_view(PAYMENTS)), egress())))
    assert "PRIVATE KEY" not in text
    assert PAIR[1].splitlines()[1] not in text
    assert "sha256:" in text


def test_the_access_log_goes_where_the_agent_reads() -> None:
    """The feature `access-log=<path>` names the agent's FIFO; without it, standard output."""
    assert access_log_path(egress(1, "access-log=/run/zonal/log")) == "/run/zonal/log"
    assert access_log_path(egress()) == "/dev/stdout"
