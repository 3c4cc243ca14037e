"""SNI (decision 25), VIP ranges (decision 15), SPIFFE ids."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.naming.sni import ServiceAddress, accepted_snis, cluster_name, parse_sni, service_sni
from shared.naming.spiffe import egress_id, workload_id
from shared.naming.template import dns_name_fault
from shared.naming.vip import CidrFault, VipRange, candidate, parse_cidr, probe, ranges
from tests.builders import service_key

vips = st.ip_addresses(v=4).map(str)
ports = st.integers(1, 65535)
meshes = st.from_regex(r"\A[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")


def test_the_sni_names_vip_port_and_mesh() -> None:
    """The form that both sides of the connection write down once."""
    assert service_sni("242.0.0.5", 80, "default") == "v242.0.0.5.p80.default.mes"
    cluster = cluster_name("http", "default", service_sni("242.0.0.5", 80, "default"))
    assert cluster == "mes/http/default/v242.0.0.5.p80.default.mes"


@given(vips, ports, meshes)
def test_every_sni_is_a_host_name_that_reads_back(vip: str, port: int, mesh: str) -> None:
    """SNI must be a DNS name and never an IP literal; it is injective because it reads back."""
    for sni in accepted_snis(vip, port, mesh):
        assert dns_name_fault(sni) is None
        assert parse_sni(sni) == ServiceAddress(vip, port, mesh)
        with pytest.raises(ValueError, match="does not appear to be"):
            ip_address(sni)


def test_foreign_names_are_no_snis() -> None:
    """An egress can tell what is not ours, and versions that it does not accept."""
    for name in ("", "ads", "v242.0.0.5.p80.default.mes9", "242.0.0.5", "v242.0.0.5.p80.a.b.mes"):
        assert parse_sni(name) is None


@given(st.integers(8, 29), st.integers(0, 2**32 - 1))
def test_quarters_share_a_range_out(prefix: int, start: int) -> None:
    """Quarters do not overlap, lie in the CIDR of their class, and leave out network and broadcast address."""
    network = ip_network((start, prefix), strict=False)
    parsed = parse_cidr(str(network))
    assert isinstance(parsed, VipRange)
    spans = [(quarter.first, quarter.last) for quarter in parsed.quarters]
    assert all(first <= last for first, last in spans)
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    assert spans[0][0] == int(network.network_address) + 1
    assert spans[-1][1] == int(network.broadcast_address) - 1
    by_class = ranges(str(network))
    for quarter in parsed.quarters:
        (cidr,) = by_class[quarter.protocol_class]
        assert ip_address(quarter.first) in ip_network(cidr)
        assert ip_address(quarter.last) in ip_network(cidr)


@pytest.mark.parametrize("cidr", ["fd00::/8", "::/0", "242.0.0.0/30", "242.0.0.0/33", "nonsense", ""])
def test_unusable_ranges_are_refused(cidr: str) -> None:
    """IPv6, ranges too small to share out, and what is no CIDR."""
    assert isinstance(parse_cidr(cidr), CidrFault)


@given(st.sets(st.integers(0, 500), max_size=40))
def test_probing_hands_out_each_address_once(numbers: set[int]) -> None:
    """Probing is injective and stops when nothing is left."""
    parsed = parse_cidr("10.0.0.0/26")
    assert isinstance(parsed, VipRange)
    taken: set[str] = set()
    for number in sorted(numbers):
        key = service_key(f"s{number}")
        quarter = parsed.quarter(key, "http")
        ip = probe(key, quarter, taken.__contains__)
        assert (ip is None) == (len(taken) == quarter.size)
        if ip is not None:
            assert ip not in taken
            assert quarter.holds(ip)
            taken.add(ip)


def test_a_candidate_never_changes() -> None:
    """The hash is part of the contract between zones, releases and logs: these numbers must stay."""
    parsed = parse_cidr("242.0.0.0/8")
    assert isinstance(parsed, VipRange)
    key = service_key()
    assert candidate(key, parsed.quarter(key, "http")) == 3474359
    assert probe(key, parsed.quarter(key, "tcp"), lambda _: False) == "242.167.85.187"


def test_spiffe_ids() -> None:
    """One trust domain per mesh, as in Kuma."""
    assert workload_id("default", "web") == "spiffe://default/web"
    assert egress_id("default") == "spiffe://default/zone-egress"
