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


@pytest.mark.parametrize("seed", range(6))
def test_all_converge_behind_what_nobody_can_read(seed: int) -> None:
    """Poison in global's log stops whoever meets it, with restarts and crashes there; tombstones in one zone's log or
    in global's own let go on, and in the end all are where they would be if it had changed nothing.
    """
    world = World(seed, zones=3, poison=True)
    world.run(250)
    stopped = [zone.name for zone in world.zones if zone.stop is not None]
    world.converge()
    assert world.counts["poison"] > 0
    assert world.hub.state.skipped
    assert stopped or world.counts["skip in a zone"] or world.counts["skip"]


def test_a_seed_is_a_world() -> None:
    """Equal seeds give equal logs, byte for byte."""
    first, second = World(7, zones=2), World(7, zones=2)
    first.run(80)
    second.run(80)
    assert first.digest() == second.digest()
