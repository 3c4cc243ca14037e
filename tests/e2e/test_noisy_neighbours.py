"""One external service that fails and one that hangs, through one sidecar and one egress, beside one that is well."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import take_port
from tests.e2e.governed import DATAPLANE
from tests.xds.clients import http1, tcp
from tests.xds.envoys import eventually
from tests.xds.loopback import LoopbackZone
from tests.xds.servers import Servers
from zone_cp.xds import defaults

pytestmark = pytest.mark.e2e

CONNECTIONS = 2000
ROUNDS = 10


class World:
    """The services `failing` (500 to everything), `hanging` (no answer for minutes) and `well`, over HTTP and TCP."""

    def __init__(self, directory: Path, servers: Servers, *, on_demand: bool) -> None:
        self.port = take_port()
        dataplane = DATAPLANE.format(inbound=take_port(), port=self.port)
        self.zone = LoopbackZone(directory, dataplane, name="noisy", on_demand=on_demand)
        self.servers = {name: servers.add(name) for name in ("failing", "hanging", "well", "well-tcp")}
        self.servers["failing"].status = 500
        for name, server in self.servers.items():
            protocol = "tcp" if name.endswith("tcp") else "http"
            self.zone.apply(
                f"{{type: MeshExternalService, name: {name}, mesh: default, spec: {{match: {{port: {self.port}, "
                f"protocol: {protocol}}}, endpoints: [{{address: 127.0.0.1, port: {server.port}}}]}}}}"
            )
        self.zone.show()
        self.zone.settled([] if on_demand else [self.zone.service(name).cluster for name in self.servers])

    async def get(self, name: str, path: str = "/") -> int:
        return (await http1(self.zone.service(name).vip, self.port, path)).status

    async def talk(self, name: str) -> int:
        return (await tcp(self.zone.service(name).vip, self.port)).status

    async def hang(self) -> asyncio.StreamWriter:
        """A request that is not answered while its connection is open."""
        _, writer = await asyncio.open_connection(self.zone.service("hanging").vip, self.port)
        writer.write(b"GET /slow/600 HTTP/1.1\r\nhost: app\r\n\r\n")
        return writer


@pytest.fixture(params=["eager", "on-demand"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], min(4 * CONNECTIONS, limits[1])), limits[1]))
    with Servers() as servers:
        made = World(tmp_path, servers, on_demand=request.param == "on-demand")
        try:
            yield made
        finally:
            made.zone.stop()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_two_bad_services_cost_the_others_no_request(world: World) -> None:
    """500s eject no egress, and 2,000 requests that hang fill the limits of their own service alone (decision 26)."""
    eventually(lambda: asyncio.run(world.get("well")) == 200, "an answer")

    async def story() -> tuple[Counter[int], Counter[int], int]:
        held = await asyncio.gather(*(world.hang() for _ in range(CONNECTIONS)))
        cluster = f"cluster.{world.zone.service('hanging').cluster}"
        egress = world.zone.envoys["noisy-egress"]

        def filled() -> int:
            # At once, not in all: on a busy machine the first ones time out before the last ones come.
            return _count(egress.admin("/stats?filter=upstream_cx_active"), f"{cluster}.upstream_cx_active: ")

        shed = f"{cluster}.upstream_cx_overflow: "
        await asyncio.to_thread(eventually, lambda: _count(egress.admin("/stats?filter=overflow"), shed), "the limit")
        assert await asyncio.to_thread(filled) == defaults.SERVICE_LIMIT
        bad, good = Counter[int](), Counter[int]()
        for _ in range(ROUNDS):
            bad.update(await asyncio.gather(*(world.get("failing") for _ in range(20))))
            good.update(await asyncio.gather(*(world.get("well") for _ in range(20))))
            good.update(await asyncio.gather(*(world.talk("well-tcp") for _ in range(5))))
        reached = await asyncio.to_thread(filled)
        for writer in held:
            writer.close()
        return bad, good, reached

    bad, good, reached = asyncio.run(asyncio.wait_for(story(), 60))
    assert (bad, good) == ({500: 20 * ROUNDS}, {200: 25 * ROUNDS})
    assert 0 < reached <= defaults.SERVICE_LIMIT
    assert world.zone.nacks() == []


def _count(stats: str, name: str) -> int:
    found = [line.removeprefix(name) for line in stats.splitlines() if line.startswith(name)]
    return int(found[0]) if found else 0
