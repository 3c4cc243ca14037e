"""What an Envoy refuses shows at the service that it was for, whatever kind of resource it is."""

from __future__ import annotations

import pytest

from shared.events.state import Position
from shared.model.resource import DataSource, ExternalTls, MeshExternalService, Sealed, Verification
from tests.builders import LogBuilder, ZoneBuilder, applied, mes, mesh, service_key
from zone_cp.ads.delta import Acked, Nacked
from zone_cp.refusals import Refusals, resource_names
from zone_cp.view.project import project
from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.snapshot import CLUSTER, LISTENER, SECRET

AT = Position(1, 1)
TLS = ExternalTls(
    enabled=True,
    verification=Verification(
        ca_cert=DataSource(inline_string="pem"),
        client_cert=DataSource(inline_string="pem"),
        client_key=DataSource(sealed=Sealed(kid="k", nonce="", ciphertext="", digest="")),
    ),
)


def _view(*services: MeshExternalService) -> ZoneView:
    hub = LogBuilder()
    hub.append(applied(mesh()), *(applied(service) for service in services))
    zone = ZoneBuilder()
    zone.follow(hub)
    return project(zone.state)


def _nack(type_url: str, name: str, *names: str) -> Nacked:
    return Nacked(type_url, "1", AT, "no good", (name, *names), ((name, "1"),))


VIEW = _view(mes("payments", tls=TLS), mes("web"))
PAYMENTS = VIEW.meshes["default"].services[service_key("payments")]
CA, PAIR = list(resource_names(PAYMENTS))[1:3]


@pytest.mark.parametrize(
    ("type_url", "name"),
    [
        (CLUSTER, PAYMENTS.cluster),
        (SECRET, CA),
        (SECRET, PAIR),
        (LISTENER, f"outbound/{PAYMENTS.vip}:{PAYMENTS.port}"),
    ],
)
def test_a_refused_resource_is_told_of_its_service(type_url: str, name: str) -> None:
    """Cluster, trusted CA, client certificate or listener: the service's condition says what Envoy said."""
    refusals = Refusals()
    assert refusals.nacked(".egress", _nack(type_url, name))
    assert dict(refusals.services(VIEW)) == {PAYMENTS.cluster: "no good"}
    assert refusals.acked(".egress", Acked(type_url, "2", AT, ((name, "2"),), ()))
    assert not refusals.services(VIEW)


def test_what_came_with_a_refused_resource_is_not_refused() -> None:
    """A response of several says nothing of each: only the one that is certain counts."""
    refusals = Refusals()
    assert not refusals.nacked(".egress", Nacked(SECRET, "1", AT, "no good", (CA, PAIR), ()))
    assert not refusals


def test_one_proxys_word_does_not_take_back_anothers() -> None:
    """Two egresses may hold different certificates and judge differently; one that is gone judges nothing."""
    refusals = Refusals()
    refusals.nacked(".egress-1", _nack(SECRET, CA))
    assert not refusals.acked(".egress-2", Acked(SECRET, "2", AT, ((CA, "1"),), ()))
    assert refusals.services(VIEW)
    assert refusals.disconnected(".egress-1")
    assert not refusals.services(VIEW)


def test_only_a_refused_cluster_holds_names_back() -> None:
    """A service whose certificate is refused is closed like one whose certificate is missing, and keeps its name."""
    refusals = Refusals()
    refusals.nacked(".egress", _nack(SECRET, CA))
    assert refusals.clusters() == frozenset()
    refusals.nacked(".egress", _nack(CLUSTER, PAYMENTS.cluster))
    assert refusals.clusters() == {PAYMENTS.cluster}


def test_what_is_in_quarantine_shows_although_nobody_refuses_it_now() -> None:
    """The proxy that refused it may be gone, and no other is sent it: the service has the reason all the same."""
    refusals = Refusals()
    quarantined = [(CLUSTER, PAYMENTS.cluster, "malformed"), (SECRET, "of nobody", "no good")]
    assert dict(refusals.services(VIEW, quarantined)) == {PAYMENTS.cluster: "malformed"}
    assert refusals.clusters(quarantined) == frozenset({PAYMENTS.cluster})
