"""Routes in what a sidecar holds: which resources they touch, in every way that a sidecar is set up."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy import v3 as tcp_proxy

from shared.events.event import EventRef
from shared.events.state import Stored
from shared.model.policy import Policy, SpiffeMatch
from shared.model.resource import key_of
from tests.builders import resource
from tests.xds.views import Secrets, mesh_view, service, sidecar, zone_view
from zone_cp.view.policies import Permission, mesh_policies
from zone_cp.view.zone_view import ExternalServiceView, ProxyView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.snapshot import CLUSTER, LISTENER, ROUTE, Snapshot

SECRETS = Secrets()
WEB, NEXT = service("web"), service("next", vip="127.16.0.2")
ROWS = service("rows", vip="127.17.0.1", protocol="tcp")
COPY = service("copy", vip="127.17.0.2", protocol="tcp")


def ref(name: str, weight: int = 1) -> dict[str, Any]:
    return {"kind": "MeshExternalService", "name": name, "weight": weight}


def route(kind: str, to: str, *refs: dict[str, Any]) -> tuple[Policy, Stored]:
    rule: dict[str, Any] = {"default": {"backendRefs": list(refs)}}
    if kind == "MeshHTTPRoute":
        rule["matches"] = [{"path": {"type": "PathPrefix", "value": "/a"}}]
    spec = {"to": [{"targetRef": {"kind": "MeshExternalService", "name": to}, "rules": [rule]}]}
    made = resource(type=kind, name="r", mesh="default", spec=spec)
    assert isinstance(made, Policy)
    event = EventRef("global", 9)
    return made, Stored(key_of(made, ""), made, event, event)


def compiled(
    *policies: tuple[Policy, Stored],
    proxy: ProxyView | None = None,
    services: tuple[ExternalServiceView, ...] = (WEB, NEXT, ROWS, COPY),
    **mesh: Any,
) -> Snapshot:
    view = zone_view(mesh_view(*services, policies=mesh_policies(policies), **mesh))
    return compile_proxy(view, proxy or sidecar("redirect"), SECRETS)


def differing(one: Snapshot, other: Snapshot) -> set[tuple[str, str]]:
    """Type and name of the resources of either whose content differs, or that only one has."""
    held = [
        {(kind, name): each.version for kind, found in of.resources.items() for name, each in found.items()}
        for of in (one, other)
    ]
    return {key for key in {*held[0], *held[1]} if held[0].get(key) != held[1].get(key)}


def proxied(snapshot: Snapshot, name: str, chain: str = "") -> dict[str, int]:
    """Clusters and weights of the TCP proxy in a chain of a listener."""
    made = listener.Listener.parse(snapshot.resources[LISTENER][name].body)
    (only,) = [one for one in made.filter_chains if one.name == chain]
    last = only.filters[-1].typed_config
    assert last is not None
    found = tcp_proxy.TcpProxy.parse(last.value)
    if found.weighted_clusters is None:
        return {str(found.cluster): 1}
    weights: Counter[str] = Counter()
    for one in found.weighted_clusters.clusters:
        weights[one.name] += one.weight
    return weights


def test_an_http_route_touches_the_route_configuration_alone() -> None:
    """No listener, no chain, no cluster: nothing drains when a route changes (decision 23)."""
    for mtls in (True, False):
        with_route = compiled(route("MeshHTTPRoute", "web", ref("next"), ref("nobody")), mtls=mtls)
        assert {kind for kind, _ in differing(compiled(mtls=mtls), with_route)} == {ROUTE}


def test_a_tcp_route_touches_the_services_chain_and_its_backends() -> None:
    """One listener, a cluster per backend that is there; a share of nobody leads to no cluster."""
    shared = compiled(route("MeshTCPRoute", "rows", ref("rows", 3), ref("copy"), ref("nobody", 2), ref("web")))
    names = {f"egress-tcp/{one.sni}" for one in (ROWS, COPY)}
    assert differing(compiled(), shared) == {(CLUSTER, name) for name in names} | {(LISTENER, "outbound/redirect")}
    found = proxied(shared, "outbound/redirect", f"outbound/tcp/{ROWS.vip}")
    assert found == {f"egress-tcp/{ROWS.sni}": 3, f"egress-tcp/{COPY.sni}": 1, "mes/nobody": 3}


def test_without_redirect_the_services_own_listener_shares_out() -> None:
    """A listener per VIP: that of the service alone differs."""
    proxy = sidecar("bind-vips")
    shared = compiled(route("MeshTCPRoute", "rows", ref("copy")), proxy=proxy)
    name = f"outbound/{ROWS.vip}:{ROWS.port}"
    assert {one for kind, one in differing(compiled(proxy=proxy), shared) if kind == LISTENER} == {name}
    assert proxied(shared, name) == {f"egress-tcp/{COPY.sni}": 1}


def test_in_direct_mode_a_denied_backend_is_closed() -> None:
    """The permission of the backend decides; what the mesh forbids stays forbidden unless a permission opens it."""
    nobody = Permission((), (SpiffeMatch(type="Exact", value="spiffe://default/nobody"),))
    anyone = Permission((), (SpiffeMatch(type="Prefix", value="spiffe://default/"),))
    route_to_both = route("MeshTCPRoute", "rows", ref("rows"), ref("copy", 2))
    chain = f"outbound/tcp/{ROWS.vip}"

    def seen(copy: ExternalServiceView, **mesh: Any) -> dict[str, int]:
        snapshot = compiled(route_to_both, services=(ROWS, copy), origination="sidecar", **mesh)
        return proxied(snapshot, "outbound/redirect", chain)

    assert seen(COPY) == {ROWS.cluster: 1, COPY.cluster: 2}
    assert seen(_with(COPY, permission=nobody)) == {ROWS.cluster: 1, "mes/forbidden": 2}
    assert seen(_with(COPY, permission=anyone), forbid_external=True) == {"mes/forbidden": 1, COPY.cluster: 2}


def _with(one: ExternalServiceView, **changes: Any) -> ExternalServiceView:
    return msgspec.structs.replace(one, **changes)
