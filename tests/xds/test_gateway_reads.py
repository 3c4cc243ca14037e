"""What a gateway follows from: services that its routes name, whether they are there or not, and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared.model.builtin import is_builtin
from shared.model.resource import ExternalTls, Resource, key_of
from tests.builders import applied, dataplane, deleted, external, gateway, gateway_route, mes, mesh, resource
from tests.xds.test_fleet import GATEWAY, Played
from tests.xds.test_gateway_routes import everything_to
from zone_cp.xds import compile as compiling
from zone_cp.xds import faults
from zone_cp.xds.parts import Reads
from zone_cp.xds.snapshot import ROUTE

EDGE = dataplane("edge-1", inbound=[], gateway=GATEWAY)
LISTENING = gateway("edge", "edge-gateway", {"port": 80, "protocol": "HTTP"})
S1 = everything_to({"kind": "MeshExternalService", "name": "s1"}, {"kind": "MeshService", "name": "web"})
NO_CA = "the proxy that dials it knows no system CA and caCert is not set"
DIRECT = mesh("default", labels={"zonal.io/mes-origination": "sidecar"})


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A word for every time that a gateway is compiled."""
    found: list[str] = []
    whole = compiling.compile_next

    def counted(before: Any, view: Any, proxy: Any, *rest: Any) -> Any:
        if is_builtin(proxy.resource):
            found.append("gateway")
        return whole(before, view, proxy, *rest)

    monkeypatch.setattr("zone_cp.xds.fleet.compile_next", counted)
    return found


def played(*written: Resource) -> Played:
    """A gateway beside services that nothing leads to."""
    it = Played()
    it.connect(EDGE, ())
    it.hub.append(*(applied(mes(f"s{number}")) for number in range(4)), *(applied(one) for one in written))
    it.zone.apply(dataplane("web-1"))
    it.zone.apply(dataplane("back-1", "back"))
    it.step()
    return it


def moved(name: str) -> Resource:
    return mes(name, endpoints=("203.0.113.77:1",))


def test_services_that_no_route_names_are_no_business_of_a_gateway(compiled: list[str]) -> None:
    """Ten changes of others and not one compilation; the one that is named, or comes to be there, counts once each."""
    it = played(LISTENING, S1, gateway_route("other", backend="later"))
    compiled.clear()
    for number in (0, 2, 3):
        it.hub.append(applied(moved(f"s{number}")))
        it.step()
    it.hub.append(deleted(mes("s3")), applied(mes("new")))
    it.step()
    for number in range(3):
        it.zone.apply(dataplane(f"back-{number}", "back"))
        it.step()
    assert compiled == []
    for change in (applied(moved("s1")), deleted(mes("s1")), applied(mes("s1"))):
        it.hub.append(change)
        it.step()
    assert compiled == ["gateway"] * 3
    for name in ("web-2", "web-3"):
        it.zone.apply(dataplane(name))
        it.step()
    assert compiled == ["gateway"] * 5


def test_an_external_service_that_comes_takes_the_place_of_one_in_the_mesh(compiled: list[str]) -> None:
    """Though nothing of it was there when the route was compiled; another one is no news."""
    it = played(LISTENING, gateway_route("r", backend="web"), external("else", "203.0.113.1:80"))
    compiled.clear()
    it.hub.append(applied(external("more", "203.0.113.1:81")))
    it.step()
    assert compiled == []
    before = it.fleet.snapshot("default.edge-1")
    it.hub.append(applied(external("web", "203.0.113.2:80")))
    it.step()
    after = it.fleet.snapshot("default.edge-1")
    assert len(compiled) == 1
    assert before is not None
    assert after is not None
    assert before.resources[ROUTE] != after.resources[ROUTE]


def test_a_reference_by_labels_may_come_to_mean_any_service(compiled: list[str]) -> None:
    """So that all of them concern the gateway."""
    it = played(LISTENING, everything_to({"kind": "MeshExternalService", "labels": {"team": "a"}}))
    compiled.clear()
    it.hub.append(applied(mes("fresh", labels={"team": "a"})))
    it.step()
    assert compiled == ["gateway"]


def test_what_a_gateway_reads_is_told_by_name() -> None:
    """Both names that a `kuma.io/service` may stand for."""
    it = played(LISTENING, S1)
    (situation,) = it.fleet.gateways["default"]
    made = it.fleet.groups[situation].compiled
    assert made is not None
    services = {("MeshExternalService", "s1"), ("ExternalService", "web.mesh:80")}
    assert made.reads == Reads(frozenset(services), frozenset({"web"}))


def tcp_to(name: str) -> Resource:
    rule = {"default": {"backendRefs": [{"kind": "MeshExternalService", "name": name}]}}
    item = {"targetRef": {"kind": "Mesh"}, "rules": [rule]}
    spec = {"targetRef": {"kind": "MeshGateway", "name": "edge"}, "to": [item]}
    return resource(type="MeshTCPRoute", name="t", mesh="default", spec=spec)


def moved_on() -> Resource:
    """A route that leads nowhere, as is meant."""
    redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "elsewhere.test"}}
    rules = [{"matches": [{"method": "GET"}], "default": {"filters": [redirect]}}]
    spec = {
        "targetRef": {"kind": "MeshGateway", "name": "edge"},
        "to": [{"targetRef": {"kind": "Mesh"}, "rules": rules}],
    }
    return resource(type="MeshHTTPRoute", name="r", mesh="default", spec=spec)


def guard() -> Resource:
    spec = {"targetRef": {"kind": "MeshExternalService", "name": "s1"}, "rules": []}
    return resource(type="MeshTrafficPermission", name="g", mesh="default", spec=spec)


def one(name: str) -> Callable[[], list[Resource]]:
    return lambda: [everything_to({"kind": "MeshExternalService", "name": name})]


@pytest.mark.parametrize(
    ("written", "reason", "message"),
    [
        (one("none"), "BackendMissing", "MeshHTTPRoute r: no MeshExternalService none is here"),
        (
            lambda: [everything_to({"kind": "MeshService", "name": "nobody"})],
            "NoInstances",
            "MeshHTTPRoute r: no instance of nobody is ready",
        ),
        (
            lambda: [gateway("edge", "edge-gateway", {"port": 90, "protocol": "TCP"}), tcp_to("s1")],
            "BackendMissing",
            "MeshTCPRoute t: MeshExternalService s1 has protocol http, TCP connections cannot be sent there",
        ),
        (
            lambda: [DIRECT, guard(), *one("s1")()],
            "AccessDenied",
            (
                "MeshHTTPRoute r: access to MeshExternalService s1 is denied to this gateway: "
                "no MeshTrafficPermission allows this workload to use this MeshExternalService"
            ),
        ),
        (
            one("s1"),
            "NoZoneEgress",
            "no zone egress of zone east is online: external services fail closed",
        ),
        (
            lambda: [DIRECT, mes("s1", tls=ExternalTls(enabled=True)), *one("s1")()],
            "NoCertificateAuthority",
            f"MeshExternalService s1 is closed: spec.tls.verification.caCert: {NO_CA}",
        ),
    ],
)
def test_what_leads_nowhere_is_told_with_its_event(
    written: Callable[[], list[Resource]], reason: str, message: str
) -> None:
    """Of the route, or of the service that is closed; nothing else is wrong, and it goes when it is mended."""
    it = played(LISTENING)
    assert not faults.impaired(it.fleet)
    it.hub.append(*(applied(each) for each in written()))
    it.step()
    (found,) = faults.impaired(it.fleet)[key_of(LISTENING)]
    assert (found.reason, found.message) == (reason, message)
    assert any(found.event.n == event.n for event in it.hub.events[-3:])
    it.hub.append(applied(moved_on()), deleted(tcp_to("s1")))
    it.step()
    assert not faults.impaired(it.fleet)


def test_a_service_that_is_closed_only_where_a_gateway_dials_it_is_told_as_closed() -> None:
    """In a mesh whose sidecars have a system CA and whose gateway has none: nothing of it is in the log."""
    it = played(LISTENING, DIRECT, mes("s1", tls=ExternalTls(enabled=True)), *one("s1")())
    assert {key.name: found.reason for key, found in faults.failures(it.fleet).items()} == {
        "s1": "NoCertificateAuthority"
    }
    it.hub.append(applied(moved_on()))
    it.step()
    assert not faults.failures(it.fleet)
