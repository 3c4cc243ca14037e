"""In-mesh services: who serves a `kuma.io/service`, and who of them may be given traffic."""

from __future__ import annotations

from typing import Any

import pytest
from immutables import Map

from shared.events.event import ProxyConnected, ProxyDisconnected
from shared.model.inbound import Inbound
from shared.model.resource import Outbound, key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, deleted, mesh
from zone_cp.view.project import project
from zone_cp.view.workloads import Instance, Workloads, inbound_protocol, outbound_note, selected


def _zone(*resources: Any, online: bool = True) -> ZoneBuilder:
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()))
    zone.follow(hub)
    for one in resources:
        zone.apply(one)
        if online:
            zone.write(ProxyConnected(proxy=f"default.{one.name}", key=key_of(one, "east"), connection="1"))
    return zone


def _inbound(service: str = "backend", port: int = 8080, protocol: str = "http", **rest: Any) -> dict[str, Any]:
    tags = {"kuma.io/service": service, "kuma.io/protocol": protocol, **rest.pop("tags", {})}
    return {"port": port, "tags": tags, **rest}


def _backend(name: str = "b-1", address: str = "10.0.0.1", **inbound: Any) -> Any:
    return dataplane(name, address=address, inbound=[_inbound(**inbound)])


def _workloads(zone: ZoneBuilder) -> Workloads:
    return project(zone.state).meshes["default"].workloads


def _only(zone: ZoneBuilder) -> Instance:
    (instance,) = _workloads(zone).services["backend"].instances.values()
    return instance


def test_an_instance_is_ready_while_its_stream_is_open() -> None:
    """Declared alone it gets nothing; connected it does; disconnected, deleted: no more."""
    zone = _zone(_backend(), online=False)
    assert _only(zone).idle == "its proxy is not connected"
    zone.write(ProxyConnected(proxy="default.b-1", key=key_of(_backend(), "east"), connection="1"))
    instance = _only(zone)
    assert (instance.idle, instance.address, instance.port, instance.zone) == ("", "10.0.0.1", 8080, "east")
    zone.write(ProxyDisconnected(proxy="default.b-1", connection="1"))
    assert _only(zone).idle == "its proxy is not connected"
    zone.write(deleted(_backend(), "east"))
    assert _workloads(zone) == Workloads()


@pytest.mark.parametrize(
    ("inbound", "idle"),
    [
        ({}, ""),
        ({"state": "NotReady"}, "its inbound is not ready"),
        ({"health": {"ready": False}}, "its inbound is not ready"),
        ({"state": "Ready", "health": {"ready": True}}, ""),
    ],
)
def test_an_inbound_says_whether_it_is_ready(inbound: dict[str, Any], idle: str) -> None:
    """`state` and Kuma's older `health` must agree that it is."""
    assert _only(_zone(_backend(**inbound))).idle == idle


def test_an_ignored_inbound_is_in_no_service() -> None:
    """Nor does its sidecar listen for it."""
    assert _workloads(_zone(_backend(state="Ignored"))).services == Map()


@pytest.mark.parametrize(
    ("networking", "inbound", "address"),
    [
        ({}, {}, "10.0.0.1"),
        ({"advertisedAddress": "192.0.2.1"}, {}, "192.0.2.1"),
        ({"advertisedAddress": "192.0.2.1"}, {"address": "10.0.0.9"}, "10.0.0.9"),
    ],
)
def test_where_an_instance_is_reached(networking: dict[str, str], inbound: dict[str, Any], address: str) -> None:
    """The inbound's own address, else the advertised one, else the Dataplane's."""
    one = dataplane("b-1", address="10.0.0.1", inbound=[_inbound(**inbound)], **networking)
    assert _only(_zone(one)).address == address


def test_a_name_is_no_endpoint() -> None:
    """EDS takes IPs; nobody resolves a Dataplane's name."""
    assert _only(_zone(_backend(address="backend.test"))).idle == "its address backend.test is no IP"


@pytest.mark.parametrize(
    ("protocols", "common"),
    [
        (("http",), "http"),
        (("grpc", "grpc"), "grpc"),
        (("grpc", "http2"), "http2"),
        (("http", "http2"), "tcp"),
        (("http", "kafka"), "tcp"),
        (("kafka",), "tcp"),
    ],
)
def test_a_service_speaks_what_all_its_instances_speak(protocols: tuple[str, ...], common: str) -> None:
    """As in Kuma: grpc can be spoken to as HTTP/2, everything as TCP."""
    zone = _zone(*(_backend(f"b-{at}", protocol=one) for at, one in enumerate(protocols)))
    assert _workloads(zone).services["backend"].protocol == common


def test_the_protocol_stays_while_proxies_come_and_go() -> None:
    """A listener must not turn from HTTP to TCP because nobody is there for a moment."""
    zone = _zone(_backend(protocol="grpc"))
    zone.write(ProxyDisconnected(proxy="default.b-1", connection="1"))
    assert _workloads(zone).services["backend"].protocol == "grpc"


def test_the_field_protocol_says_more_than_the_tag() -> None:
    """Kuma 2.14 knows both."""
    tagged = Map({"kuma.io/service": "x", "kuma.io/protocol": "http"})
    assert inbound_protocol(Inbound(port=1, tags=tagged)) == "http"
    assert inbound_protocol(Inbound(port=1, tags=tagged, protocol="grpc")) == "grpc"
    assert inbound_protocol(Inbound(port=1, tags=Map({"kuma.io/service": "x"}))) == "tcp"


def test_tags_choose_instances() -> None:
    """All of them must be carried; `*` is any value; the zone is a tag; with mutual TLS a sidecar must listen."""
    one, two = _backend("b-1", tags={"version": "v1"}), _backend("b-2", "10.0.0.2", tags={"version": "v2"})
    service = _workloads(_zone(one, two, _backend("b-3", "127.0.0.1"))).services["backend"]

    def names(*tags: tuple[str, str], guarded: bool = True) -> list[str]:
        return [instance.dataplane for instance in selected(service, tags, guarded=guarded)]

    assert names() == ["b-1", "b-2"]
    assert names(guarded=False) == ["b-1", "b-2", "b-3"]
    assert names(("version", "v2")) == ["b-2"]
    assert names(("version", "*"), ("kuma.io/zone", "east")) == ["b-1", "b-2"]
    assert names(("kuma.io/zone", "west")) == []


def test_an_outbound_that_leads_nowhere_says_why() -> None:
    """Nobody in this zone, nobody with these tags, nobody ready; None for one that leads somewhere."""
    zone = _zone(_backend(tags={"version": "v1"}), dataplane("idle-1", "idle"), online=True)
    zone.write(ProxyDisconnected(proxy="default.idle-1", connection="1"))
    workloads = _workloads(zone)

    def note(**tags: str) -> str:
        outbound = Outbound(port=9, tags=Map({"kuma.io/service": tags.pop("service"), **tags}))
        return outbound_note(workloads, "east", outbound, mtls=True) or ""

    assert note(service="backend") == ""
    assert "zone east serves kuma.io/service absent; instances in other zones are not reached" in note(service="absent")
    assert note(service="backend", version="v9").endswith("of kuma.io/service backend in zone east carries version=v9")
    assert note(service="idle").endswith("none of the 1 instances of idle is ready; idle-1: its proxy is not connected")
    assert outbound_note(workloads, "east", Outbound(port=9), mtls=True) is None
