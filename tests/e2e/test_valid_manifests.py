"""What admission accepts, an Envoy accepts: hundreds of resources made from the types of the model, on real Envoys."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import get_args

import pytest

from shared.model.policy import Policy
from shared.model.resource import MeshExternalService
from tests.conftest import take_port
from tests.e2e.governed import DATAPLANE
from tests.xds.delta_server import DeltaServer
from tests.xds.envoys import eventually
from tests.xds.generated import Maker, accepted
from tests.xds.loopback import LoopbackZone

pytestmark = pytest.mark.e2e

SEED = 20261125
SERVICES = 120
TRIES = 6_000
"""Most are refused by admission."""
POLICIES = 40


@pytest.fixture(scope="module")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackZone]:
    dataplane = DATAPLANE.format(inbound=take_port(), port=take_port())
    it = LoopbackZone(tmp_path_factory.mktemp("generated"), dataplane)
    yield it
    it.stop()


def test_an_envoy_refuses_nothing_that_was_accepted(zone: LoopbackZone) -> None:
    """Every kind that reaches an Envoy is there in numbers, and neither egress nor sidecar says no to any of it."""
    names = tuple(f"meshexternalservice-{number}" for number in range(SERVICES))
    maker = Maker(SEED, names)
    services = tuple(accepted(maker, MeshExternalService, SERVICES, TRIES))
    assert len(services) == SERVICES
    zone.apply(*services)
    counts = {}
    for kind in get_args(Policy):
        made = tuple(accepted(maker, kind, POLICIES, TRIES))
        counts[kind.__name__] = len(made)
        for one in made:
            zone.apply(one)
    assert all(count >= POLICIES // 2 for count in counts.values()), counts
    zone.show()
    for name, server in zone.ads.items():
        eventually(partial(_answered, server), f"{name} has answered all of it", 60)
    assert {name: server.nacks for name, server in zone.ads.items()} == {name: [] for name in zone.ads}
    carried = {one.name for response in zone.ads["zone-egress"].sent for one in response.resources}
    assert {zone.service(name).cluster for name in names} <= carried


def _answered(server: DeltaServer) -> bool:
    return server.stream.delivered is not None
