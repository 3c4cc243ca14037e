"""What is read off the wire is what envoy-data-plane makes of it, field by field and in the same order."""

from __future__ import annotations

import json

import pytest

from tests.sim.world import SECRETS, World
from zone_cp.xds.fleet import first_turn
from zone_cp.xds.inspect import plain_by_library, plain_resource


@pytest.mark.parametrize("seed", range(1, 4))
def test_every_resource_of_a_simulation_is_told_as_the_library_tells_it(seed: int) -> None:
    """Clusters, listeners, routes, secrets of every kind of proxy, with policies; asked for twice as well."""
    world = World(seed, zones=2)
    world.run(500)
    world.converge()
    told = 0
    for zone in world.zones:
        for group in first_turn(zone.moment, SECRETS).fleet.groups.values():
            assert group.compiled is not None
            for resources in group.compiled.assembly.snapshot.resources.values():
                for one in resources.values():
                    expected = json.dumps(plain_by_library(one))
                    assert json.dumps(plain_resource(one)) == expected
                    assert json.dumps(plain_resource(one)) == expected
                    told += 1
    assert told
