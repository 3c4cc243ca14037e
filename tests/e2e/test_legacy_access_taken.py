"""TrafficPermissions that take an ExternalService away: who loses it loses the open TCP connections, nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import take_port
from tests.e2e.test_access_taken import BOUND_SECONDS, SERVICES, Two, World, answers, as_it_was, living
from tests.xds.envoys import eventually
from tests.xds.loopback import MESH
from tests.xds.servers import Servers

pytestmark = pytest.mark.e2e

EGRESS = MESH.rstrip() + "\nrouting: {zoneEgress: true}\n"
TAG = "kuma.io/service"


class Legacy(World):
    """The same services as ExternalServices; both workloads reach them at outbounds by tags."""

    def made(self, directory: Path, name: str) -> Two:
        self.own = {one: take_port() for one in (*SERVICES, "mail")}

        def leads_to(one: str) -> dict[str, Any]:
            return {"tags": {TAG: one}}

        on_demand = name == "on-demand"
        return Two(directory, name, self.mesh, on_demand=on_demand, leads_to=leads_to, own=self.own)

    def declared(self, name: str, port: int) -> str:
        tags = {TAG: name, "kuma.io/protocol": "http" if name == "slow" else "tcp"}
        networking = {"address": f"127.0.0.1:{port}"}
        return json.dumps({"type": "ExternalService", "name": name, "tags": tags, "networking": networking})

    def place(self, who: str, name: str) -> tuple[str, int]:
        return "127.0.0.1", (self.own if who == "web" else self.zone.outbounds)[name]


def permission(name: str, source: str, destination: str) -> str:
    """A TrafficPermission of one service for another, `*` for all."""
    one, other = [{"match": {TAG: source}}], [{"match": {TAG: destination}}]
    return json.dumps({"type": "TrafficPermission", "name": name, "sources": one, "destinations": other})


@pytest.fixture(scope="module", params=["egress", "on-demand", "sidecar"])
def placed(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Legacy]:
    """Through the zone egress, through one that loads clusters when they are first used, and from the sidecars."""
    with Servers() as servers:
        mesh = MESH if request.param == "sidecar" else EGRESS
        yield from living(Legacy(tmp_path_factory.mktemp(request.param), servers, request.param, mesh))


@pytest.fixture
def world(placed: Legacy) -> Iterator[Legacy]:
    yield from as_it_was(placed)


@pytest.mark.parametrize(("who", "other"), [("web", "job"), ("job", "web")])
def test_who_is_denied_loses_the_connections_that_are_open(world: Legacy, who: str, other: str) -> None:
    """One that names the service goes before the one for all: whom it leaves out is closed within the drain time."""
    world.change(permission("all", "*", "*"))
    world.begins()
    lost, http = world.open(who, "lines"), world.open(who, "slow")
    kept = {one: world.open(other, one) for one in SERVICES}
    assert answers(lost, "lines")
    assert answers(http, "slow")
    assert all(answers(held, one) for one, held in kept.items())
    world.change(permission("one", other, "lines"))
    assert lost.closed_within(BOUND_SECONDS)
    eventually(lambda: not world.works(who, "lines"), "new connections to be refused")
    assert all(answers(held, one) for one, held in kept.items())
    assert answers(http, "slow")
    assert world.works(who, "quiet")


def test_the_first_one_of_a_mesh_closes_what_it_does_not_name(world: Legacy) -> None:
    """Where nothing was said everybody may; from the first TrafficPermission on, nobody what none is about."""
    lost = [world.open(who, "quiet") for who in ("web", "job")]
    assert all(answers(held, "quiet") for held in lost)
    world.change(permission("one", "*", "lines"))
    assert all(held.closed_within(BOUND_SECONDS) for held in lost)
    for who in ("web", "job"):
        eventually(lambda who=who: not world.works(who, "quiet"), "new connections to be refused")  # type: ignore[misc]
        assert world.works(who, "lines")


def test_who_gains_loses_nothing(world: Legacy) -> None:
    """A permission that comes beside another, or that is widened, closes no connection."""
    world.change(permission("all", "*", "*"), permission("one", "web", "lines"))
    eventually(lambda: not world.works("job", "lines"), "a refusal")
    kept = {(who, one): world.open(who, one) for who in ("web", "job") for one in ("quiet", "slow")}
    kept["web", "lines"] = world.open("web", "lines")
    assert all(answers(held, one) for (_, one), held in kept.items())
    world.change(permission("one", "*", "lines"))
    eventually(lambda: world.works("job", "lines"), "a permission")
    assert not kept["web", "lines"].closed_within(2)  # longer than the drain time
    assert all(answers(held, one) for (_, one), held in kept.items())
