"""Explanations: from an xDS resource to who changed what, and why something is not there."""

from __future__ import annotations

import pytest

from shared.events.event import ProxyDisconnected
from shared.events.history import History, NoSuchMoment
from tests.builders import LogBuilder, ZoneBuilder, applied, mes, mesh, service_key
from tests.zone_cp.test_replay import EGRESS, SIDECAR, _history, view_name
from zone_cp.explain import Cause, absent, explain
from zone_cp.replay import view_at


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
    assert reason.startswith('there is no MeshExternalService, hostname or VIP "nothing" in zone east')
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
