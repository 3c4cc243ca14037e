"""What is said of Dataplanes and ZoneEgresses: connected or not, outbounds that lead nowhere, pushes that are held."""

from __future__ import annotations

from typing import Any

from shared.events.event import ProxyConnected, ProxyDisconnected, PushHeld, PushReleased
from shared.events.proxy_conditions import proxy_condition_rows, served_in
from shared.model.resource import key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, egress, external, mesh, resource

ONE = {"address": "127.0.0.1", "port": 9997}


def outbound(service: str, port: int = 9997, **tags: str) -> dict[str, Any]:
    return ONE | {"port": port, "tags": {"kuma.io/service": service, **tags}}


def zones(*, ledger: bool = True) -> tuple[LogBuilder, ZoneBuilder, ZoneBuilder]:
    """Global, east, and west, which serves `ledger`."""
    hub, east, west = LogBuilder(), ZoneBuilder("east"), ZoneBuilder("west")
    hub.append(applied(mesh()))
    if ledger:
        west.apply(dataplane("ledger-1", "ledger"))
    return hub, east, west


def said(hub: LogBuilder, zone: ZoneBuilder, *others: ZoneBuilder) -> dict[str, dict[str, tuple[str, str, str]]]:
    """By kind and name, by type: status, reason and message."""
    zone.follow(hub)
    elsewhere = {one.zone: served_in(one.own.state) for one in (zone, *others)} if others else {}
    return {
        f"{row.kind} {row.name}": {one.type: (one.status, one.reason, one.message) for one in row.conditions}
        for row in proxy_condition_rows(zone.hub, zone.own.state, zone.zone, elsewhere=elsewhere)
    }


def test_what_only_another_zone_serves_is_not_reached() -> None:
    """Global names the zone; the zone itself knows only that nobody there serves it."""
    hub, east, west = zones()
    east.apply(dataplane("web-1", outbound=[outbound("ledger"), outbound("web", 9998)]))
    status, reason, message = said(hub, east, west)["Dataplane web-1"]["OutboundsServed"]
    assert (status, reason) == ("False", "CrossZoneUnsupported")
    assert "127.0.0.1:9997" in message
    assert "zone west serves it" in message
    assert "9998" not in message
    assert said(hub, east)["Dataplane web-1"]["OutboundsServed"][:2] == ("False", "NoInstances")


def test_what_nobody_serves_has_no_instances() -> None:
    """Until somebody declares that he does; what is outside the mesh, or named by no tags, is no matter of it."""
    hub, east, west = zones(ledger=False)
    east.apply(dataplane("web-1", outbound=[outbound("ledger")]), dataplane("idle-1"))
    assert said(hub, east, west)["Dataplane web-1"]["OutboundsServed"][:2] == ("False", "NoInstances")
    assert "OutboundsServed" not in said(hub, east, west)["Dataplane idle-1"]
    east.apply(dataplane("ledger-1", "ledger"))
    assert said(hub, east, west)["Dataplane web-1"]["OutboundsServed"] == ("True", "Served", "")
    hub.append(applied(external("pay", service="pay")))
    east.apply(dataplane("web-1", outbound=[outbound("pay")]))
    assert said(hub, east, west)["Dataplane web-1"]["OutboundsServed"] == ("True", "Served", "")


def test_who_is_connected() -> None:
    """Never, now, not any more."""
    hub, east, _ = zones()
    east.apply(dataplane("web-1"), egress())
    assert said(hub, east)["ZoneEgress egress-1"]["Connected"][1] == "NeverConnected"
    connected = ProxyConnected(proxy="default.web-1", key=key_of(dataplane("web-1"), "east"), connection="1")
    east.write(connected)
    assert said(hub, east)["Dataplane web-1"]["Connected"] == ("True", "Connected", "")
    east.write(ProxyDisconnected(proxy="default.web-1", connection="1"))
    assert said(hub, east)["Dataplane web-1"]["Connected"][:2] == ("False", "Disconnected")


def test_a_push_that_is_held_says_so_on_the_proxys_resource() -> None:
    """With what it would take away, for as long as it is held."""
    hub, east, _ = zones()
    east.apply(egress())
    east.write(ProxyConnected(proxy=".egress-1", key=key_of(egress(), "east"), connection="1"))
    assert "Held" not in said(hub, east)["ZoneEgress egress-1"]
    east.write(PushHeld(proxies=(".egress-1",), kept_g=1, kept_z=1, reason="would remove 12 of 20 clusters"))
    status, reason, message = said(hub, east)["ZoneEgress egress-1"]["Held"]
    assert (status, reason) == ("True", "ShrinkGuard")
    assert "would remove 12 of 20 clusters" in message
    east.write(PushReleased(proxies=(".egress-1",), by="operator"))
    assert "Held" not in said(hub, east)["ZoneEgress egress-1"]


def test_a_gateway_says_which_mesh_gateway_it_is_bound_to() -> None:
    """The best of global's and the zone's own; a sidecar says nothing of it."""
    hub, east, _ = zones()
    builtin = {"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}}
    east.apply(dataplane("edge-1", inbound=[], gateway=builtin), dataplane("web-1"))
    none = said(hub, east)["Dataplane edge-1"]["Bound"]
    assert none == ("False", "NoGatewayMatched", "no MeshGateway of mesh default selects its tags: it listens nowhere")
    conf = {"listeners": [{"port": 80, "protocol": "HTTP"}]}
    for where, name, tags in ((hub, "shared", {"kuma.io/service": "*"}), (east, "local", {"kuma.io/service": "edge"})):
        one = resource(type="MeshGateway", name=name, mesh="default", selectors=[{"match": tags}], conf=conf)
        if isinstance(where, LogBuilder):
            where.append(applied(one))
            assert said(hub, east)["Dataplane edge-1"]["Bound"] == ("True", "Bound", "MeshGateway shared of global")
        else:
            where.apply(one)
    told = said(hub, east)
    assert told["Dataplane edge-1"]["Bound"] == ("True", "Bound", "MeshGateway local of zone east")
    assert "Bound" not in told["Dataplane web-1"]
