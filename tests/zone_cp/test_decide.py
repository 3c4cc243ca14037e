"""VIP leases and hostname claims (decisions 15 and 16)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shared.events.event import Change, HostnameClaimed, HostnameReleased, VipLeased, VipQuarantined, VipReleased
from shared.events.external_hosts import external_hosts
from shared.events.state import LogState
from shared.model.resource import ResourceKey
from shared.model.successor import succession
from shared.naming.vip import VipRange, parse_cidr, ranges
from tests.builders import (
    QUARANTINE_SECONDS,
    LogBuilder,
    ZoneBuilder,
    applied,
    deleted,
    external,
    generator,
    mes,
    mesh,
    service_key,
    settings,
)
from zone_cp.decide import decide

KEY = service_key()


@pytest.fixture
def hub() -> LogBuilder:
    log = LogBuilder()
    log.append(applied(mesh()), applied(generator()))
    return log


def test_every_zone_with_the_same_cidr_leases_the_same_vip(hub: LogBuilder) -> None:
    """A global-origin service has one VIP in all zones with one CIDR, whatever else a zone has leased before."""
    east, west = ZoneBuilder("east"), ZoneBuilder("west")
    west.apply(*(mes(f"local-{number}") for number in range(5)))
    hub.append(applied(mes()))
    east.follow(hub)
    west.follow(hub)
    assert east.vip(KEY) == west.vip(KEY) is not None


def test_colliding_candidates_are_probed_in_log_order() -> None:
    """In a range of few addresses every service gets its own, the same in each zone, until none is left."""
    hub = LogBuilder()
    zones = [ZoneBuilder(name, "10.9.0.0/28") for name in ("east", "west")]
    hub.append(*(applied(mes(f"s{number}")) for number in range(5)))
    for zone in zones:
        zone.follow(hub)
    east, west = ([zone.vip(service_key(f"s{number}")) for number in range(5)] for zone in zones)
    assert east == west
    assert len({vip for vip in east if vip}) == 3
    assert [vip is None for vip in east] == [False, False, False, True, True]


def test_exhaustion_ends_when_an_address_is_released() -> None:
    """A service without a VIP gets one as soon as a quarantine is over, the oldest first."""
    hub = LogBuilder()
    zone = ZoneBuilder("east", "10.9.0.0/28")
    hub.append(*(applied(mes(f"s{number}")) for number in range(5)))
    hub.append(deleted(mes("s0")), seconds=1)
    zone.follow(hub)
    assert zone.vip(service_key("s3")) is None
    hub.append(applied(mesh("other")), seconds=QUARANTINE_SECONDS + 2)
    zone.follow(hub)
    assert zone.vip(service_key("s3")) is not None
    assert zone.vip(service_key("s4")) is None


def test_a_deleted_service_keeps_its_vip_and_names_in_quarantine(hub: LogBuilder) -> None:
    """Undo of a delete gets VIP and names back while they are quarantined."""
    zone = ZoneBuilder()
    hub.append(applied(mes()))
    zone.follow(hub)
    vip, names = zone.vip(KEY), zone.names(KEY)
    hub.append(deleted(mes()), seconds=10)
    zone.follow(hub)
    assert zone.vip(KEY) is None
    assert zone.names(KEY) == ()
    assert vip in zone.own.state.vips
    hub.append(applied(mes()), seconds=QUARANTINE_SECONDS)
    zone.follow(hub)
    assert (zone.vip(KEY), zone.names(KEY)) == (vip, names)
    assert not zone.own.state.expiring
    assert not zone.own.state.retired


@pytest.mark.parametrize("migrated_first", [True, False])
def test_what_replaces_external_services_has_their_names_at_once(hub: LogBuilder, *, migrated_first: bool) -> None:
    """Whoever calls `httpbin.mesh` is led on without a gap; who only takes the name for itself waits."""
    zone = ZoneBuilder()
    former = external(tls={})
    made = succession([former])
    replacing: list[Change] = [applied(one) for one in made.services]
    replacing += [applied(one) for one in made.generators]
    taker = (mes("taker", labels={"for": "it"}), generator("taken", "httpbin.mesh", match={"for": "it"}))
    hub.append(applied(former), *(applied(one) for one in taker))
    gone: Change = deleted(former)
    hub.append(*([*replacing, gone] if migrated_first else [gone, *replacing]))
    zone.follow(hub)
    assert "httpbin.mesh" in zone.names(service_key("httpbin"))
    assert "httpbin.org" in zone.names(service_key("httpbin-org-443"))
    assert "httpbin.mesh" not in zone.names(service_key("taker"))


def test_localhost_is_nobodys_name(hub: LogBuilder) -> None:
    """It stays every host's own (RFC 6761); the service has its `.mesh` name, and so has what replaces it."""
    zone = ZoneBuilder()
    local = [
        external("near", "LocalHost.:80"),
        external("nearer", "a.localhost:80"),
        external("far", "far.example.:80"),
    ]
    hub.append(*(applied(one) for one in local))
    zone.follow(hub)
    names = {name for key in zone.own.state.names for name in zone.names(key)}
    assert names == {"near.mesh", "nearer.mesh", "far.mesh", "far.example"}
    assert [one.spec.template for one in succession(local[:1]).generators] == ["near.mesh"]
    assert [one.spec.template for one in succession(local[2:]).generators] == ["far.mesh", "far.example"]


def test_a_name_that_is_held_is_taken_by_no_successor(hub: LogBuilder) -> None:
    """As long as one ExternalService of the service is there; nor is the quarantine of anything else skipped."""
    zone = ZoneBuilder()
    made = succession([external(tls={})])
    holder = (mes("holder", labels={"for": "it"}), generator("held", "httpbin.org", match={"for": "it"}))
    hub.append(*(applied(one) for one in (*holder, external("httpbin-2", "203.0.113.7:443", service="httpbin"))))
    hub.append(applied(external(tls={})), deleted(holder[0]), *(applied(one) for one in made.services))
    hub.append(*(applied(one) for one in made.generators))
    hub.append(deleted(external()))
    zone.follow(hub)
    assert "httpbin.mesh" not in zone.names(service_key("httpbin"))
    assert "httpbin.org" not in zone.names(service_key("httpbin-org-443"))


def test_quarantine_ends_in_event_time_of_the_log_in_question(hub: LogBuilder) -> None:
    """What a global-origin service held is freed by global's event time, not by the zone's."""
    zone = ZoneBuilder()
    hub.append(applied(mes()))
    hub.append(deleted(mes()))
    zone.follow(hub)
    zone.apply(mes("local"), seconds=QUARANTINE_SECONDS * 2)
    assert len(zone.own.state.vips) == 2
    hub.append(applied(mesh("other")), seconds=QUARANTINE_SECONDS)
    zone.follow(hub)
    assert len(zone.own.state.vips) == 1
    assert ("default", "payments.ext.local") not in zone.own.state.claims


def test_a_change_of_class_leases_anew_and_quarantines_the_old_vip(hub: LogBuilder) -> None:
    """http to tcp moves the VIP to the other class visibly; going back within the quarantine restores it."""
    zone = ZoneBuilder()
    hub.append(applied(mes(protocol="http")))
    zone.follow(hub)
    http = zone.vip(KEY)
    hub.append(applied(mes(protocol="tcp")), seconds=1)
    zone.follow(hub)
    changes = [type(event.change) for event in zone.own.events[-2:]]
    assert changes == [VipQuarantined, VipLeased]
    assert zone.vip(KEY) != http
    hub.append(applied(mes(protocol="grpc")), seconds=2)
    zone.follow(hub)
    assert zone.vip(KEY) == http
    hub.append(applied(mes(protocol="http2")), seconds=3)
    zone.follow(hub)
    assert zone.vip(KEY) == http


def test_a_change_of_cidr_keeps_what_still_fits(hub: LogBuilder) -> None:
    """VIPs inside the new range stay, the others are leased anew and the old ones quarantined."""
    zone = ZoneBuilder("east", "10.9.0.0/24")
    hub.append(*(applied(mes(f"s{number}")) for number in range(20)))
    zone.follow(hub)
    before = {f"s{number}": zone.vip(service_key(f"s{number}")) for number in range(20)}
    zone.write(settings("10.9.0.0/25"))
    parsed = parse_cidr("10.9.0.0/25")
    assert isinstance(parsed, VipRange)
    kept = 0
    for name, vip in before.items():
        quarter = parsed.quarter(service_key(name), "http")
        now = zone.vip(service_key(name))
        assert now is not None
        assert quarter.holds(now)
        if vip and quarter.holds(vip):
            kept += 1
            assert now == vip
    assert 0 < kept < 20


def test_vips_are_unique_across_meshes(hub: LogBuilder) -> None:
    """One name in two meshes is two services with two VIPs and one hostname in each mesh."""
    zone = ZoneBuilder()
    hub.append(applied(mesh("other")), applied(mes()), applied(mes(mesh="other")))
    zone.follow(hub)
    other = service_key(mesh="other")
    assert zone.vip(KEY) != zone.vip(other)
    assert zone.names(KEY) == zone.names(other) == ("payments.ext.local",)


def test_the_first_claim_keeps_a_hostname_and_the_loser_gets_it_when_it_is_freed() -> None:
    """A collision is won by who was first; the loser waits, through the quarantine, and then has the name."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(generator(template='{{ label "host" }}.ext')))
    hub.append(applied(mes("a", labels={"host": "x"})), applied(mes("b", labels={"host": "x"})))
    zone.follow(hub)
    a, b = service_key("a"), service_key("b")
    assert (zone.names(a), zone.names(b)) == (("x.ext",), ())
    hub.append(deleted(mes("a")), seconds=1)
    zone.follow(hub)
    assert zone.names(b) == ()
    hub.append(applied(mesh("other")), seconds=QUARANTINE_SECONDS + 1)
    zone.follow(hub)
    assert zone.names(b) == ("x.ext",)


def test_a_zone_origin_service_cannot_take_a_name_that_a_global_one_holds(hub: LogBuilder) -> None:
    """Global's payments came first: the zone's payments has a VIP and no name, until global's is gone."""
    zone = ZoneBuilder()
    hub.append(applied(mes()))
    zone.follow(hub)
    zone.apply(mes())
    local = service_key(zone="east")
    assert zone.names(local) == ()
    assert zone.vip(local) is not None
    hub.append(deleted(mes()), seconds=1)
    zone.follow(hub)
    hub.append(applied(mesh("other")), seconds=QUARANTINE_SECONDS + 1)
    zone.follow(hub)
    assert zone.names(local) == ("payments.ext.local",)


def test_a_zone_origin_service_that_was_first_keeps_its_name_in_its_zone(hub: LogBuilder) -> None:
    """The claim was made while cut off: that zone keeps it, other zones give the name to global's service."""
    east, west = ZoneBuilder("east"), ZoneBuilder("west")
    east.follow(hub)
    east.apply(mes())
    hub.append(applied(mes()))
    east.follow(hub)
    west.follow(hub)
    assert east.names(service_key(zone="east")) == ("payments.ext.local",)
    assert east.names(KEY) == ()
    assert west.names(KEY) == ("payments.ext.local",)


def test_names_follow_generators_of_both_logs() -> None:
    """Each zone adds its own generator; its selector looks at labels; its deletion frees the names."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mes(labels={"tier": "gold"})), applied(generator()))
    zone.follow(hub)
    own = generator("own", "{{ .Name }}.{{ .Zone }}.{{ .Mesh }}", match={"tier": "gold"})
    zone.apply(own)
    assert zone.names(KEY) == ("payments.east.default", "payments.ext.local")
    hub.append(applied(mes(labels={"tier": "iron"})))
    zone.follow(hub)
    assert zone.names(KEY) == ("payments.ext.local",)
    hub.append(applied(mes(labels={"tier": "gold"})))
    zone.follow(hub)
    assert zone.names(KEY) == ("payments.east.default", "payments.ext.local")
    zone.write(deleted(own, "east"))
    assert zone.names(KEY) == ("payments.ext.local",)


def test_two_generators_of_one_name_make_one_claim() -> None:
    """The claim outlives the generator that made it as long as another gives the same name."""
    hub, zone = LogBuilder(), ZoneBuilder()
    first, second = generator("first"), generator("second")
    hub.append(applied(first), applied(second), applied(mes()))
    zone.follow(hub)
    hub.append(deleted(first))
    zone.follow(hub)
    assert zone.names(KEY) == ("payments.ext.local",)
    change = zone.own.events[-1].change
    assert isinstance(change, HostnameClaimed)
    assert change.generator.name == "second"


def test_each_class_lies_in_its_range(hub: LogBuilder) -> None:
    """The VIP of a tcp service lies in the range that the tcp chain matches."""
    from ipaddress import ip_address, ip_network

    zone = ZoneBuilder()
    hub.append(applied(mes("a", protocol="tcp")), applied(mes("b", protocol="grpc")))
    zone.follow(hub)
    for name, protocol_class in (("a", "tcp"), ("b", "http")):
        (cidr,) = ranges("242.0.0.0/8")[protocol_class]  # type: ignore[index]
        assert ip_address(zone.vip(service_key(name)) or "") in ip_network(cidr)


commands = st.lists(
    st.tuples(
        st.sampled_from(["apply", "delete", "local", "local-delete", "external", "gone", "generator", "wait"]),
        st.integers(0, 5),
        st.sampled_from(["http", "tcp"]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(commands, st.integers(0, 1000))
def test_leases_and_claims_hold_under_any_history(history: list[tuple[str, int, str, int]], seed: int) -> None:
    """VIPs are injective, stable and equal in all zones; deciding again is silent."""
    hub = LogBuilder()
    east, west = (
        ZoneBuilder(name, "10.9.0.0/27", quarantine_seconds=20, legacy="10.9.1.0/28") for name in ("east", "west")
    )
    lag = random.Random(seed)
    now = 0.0
    for verb, number, protocol, host in history:
        now += 5
        service = mes(f"s{number}", protocol=protocol, labels={"host": f"h{host}"})  # type: ignore[arg-type]
        match verb:
            case "apply":
                hub.append(applied(service), seconds=now)
            case "delete" if service_key(f"s{number}") in hub.state.resources:
                hub.append(deleted(service), seconds=now)
            case "local":
                east.apply(service, seconds=now)
            case "local-delete" if service_key(f"s{number}", zone="east") in east.own.state.resources:
                east.write(deleted(service, "east"), seconds=now)
            case "external":
                address = f"{'abs'[host]}{number % 3}.ext:{80 + number % 2}"
                made = external(f"x{number}", address, service=f"x{number % 4}", protocol=protocol, hidden=host == 2)
                hub.append(applied(made), seconds=now)
            case "gone" if ResourceKey("ExternalService", "default", f"x{number}") in hub.state.resources:
                hub.append(deleted(external(f"x{number}")), seconds=now)
            case "generator":
                template = ["{{ .Name }}.ext", '{{ label "host" }}.ext', "{{ .Name }}.{{ .Mesh }}.ext"][host]
                hub.append(applied(generator(f"g{number % 2}", template)), seconds=now)
            case _:
                now += 20
        before = east.own.state
        if lag.random() < 0.5:
            east.follow(hub)
        _check_stable(before, east)
    east.follow(hub)
    west.follow(hub)
    for zone in (east, west):
        _check_consistent(zone)
    held = {key: lease.ip for key, lease in east.own.state.leases.items() if not key.zone}
    assert held == {key: lease.ip for key, lease in west.own.state.leases.items()}


def _check_stable(before: LogState, zone: ZoneBuilder) -> None:
    for key, lease in before.leases.items():
        stored = zone.state.resource(key) or external_hosts(zone.state.hub).hosts.get(key)
        now = zone.own.state.leases.get(key)
        if stored is not None and now is not None and now.protocol_class == lease.protocol_class:
            assert now.ip == lease.ip or any(
                isinstance(event.change, VipQuarantined) and event.change.key == key
                for event in zone.own.events[before.n :]
            )


def _check_consistent(zone: ZoneBuilder) -> None:
    own = zone.own.state
    active = [lease.ip for lease in own.leases.values()]
    assert len(set(active)) == len(active)
    assert {ip for ip, lease in own.vips.items() if lease.until is None} == set(active)
    assert {lease.key: lease for lease in own.vips.values() if lease.until is None} == dict(own.leases)
    assert {place: claim for place, claim in own.claims.items() if claim.until is None} == {
        (claim.mesh, claim.hostname): claim for names in own.names.values() for claim in names.values()
    }
    assert {lease.ip for held in own.retired.values() for lease in held.values()} == {
        ip for ip, lease in own.vips.items() if lease.until is not None
    }
    assert sum(map(len, own.expiring.values())) == sum(
        held.until is not None for held in (*own.vips.values(), *own.claims.values())
    )
    due = decide(zone.state, None, zone.settings)
    if due:
        # Recording the last decisions moved the zone's time, and with it quarantines came to their end.
        assert isinstance(due[0], VipReleased | HostnameReleased)
        zone.own.append(*due, seen=zone.hub.n)
    assert decide(zone.state, None, zone.settings) == ()
