"""Explanations: from an xDS resource to who changed what, and why something is not there."""

from __future__ import annotations

import pytest

from shared.events.event import Change, ProxyConnected, ProxyDisconnected, PushHeld, ResourceQuarantined
from shared.events.history import History, NoSuchMoment
from shared.model.resource import key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, external, gateway, mes, mesh, service_key
from tests.xds.test_abroad import CLUSTER_NAME, INTERNAL, Meshes
from tests.zone_cp.test_replay import EGRESS, SIDECAR, _history, view_name
from zone_cp.explain import Cause, absent, explain
from zone_cp.replay import view_at
from zone_cp.xds.snapshot import CLUSTER


def _explained(wanted: str, proxy: str = EGRESS) -> dict[str, tuple[Cause, ...]]:
    history = _history()
    found = explain(history, "east", history.position("east"), proxy, wanted)
    return {one.resource: one.causes for one in found}


@pytest.mark.parametrize("wanted", ["payments", "payments.ext.local"])
def test_an_explanation_names_event_author_and_time(wanted: str) -> None:
    """Of the last change of the service, by whatever name it is asked for; of others' nothing."""
    causes = _explained(wanted)[f"Cluster {view_name(_history(), 'payments')}"]
    assert ("5", "bob") in {(cause.event, cause.actor) for cause in causes}
    assert all(cause.time for cause in causes)
    assert not any("orders" in cause.what for cause in causes)


def test_a_chain_leads_from_the_rule_to_who_began_it() -> None:
    """The zone leased and claimed because ann created the service; the egress is there because it connected."""
    causes = _explained("payments")[f"Cluster {view_name(_history(), 'payments')}"]
    told = [(one.role, one.what, one.because and (one.because.event, one.because.actor)) for one in causes]
    assert sorted(told) == sorted(
        [
            ("where the zone egress is", "ResourceApplied ZoneEgress egress-1", None),
            ("a proxy is connected", "ProxyConnected ZoneEgress egress-1 .egress-1", None),
            ("what its mesh asks for", "ResourceApplied Mesh default", None),
            ("its address", f"VipLeased MeshExternalService default payments {_vip()}", ("4", "ann")),
            (
                "its name",
                "HostnameClaimed MeshExternalService default payments payments.ext.local by HostnameGenerator all",
                ("4", "ann"),
            ),
            ("what the service is", "ResourceApplied MeshExternalService payments", None),
        ]
    )


def _vip() -> str:
    history = _history()
    return view_at(history, "east", history.position("east")).meshes["default"].services[service_key()].vip


def test_a_vip_explains_the_listener_that_binds_it() -> None:
    """On a sidecar the VIP is all there is."""
    assert [name.partition(" ")[0] for name in _explained(_vip(), SIDECAR)] == ["Listener"]


def test_what_nobody_holds_is_explained_by_nothing() -> None:
    """An empty answer, for the caller to say so; a proxy that was unknown is told with those that were known."""
    assert _explained("nothing-of-the-kind") == {}
    with pytest.raises(NoSuchMoment, match="it knew"):
        _explained("payments", "default.nobody")


def _absent(history: History, proxy: str, wanted: str) -> list[str]:
    return absent(history, "east", history.position("east"), proxy, wanted)


def test_what_is_not_there_is_explained_too() -> None:
    """No such service; no egress; a proxy of another mesh; nothing to be said where it is served."""
    hub, history = LogBuilder(), _history()
    assert _absent(history, SIDECAR, "payments") == []
    (reason,) = _absent(history, SIDECAR, "nothing")
    assert reason.startswith('there is no external service, hostname or VIP "nothing" in zone east')
    zone = ZoneBuilder("east")
    hub.append(
        *(event.change for event in history.hub.events()), applied(mesh("other")), applied(mes("far", mesh="other"))
    )
    for event in history.zones["east"].events():
        if event.actor == "test":
            zone.write(event.change)
    zone.follow(hub)
    zone.write(ProxyDisconnected(proxy=EGRESS, connection="c"))
    found = History.of(hub.events, {"east": zone.own.events})
    assert any("no zone egress is online" in reason for reason in _absent(found, SIDECAR, "payments"))
    elsewhere = f"{SIDECAR} is in mesh default, MeshExternalService/other/far in mesh other"
    assert elsewhere in _absent(found, SIDECAR, "far")
    assert f"{EGRESS} is not connected" in _absent(found, EGRESS, "payments")


def _legacy(*further: Change) -> History:
    """The same with an ExternalService, and what the zone recorded of it; sidecars dial it themselves."""
    hub, zone, history = LogBuilder(), ZoneBuilder("east"), _history()
    hub.append(*(event.change for event in history.hub.events()), applied(external("paper")), actor="ann", seconds=1)
    for event in history.zones["east"].events():
        if event.actor == "test":
            zone.write(event.change)
    zone.follow(hub)
    for change in further:
        zone.write(change)
    return History.of(hub.events, {"east": zone.own.events})


def test_an_external_service_is_explained_by_any_of_its_names() -> None:
    """Its resource, its service, its host and its VIP lead to the same; the egress says why it holds nothing of it."""
    history = _legacy()
    view = view_at(history, "east", history.position("east"))
    (door,) = [one for one in view.meshes["default"].services.values() if one.hostnames == ("paper.mesh",)]
    for wanted in (door.name, door.service, "paper.mesh", door.vip):
        found = explain(history, "east", history.position("east"), SIDECAR, wanted)
        told = {cause.role: cause.what for one in found if door.cluster in one.resource for cause in one.causes}
        assert told["what the service is"] == "ResourceApplied ExternalService paper"
        assert _absent(history, EGRESS, wanted) == [
            "routing.zoneEgress of mesh default is not set: its sidecars dial paper themselves"
        ]
        assert _absent(history, SIDECAR, wanted) == []


def test_what_is_kept_back_is_named() -> None:
    """A push that is held, and a version that an Envoy refused: by event, in the sentence and in the chain."""
    name = view_name(_history(), "payments")
    kept = _history().position("east", "4")
    held = PushHeld(proxies=(EGRESS,), kept_g=kept.g, kept_z=kept.z, reason="takes most away")
    refused = ResourceQuarantined(
        type_url=CLUSTER, name=name, version="v", kept_g=kept.g, kept_z=kept.z, proxy=EGRESS, reason="no such filter"
    )
    history = _legacy(held, refused)
    z = len(history.zones["east"])
    said = _absent(history, EGRESS, "payments")
    assert f"a push to {EGRESS} is held back since event east:{z - 1}: takes most away" in said
    assert any(f"is kept back since event east:{z}, {EGRESS} refused it: no such filter" in one for one in said)
    found = explain(history, "east", history.position("east"), EGRESS, "payments")
    (causes,) = [one.causes for one in found if one.resource == f"Cluster {name}"]
    roles = {cause.role: cause.event for cause in causes}
    assert roles["a push to the proxy is held back"] == f"east:{z - 1}"
    assert roles["a version of it that was refused is kept back"] == f"east:{z}"


@pytest.mark.parametrize("wanted", [INTERNAL, "edge"])
def test_a_name_explains_what_leads_to_it(wanted: str) -> None:
    """The cluster and the listener at its VIP, back to who declared the MeshGateway."""
    made = Meshes()
    history = History.of(made.hub.events, {"east": made.zone.own.events})
    found = {one.resource: one for one in explain(history, "east", history.position("east"), "web.many", wanted)}
    assert {f"Cluster {CLUSTER_NAME}", f"Listener outbound/{made.vip}:8080"} <= set(found)
    for one in (found[f"Cluster {CLUSTER_NAME}"], found[f"Listener outbound/{made.vip}:8080"]):
        told = {cause.role: cause.what for cause in one.causes}
        assert told["what a gateway listens for"] == "ResourceApplied MeshGateway edge"
        assert told["its address"].startswith("VipLeased MeshGateway web default/edge")


@pytest.mark.parametrize("wanted", ["shop.example", "edge"])
def test_a_hostname_of_a_gateway_explains_what_listens_for_it(wanted: str) -> None:
    """At the gateway that serves it, by listener and routes; another hostname is explained by nothing."""
    hub, zone = LogBuilder(), ZoneBuilder()
    listener = {"port": 8080, "protocol": "HTTP", "hostname": "shop.example"}
    hub.append(applied(mesh()), applied(gateway("edge", "edge", listener)), actor="eve")
    zone.follow(hub)
    proxy = dataplane("edge-1", gateway={"type": "BUILTIN", "tags": {"kuma.io/service": "edge"}})
    zone.apply(proxy)
    zone.write(ProxyConnected(proxy="default.edge-1", key=key_of(proxy, "east"), connection="1"))
    history = History.of(hub.events, {"east": zone.own.events})

    def told(name: str) -> dict[str, set[str]]:
        found = explain(history, "east", history.position("east"), "default.edge-1", name)
        return {one.resource.partition(" ")[0]: {cause.actor for cause in one.causes} for one in found}

    assert told(wanted).keys() >= {"Listener", "RouteConfiguration"}
    assert all("eve" in actors for actors in told(wanted).values())
    assert told("other.example") == {}
