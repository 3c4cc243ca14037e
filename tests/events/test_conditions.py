"""Conditions of services, derived from the logs."""

from __future__ import annotations

from typing import Any

from shared.events.conditions import Condition, Delivery, Observed, service_conditions, service_rows
from shared.events.event import ProxyConnected
from shared.model.resource import ExternalTls, Verification, key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, egress, generator, mes, mesh, service_key

KEY = service_key()


def _zone(*resources: Any, online: bool = True) -> ZoneBuilder:
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), *(applied(resource) for resource in resources))
    zone.follow(hub)
    zone.apply(egress())
    if online:
        zone.write(ProxyConnected(proxy="egress-1", key=key_of(egress(), "east"), connection="1"))
    return zone


def _conditions(zone: ZoneBuilder, name: str = "payments", **facts: Any) -> dict[str, Condition]:
    found = service_conditions(service_key(name), zone.hub, zone.own.state, zone.zone, **facts)
    return {condition.type: condition for condition in found}


def test_a_served_service_is_leased_named_and_ready() -> None:
    """Three conditions are always there."""
    found = _conditions(_zone(generator(), mes()))
    assert {name: one.status for name, one in found.items()} == {
        "VipLeased": "True",
        "HostnamesGenerated": "True",
        "Ready": "True",
    }
    assert found["HostnamesGenerated"].message == "payments.ext.local"


def test_a_collision_names_holder_and_generator() -> None:
    """The loser is told who holds the name and through which generator."""
    zone = _zone(generator(template='{{ label "h" }}.ext'), mes(labels={"h": "x"}), mes("late", labels={"h": "x"}))
    condition = _conditions(zone, "late")["HostnamesGenerated"]
    assert (condition.status, condition.reason) == ("False", "Collision")
    assert "MeshExternalService/default/payments" in condition.message
    assert "HostnameGenerator/all" in condition.message


def test_a_template_that_gives_no_name_is_reported() -> None:
    """A missing label is the generator's message; no generator at all has a reason of its own."""
    found = _conditions(_zone(generator(template='{{ label "h" }}.ext'), mes()))
    assert found["HostnamesGenerated"].reason == "TemplateError"
    assert _conditions(_zone(mes()))["HostnamesGenerated"].reason == "NotSelected"


def test_no_egress_online_is_not_ready() -> None:
    """Egress mode fails closed, visibly."""
    ready = _conditions(_zone(generator(), mes(), online=False))["Ready"]
    assert (ready.status, ready.reason) == ("False", "NoZoneEgress")


def test_a_closed_service_is_not_ready_and_names_the_field() -> None:
    """The fault of the view is the reason of the condition."""
    ready = _conditions(_zone(mes(endpoints=())))["Ready"]
    assert (ready.status, ready.reason) == ("False", "NoEndpoints")
    assert ready.message.startswith("spec.endpoints: ")


def test_exhaustion_is_a_condition_on_that_service_only() -> None:
    """In a range of one http address the second service waits."""
    hub, zone = LogBuilder(), ZoneBuilder(cidr="10.9.0.0/29")
    hub.append(applied(mesh()), applied(mes()), applied(mes("second")))
    zone.follow(hub)
    assert _conditions(zone)["VipLeased"].status == "True"
    assert _conditions(zone, "second")["VipLeased"].reason == "Exhausted"


def test_delivery_and_observations_are_facts_from_outside() -> None:
    """ACKs make ready; what proxies saw is Reachable; SkipCA is Degraded."""
    tls = ExternalTls(enabled=True, verification=Verification(mode="SkipCA"))
    zone = _zone(generator(), mes(tls=tls))
    found = _conditions(
        zone,
        delivery=Delivery(acked=False, waiting=("egress-1",)),
        observed=Observed(failing=True, reason="CERTIFICATE_VERIFY_FAILED", at="2026-01-01T00:00:09.000000Z"),
    )
    assert (found["Ready"].status, found["Ready"].reason) == ("Unknown", "Delivering")
    assert (found["Reachable"].status, found["Reachable"].message) == ("False", "CERTIFICATE_VERIFY_FAILED")
    assert found["Degraded"].reason == "SubjectAltNameNotChecked"
    nack = _conditions(zone, delivery=Delivery(acked=False, refused="bad listener"))["Ready"]
    assert (nack.status, nack.message) == ("False", "bad listener")


def test_global_says_pending_until_the_zone_has_decided() -> None:
    """Global folds a zone's log that has not come as far as its own."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(mes()))
    found = {one.type: one for one in service_conditions(KEY, hub.state, zone.own.state, "east")}
    assert (found["VipLeased"].status, found["VipLeased"].reason) == ("Unknown", "Pending")
    assert found["Ready"].status == "Unknown"


def test_the_table_has_a_row_per_service() -> None:
    """Rows of both origins, by mesh and name."""
    zone = _zone(generator(), mes(), mes("b"))
    zone.apply(mes("a"))
    rows = service_rows(zone.hub, zone.own.state, "east")
    assert [(row.name, row.origin) for row in rows] == [("a", "zone"), ("b", "global"), ("payments", "global")]
    assert rows[2].hostnames == ("payments.ext.local",)
    assert rows[2].vip == zone.vip(KEY)
