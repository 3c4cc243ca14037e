"""The seeded simulation, a few seeds of it. `make sim SEED=n` runs one at length."""

from __future__ import annotations

import pytest

from tests.sim.world import World


@pytest.mark.parametrize("seed", range(6))
def test_zones_converge_after_partitions_duplicates_and_restarts(seed: int) -> None:
    """Copies equal global's log, VIPs are the same in all zones with one CIDR, nothing moves, claims are unique."""
    world = World(seed, zones=3)
    world.run(150)
    world.converge()
    assert world.counts["read: repeat"] > 0
    assert world.counts["global write"] > 0


def test_a_seed_is_a_world() -> None:
    """Equal seeds give equal logs, byte for byte."""
    first, second = World(7, zones=2), World(7, zones=2)
    first.run(80)
    second.run(80)
    assert first.digest() == second.digest()
