"""The port plan."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.keys import ports


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40_000), st.integers(1, 50))
def test_no_port_is_given_twice(base: int, zones: int) -> None:
    """Whatever the base, the ports of global and of all zones are different, and all exist."""
    plan = [ports.global_ports(base), *(ports.zone_ports(base, index) for index in range(zones))]
    given_ports = [port for part in plan for port in msgspec.structs.astuple(part)]
    assert len(set(given_ports)) == len(given_ports)
    assert all(0 < port <= 65535 for port in given_ports)


def test_the_api_is_the_base() -> None:
    """Global's API is at the base port itself, Kuma's 5681 by default."""
    assert ports.global_ports().api == 5681


def test_ports_that_do_not_exist_are_refused() -> None:
    """A base that runs out of ports is refused, not wrapped around."""
    with pytest.raises(ValueError, match="lower base"):
        ports.zone_ports(65_500, 1)
    with pytest.raises(ValueError, match="out of range"):
        ports.global_ports(0)
