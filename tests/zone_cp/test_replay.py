"""Replay, difference and explanation: from history alone, by the production compiler."""

from __future__ import annotations

import pytest

from shared.events.event import ProxyConnected, ProxyDisconnected, VipsYielded
from shared.events.history import History, NoSuchMoment
from shared.history.between import between
from shared.history.difference import difference
from shared.history.tree import explained, tree_at
from shared.model.resource import key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, egress, generator, mes, mesh, service_key
from zone_cp.replay import snapshot_at, view_at, xds_at

EGRESS, SIDECAR = ".egress-1", "default.web-1"


def _history() -> History:
    """payments moves its endpoint at g4; orders never changes."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    for proxy, resource in ((EGRESS, egress()), (SIDECAR, dataplane())):
        zone.write(applied(resource, "east"))
        features = ("bind-vips",)
        zone.write(ProxyConnected(proxy=proxy, key=key_of(resource, "east"), connection="c", features=features))
    hub.append(applied(mesh()), applied(generator()), applied(mes("orders")), applied(mes()), actor="ann", seconds=1)
    zone.follow(hub)
    hub.append(applied(mes(endpoints=("203.0.113.2:8080",))), actor="bob", seconds=2)
    zone.follow(hub)
    return History.of(hub.events, {"east": zone.own.events})


def test_a_moment_is_compiled_as_it_was() -> None:
    """Before the move the cluster holds the old address, after it the new one."""
    history = _history()
    for at, address in (("4", "203.0.113.1"), ("5", "203.0.113.2")):
        clusters = xds_at(history, "east", history.position("east", at), EGRESS)["Cluster"]
        payments = next(body for name, body in clusters.items() if view_name(history, "payments") in name)
        assert address in str(payments)


def view_name(history: History, service: str) -> str:
    """The cluster of a service at the end of history."""
    view = view_at(history, "east", history.position("east"))
    return view.meshes["default"].services[service_key(service)].cluster


def test_replaying_twice_gives_the_same_bytes() -> None:
    """Every resource, version and body."""
    history = _history()
    position = history.position("east", "5")
    for proxy in (EGRESS, SIDECAR):
        once, again = (snapshot_at(history, "east", position, proxy) for _ in range(2))
        assert once.resources == again.resources


def test_a_difference_names_only_the_field_that_changed() -> None:
    """One address of one cluster of the egress; nothing on the sidecar, which never knew it."""
    history = _history()
    before, after = (history.position("east", at) for at in ("4", "5"))
    changes = difference(*(xds_at(history, "east", position, EGRESS) for position in (before, after)))
    assert {change.name for change in changes} == {view_name(history, "payments")}
    fields = [field for change in changes for field in change.fields]
    assert len(fields) == 2
    assert "203.0.113.1" in str(fields[0].before)
    assert "203.0.113.2" in str(fields[1].after)
    assert all("address" in field.path for field in fields)
    assert difference(*(xds_at(history, "east", position, SIDECAR) for position in (before, after))) == []
    (resource,) = difference(*(tree_at(history, "east", position) for position in (before, after)))
    assert [field.path for field in resource.fields] == [
        "spec.endpoints[address=203.0.113.1]",
        "spec.endpoints[address=203.0.113.2]",
    ]


def test_an_unknown_proxy_is_refused_with_those_that_were_known() -> None:
    """At that moment, not now."""
    history = _history()
    with pytest.raises(NoSuchMoment, match="it knew"):
        snapshot_at(history, "east", history.position("east"), "default.nobody")
    with pytest.raises(NoSuchMoment, match="none yet"):
        snapshot_at(history, "east", history.position("east", "east:1"), EGRESS)


def test_an_offline_proxy_can_still_be_replayed() -> None:
    """What it held while it was online is history too."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    resource = egress()
    zone.write(applied(resource, "east"))
    zone.write(ProxyConnected(proxy=EGRESS, key=key_of(resource, "east"), connection="c"))
    hub.append(applied(mesh()), applied(mes()))
    zone.follow(hub)
    zone.write(ProxyDisconnected(proxy=EGRESS, connection="c"))
    history = History.of(hub.events, {"east": zone.own.events})
    assert xds_at(history, "east", history.position("east"), EGRESS)["Cluster"]


def test_whoever_asks_for_a_proxy_that_is_not_there_is_told_of_some() -> None:
    """And how many more there are, not a thousand names."""
    zone = ZoneBuilder("east")
    for number in range(25):
        key = key_of(dataplane(f"web-{number:02}"), "east")
        zone.write(ProxyConnected(proxy=f"default.web-{number:02}", key=key, connection="c"))
    history = History.of([], {"east": zone.own.events})
    with pytest.raises(NoSuchMoment, match=r"it knew: default.web-00, .*default.web-09 and 15 more$"):
        snapshot_at(history, "east", history.position("east"), "default.web-1")


def test_who_yields_its_vips_holds_no_listeners_there() -> None:
    """From the event that says so to the one that ends it; all else is as ever, and others hold what they did."""
    hub, zone = LogBuilder(), ZoneBuilder("east")
    for name in ("web", "api"):
        resource = dataplane(name)
        proxy = ProxyConnected(proxy=f"default.{name}", key=key_of(resource, "east"), connection="c")
        zone.write(applied(resource, "east"), proxy)
    hub.append(applied(mesh()), applied(generator()), applied(mes()))
    zone.follow(hub)
    whole = zone.own.state.n
    zone.write(VipsYielded(proxy="default.web", to="default.api"))
    zone.write(VipsYielded(proxy="default.web", to=""))
    history = History.of(hub.events, {"east": zone.own.events})

    def listeners(z: int, proxy: str) -> set[str]:
        return set(xds_at(history, "east", history.position("east", f"east:{z}"), proxy).get("Listener", {}))

    vip = f"outbound/{zone.vip(service_key())}:80"
    assert vip in listeners(whole, "default.web")
    assert listeners(whole + 1, "default.web") == listeners(whole, "default.web") - {vip}
    assert listeners(whole + 1, "default.api") == listeners(whole, "default.api")
    assert listeners(whole + 2, "default.web") == listeners(whole, "default.web")
    found = between(history, "east", f"east:{whole}", f"east:{whole + 1}", scope="proxies").plain()
    assert [group["proxies"] for group in found["groups"]] == [["default.web"]]
    told = explained(history, "east", f"east:{whole + 1}", "default.web", "payments", absent=True)
    assert any("is given no VIPs since event" in reason for reason in told["reasons"])
