"""What meshes see of each other's MeshGateways: hosts, their VIPs and names (A12, decisions 15 and 16)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from immutables import Map
from msgspec.structs import replace

from shared.events.cross_mesh import cross_mesh_hosts, internal_hostname, is_abroad, port_meant
from shared.events.cross_mesh_conditions import cross_mesh_conditions, unmet_outbounds
from shared.events.event import HostnameClaimed, HostnameQuarantined, VipLeased, VipQuarantined
from shared.events.gateway_writes import cross_mesh_warnings
from shared.model.gateway import MeshGateway
from shared.model.kinds import is_cross_mesh_host
from shared.model.resource import Outbound, Resource, ResourceKey, key_of
from tests.builders import (
    QUARANTINE_SECONDS,
    LogBuilder,
    ZoneBuilder,
    applied,
    dataplane,
    deleted,
    external,
    gateway,
    mesh,
)
from zone_cp.decide import decide

MESHES = ("payments", "shop", "web")


def listener(port: int = 8080, hostname: str = "", *, cross_mesh: bool = True) -> dict[str, Any]:
    return {"port": port, "protocol": "HTTP", "hostname": hostname, "crossMesh": cross_mesh}


def edge(*listeners: dict[str, Any], mesh: str = "payments", name: str = "edge") -> Resource:
    return gateway(name, "edge-gateway", *listeners, mesh=mesh)


def seen(mesh: str, hostname: str, *, gateway: str = "payments/edge", zone: str = "") -> ResourceKey:
    return ResourceKey("MeshGateway", mesh, f"{gateway}:{hostname}", zone)


INTERNAL = internal_hostname("edge", "payments")


@pytest.fixture
def hub() -> LogBuilder:
    log = LogBuilder()
    log.append(*(applied(mesh(name)) for name in MESHES))
    return log


@pytest.fixture
def east() -> ZoneBuilder:
    return ZoneBuilder("east")


def abroad(zone: ZoneBuilder) -> set[ResourceKey]:
    return {key for key in zone.state.own.leases if is_cross_mesh_host(key)}


def test_a_listener_without_a_hostname_has_its_gateways(hub: LogBuilder, east: ZoneBuilder) -> None:
    """`internal.<gateway>.<mesh>.mesh`, in every mesh but its own; ports of one name share it."""
    hub.append(applied(edge(listener(), listener(80, "*"), listener(9090, cross_mesh=False))))
    east.follow(hub)
    hosts = cross_mesh_hosts(east.state)
    assert list(hosts) == [seen("shop", INTERNAL), seen("web", INTERNAL)]
    assert [one.port for one in hosts[seen("web", INTERNAL)].listeners] == [80, 8080]
    assert INTERNAL == "internal.edge.payments.mesh"
    assert abroad(east) == set(hosts)
    assert east.names(seen("web", INTERNAL)) == (INTERNAL,)


def test_each_hostname_is_a_host_and_vips_are_unique(hub: LogBuilder, east: ZoneBuilder) -> None:
    """Names are compared without regard to case; a VIP is of class http, from the range of ExternalServices."""
    hub.append(
        applied(edge(listener(80, "API.example.com"), listener(80, "b.example.com"), listener(81, "api.example.com")))
    )
    east.follow(hub)
    assert abroad(east) == {seen(one, f"{name}.example.com") for one in ("shop", "web") for name in ("api", "b")}
    vips = [lease.ip for lease in east.state.own.leases.values()]
    assert len(set(vips)) == len(vips) == 4
    assert all(vip.startswith("240.") for vip in vips)
    assert all(lease.protocol_class == "http" for lease in east.state.own.leases.values())
    assert east.names(seen("web", "api.example.com")) == ("api.example.com",)


def test_every_zone_with_the_same_range_leases_the_same(hub: LogBuilder, east: ZoneBuilder) -> None:
    """Whatever a zone's own MeshGateways have leased before; those are its own."""
    west = ZoneBuilder("west")
    west.follow(hub)
    west.apply(edge(listener(), name="local"))
    hub.append(applied(external("a", "a.example:80", mesh="web")), applied(edge(listener())))
    for zone in (east, west):
        zone.follow(hub)
    for key in (seen("web", INTERNAL), seen("shop", INTERNAL)):
        assert east.vip(key) == west.vip(key) is not None
    name = internal_hostname("local", "payments")
    own = seen("web", name, gateway="payments/local", zone="west")
    assert west.names(own) == (name,)
    assert west.vip(own) not in {east.vip(seen("web", INTERNAL)), None}


def test_what_goes_is_kept_for_its_holder(hub: LogBuilder, east: ZoneBuilder) -> None:
    """A listener that is deleted, and comes back within the quarantine, has its VIP and name again."""
    hub.append(applied(edge(listener())), seconds=10)
    east.follow(hub)
    key = seen("web", INTERNAL)
    vip = east.vip(key)
    hub.append(deleted(edge()), seconds=20)
    east.follow(hub)
    assert (east.vip(key), east.names(key), abroad(east)) == (None, (), set())
    gone = [type(event.change) for event in east.own.events[-4:]]
    assert gone == [HostnameQuarantined, VipQuarantined] * 2
    hub.append(applied(edge(listener(81))), seconds=30)
    east.follow(hub)
    assert (east.vip(key), east.names(key)) == (vip, (INTERNAL,))
    hub.append(deleted(edge()), seconds=40)
    hub.append(applied(mesh("late")), seconds=40 + QUARANTINE_SECONDS)
    east.follow(hub)
    assert vip not in east.state.own.vips
    assert not east.state.own.claims


def test_a_mesh_sees_as_long_as_it_is_there(hub: LogBuilder, east: ZoneBuilder) -> None:
    """One that comes later sees what is there; of one that goes nothing stays; a gateway's own mesh goes with all."""
    hub.append(applied(edge(listener())), applied(mesh("late")))
    east.follow(hub)
    assert abroad(east) == {seen(one, INTERNAL) for one in ("shop", "web", "late")}
    hub.append(deleted(mesh("web")))
    east.follow(hub)
    assert abroad(east) == {seen(one, INTERNAL) for one in ("shop", "late")}
    hub.append(deleted(mesh("payments")))
    east.follow(hub)
    assert abroad(east) == set()


def test_the_first_claim_keeps_the_name(hub: LogBuilder, east: ZoneBuilder) -> None:
    """Two meshes give one name: in a third one the first has it, and the other takes it over when it is free."""
    one, other = edge(listener(80, "api.example.com")), edge(listener(80, "api.example.com"), mesh="shop")
    hub.append(applied(one), applied(other))
    east.follow(hub)
    first, second = (seen("web", "api.example.com", gateway=f"{name}/edge") for name in ("payments", "shop"))
    assert (east.names(first), east.names(second)) == (("api.example.com",), ())
    assert east.vip(second) is not None
    # Where the other one's name is its own mesh's, it is not seen.
    assert east.names(seen("payments", "api.example.com", gateway="shop/edge")) == ("api.example.com",)
    hub.append(deleted(one), seconds=10)
    hub.append(applied(mesh("late")), seconds=20 + QUARANTINE_SECONDS)
    east.follow(hub)
    assert (east.names(first), east.names(second)) == ((), ("api.example.com",))


def test_a_restart_decides_nothing_anew(hub: LogBuilder, east: ZoneBuilder) -> None:
    """And what is missing is mended."""
    hub.append(applied(edge(listener(), listener(80, "api.example.com"))), applied(external(mesh="web")))
    east.follow(hub)
    assert decide(east.state, None, east.settings) == ()
    bare = ZoneBuilder("east", legacy=None)
    bare.follow(hub)
    assert abroad(bare) == set()
    mended = decide(bare.state, None, east.settings)
    leased = {one.key for one in mended if isinstance(one, VipLeased)}
    assert {seen(mesh, name) for mesh in ("shop", "web") for name in (INTERNAL, "api.example.com")} <= leased
    assert {one.hostname for one in mended if isinstance(one, HostnameClaimed)} == set()


def test_exhaustion_is_nobody_elses(hub: LogBuilder) -> None:
    """Of a range of few addresses the first get theirs; who waits gets one as soon as one is free."""
    east = ZoneBuilder("east", legacy="10.9.0.0/29")
    names = [f"{letter}.example.com" for letter in "abc"]
    hub.append(*(applied(edge(listener(80, name), name=name[0])) for name in names), seconds=10)
    east.follow(hub)
    held = {key.name for key in abroad(east)}
    assert len(held) == 1
    hub.append(deleted(edge(name="a")), seconds=20)
    hub.append(applied(mesh("late")), seconds=30 + QUARANTINE_SECONDS)
    east.follow(hub)
    assert {key.name for key in abroad(east)}
    assert not held & {key.name for key in abroad(east)}


def told(zone: ZoneBuilder, resource: Resource) -> dict[str, tuple[str, str, str]]:
    stored = zone.state.resource(key_of(resource))
    assert stored is not None
    return {one.type: (one.status, one.reason, one.message) for one in cross_mesh_conditions(zone.state, stored)}


def test_a_zone_says_where_it_is_seen(hub: LogBuilder, east: ZoneBuilder) -> None:
    """Addresses and names in every other mesh; nothing of a MeshGateway that no other mesh sees."""
    one, plain = edge(listener()), edge(listener(cross_mesh=False), name="plain")
    hub.append(applied(one), applied(plain))
    east.follow(hub)
    vips = [east.vip(seen(mesh, INTERNAL)) for mesh in ("shop", "web")]
    assert told(east, one) == {
        "VipLeased": ("True", "Leased", f"{INTERNAL} {vips[0]} in shop, {INTERNAL} {vips[1]} in web"),
        "HostnamesGenerated": ("True", "Generated", INTERNAL),
    }
    assert told(east, plain) == {}


def test_a_zone_says_what_is_missing(hub: LogBuilder) -> None:
    """An address where the range is exhausted, a name where another one holds it."""
    east = ZoneBuilder("east", legacy="10.9.0.0/29")
    first = edge(listener(80, "a.example.com"))
    second = edge(listener(80, "a.example.com"), mesh="shop")
    hub.append(applied(first), applied(second))
    east.follow(hub)
    vip, name = told(east, second).values()
    assert vip == (
        "False",
        "Exhausted",
        "no address is left for a.example.com in payments, a.example.com in web in 10.9.0.0/29",
    )
    assert name[:2] == ("False", "Collision")
    holder = "MeshGateway/web/payments/edge:a.example.com"
    assert f"a.example.com in web is held by {holder} through MeshGateway/payments/edge" in name[2]
    unset = ZoneBuilder("east", legacy=None)
    unset.follow(hub)
    assert told(unset, first)["VipLeased"][:2] == ("Unknown", "Pending")


def test_an_author_is_told_that_the_mesh_has_no_mutual_tls() -> None:
    said = list(cross_mesh_warnings(_gateway(edge(listener())), mesh("payments", mtls=False)))
    assert len(said) == 1
    assert "mTLS must be enabled for crossMesh-enabled MeshGateways: mesh payments has none" in said[0]
    assert list(cross_mesh_warnings(_gateway(edge(listener())), mesh("payments"))) == []
    assert list(cross_mesh_warnings(_gateway(edge(listener(cross_mesh=False))), None)) == []


def _gateway(one: Resource) -> MeshGateway:
    assert isinstance(one, MeshGateway)
    return one


@pytest.mark.parametrize(
    ("port", "tags", "meant"),
    [
        (9000, {}, 80),
        (8080, {}, 8080),
        (9000, {"port": "two"}, 8080),
        (9000, {"team": "*"}, None),
        (9000, {"kuma.io/mesh": "shop"}, None),
        (9000, {"kuma.io/service": "other"}, None),
    ],
)
def test_an_outbound_leads_to_the_listener_that_carries_its_tags(
    hub: LogBuilder, east: ZoneBuilder, port: int, tags: dict[str, str], meant: int | None
) -> None:
    """Those of the selector, the MeshGateway and the listener; of several the one of its own port, else the lowest."""
    hub.append(applied(edge(listener(8080) | {"tags": {"port": "two"}}, listener(80) | {"tags": {"port": "one"}})))
    east.follow(hub)
    host = cross_mesh_hosts(east.state)[seen("web", INTERNAL)]
    wanted = {"kuma.io/mesh": "payments", "kuma.io/service": "edge-gateway"} | tags
    outbound = Outbound(port=port, tags=Map(wanted))
    assert is_abroad(outbound, "web")
    assert not is_abroad(outbound, wanted["kuma.io/mesh"])
    assert port_meant(host.gateway, host.listeners, outbound) == meant
    web = dataplane("web-1", outbound=[{"port": port, "tags": wanted}])
    said = list(unmet_outbounds(east.state, replace(web, mesh="web")))
    assert bool(said) == (meant is None)
    assert all("no cross-mesh listener of mesh" in one for one in said)
    assert list(unmet_outbounds(east.state, replace(web, mesh=wanted["kuma.io/mesh"]))) == []


ACTS = st.tuples(
    st.sampled_from(("gateway", "gateway", "no gateway", "mesh", "no mesh", "external", "own", "wait")),
    st.integers(0, 3),
    st.lists(
        st.tuples(st.sampled_from((80, 81)), st.sampled_from(("", "*", "a.test", "b.test"))), max_size=3, unique=True
    ),
)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(ACTS, max_size=16))
def test_whatever_happens_zones_agree_and_no_address_or_name_has_two_holders(
    history: list[tuple[str, int, list[tuple[int, str]]]],
) -> None:
    """Who has what is there; zones of one range lease global's alike; and a restart decides nothing anew."""
    hub, zones = LogBuilder(), [ZoneBuilder("east"), ZoneBuilder("west")]
    hub.append(applied(mesh("payments")), applied(mesh("web")))
    for verb, number, ports in history:
        _act(hub, zones[number % 2], verb, number, ports)
        for zone in zones:
            zone.follow(hub)
    for zone in zones:
        own, hosts = zone.state.own, cross_mesh_hosts(zone.state)
        assert abroad(zone) == set(hosts)
        assert {key for key in own.names if is_cross_mesh_host(key)} <= set(hosts)
        vips = [lease.ip for lease in own.leases.values()]
        assert len(set(vips)) == len(vips)
        for (in_mesh, name), claim in own.claims.items():
            assert (claim.mesh, claim.hostname, claim.key.mesh) == (in_mesh, name, in_mesh)
        for host in hosts.values():
            assert own.claims.get((host.key.mesh, host.hostname)) is not None
        assert decide(zone.state, None, zone.settings) == ()
    one, other = ({key: zone.vip(key) for key in abroad(zone) if not key.zone} for zone in zones)
    assert one == other


def _act(hub: LogBuilder, zone: ZoneBuilder, verb: str, number: int, ports: list[tuple[int, str]]) -> None:
    name, in_mesh = f"g{number % 2}", ("payments", "web", "shop", "late")[number]
    listeners = [listener(port, host, cross_mesh=number != 3 or port == 80) for port, host in ports]
    match verb:
        case "gateway" if listeners:
            hub.append(applied(edge(*listeners, mesh=in_mesh, name=name)))
        case "own" if listeners:
            zone.apply(edge(*listeners, mesh=in_mesh, name=name))
        case "no gateway" if ResourceKey("MeshGateway", in_mesh, name) in hub.state.resources:
            hub.append(deleted(edge(mesh=in_mesh, name=name)))
        case "mesh":
            hub.append(applied(mesh(in_mesh)))
        case "no mesh" if ResourceKey("Mesh", "", in_mesh) in hub.state.resources:
            hub.append(deleted(mesh(in_mesh)))
        case "external":
            hub.append(applied(external("a", "a.test:80", mesh=in_mesh)))
        case "wait":
            hub.append(applied(external("z", "z.test:80", mesh="web")), seconds=hub.seconds + QUARANTINE_SECONDS / 2)
        case _:
            pass
