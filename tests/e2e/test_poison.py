"""Resources that an Envoy refuses, among many: found, kept from all proxies, and nothing else is held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import ceil, log2
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from immutables import Map

from shared.demo.looking import eventually
from shared.events.event import Change, QuarantineEnded, ResourceQuarantined
from shared.events.state import Position, ZoneState
from shared.pb.discovery_pb2 import DeltaDiscoveryResponse
from tests.builders import LogBuilder, settings
from tests.xds.envoys import Envoy
from zone_cp.ads.fence import Fence
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo
from zone_cp.follow import Decided
from zone_cp.guard import Guard
from zone_cp.quarantines import Quarantines
from zone_cp.xds.snapshot import CLUSTER, LISTENER, Encoded, Snapshot
from zone_cp.xds.wire import encode, piece

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

CLUSTERS = 1_000
GUILTY = CLUSTERS // 2
WITHIN_SECONDS = 30.0
RESPONSES_MAX = 2 * ceil(log2(CLUSTERS)) + 6
"""Both halves of each step, and the chunks that a thousand clusters come in at first."""


def cluster(number: int, timeout: bytes = b"\x08\x01") -> Encoded:
    """A cluster; what connect_timeout holds makes it good (one second), bad as a whole, or another version of good."""
    made = Cluster(name=f"c{number:03}", type=ClusterDiscoveryType.STATIC)
    return encode(CLUSTER, made.name, bytes(made) + piece(4, timeout))


BAD = b"\x08\x00"
"""A connect_timeout of zero: refused with the whole response that it came in, in words that name no resource."""
BETTER = b"\x08\x02"


def offered(position: int, **changed: bytes) -> Snapshot:
    """A thousand clusters, some with another timeout."""
    made = {one.name: one for one in (cluster(number) for number in range(CLUSTERS))}
    for name, timeout in changed.items():
        made[name] = cluster(int(name[1:]), timeout)
    return Snapshot(Position(position, 0), Map({CLUSTER: Map(made), LISTENER: Map()}))


class Zone:
    """An ADS server behind its guard, and the log that it records in."""

    def __init__(self) -> None:
        self.log = LogBuilder("east")
        self.log.append(settings())
        self.server = AdsServer(
            "127.0.0.1", 0, None, admit=self._admit, on_connected=_ignored, on_disconnected=_ignored,
            on_ack=_ignored, on_nack=self._on_nack, on_observation=_ignored,
        )  # fmt: skip
        quarantines = Quarantines(self.server.hub, self._record)
        self.guard = Guard(
            self.server, Fence(), quarantines, share_percent=50, present=lambda: self.state, record=self._record
        )
        self.server.hub.on_reported = self.guard.reported
        self.sent: dict[str, list[DeltaDiscoveryResponse]] = {}
        self.nacks: list[tuple[str, str]] = []
        responses = self.server.hub.responses

        def kept(stream: Any) -> list[bytes]:
            found = responses(stream)
            self.sent.setdefault(stream.proxy, []).extend(map(DeltaDiscoveryResponse.FromString, found))
            return found

        self.server.hub.responses = kept  # type: ignore[method-assign]

    @property
    def state(self) -> ZoneState:
        return ZoneState("east", LogBuilder().state, self.log.state)

    async def _admit(self, node: NodeInfo, _: str | None) -> Admission:
        return Admitted(node.id)

    def _on_nack(self, proxy: str, nack: Any) -> None:
        self.nacks.append((proxy, nack.message))
        self.guard.refused(proxy, nack)

    def _record(self, decided: Decided, actor: str) -> None:
        self.log.append(*decided(self.state), actor=actor)

    def recorded(self) -> list[Change]:
        kinds = (ResourceQuarantined, QuarantineEnded)
        return [event.change for event in self.log.events if isinstance(event.change, kinds)]

    def offer(self, snapshot: Snapshot, *proxies: str) -> None:
        """Let them have it."""
        for proxy in proxies:
            self.guard.offer(proxy, snapshot)

    async def settled(self, proxy: str, position: int) -> None:
        """Wait until the proxy has answered all of it."""
        await self.server.acked(proxy, Position(position, 0), WITHIN_SECONDS)

    def carried(self, proxy: str, name: str) -> int:
        """How often the proxy was sent this resource."""
        return sum(one.name == name for response in self.sent[proxy] for one in response.resources)


def _ignored(*_: object) -> None:
    """Not looked at."""


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Zone, int]]:
    zone = Zone()
    port = await zone.server.start()
    try:
        yield zone, port
    finally:
        await zone.server.stop(0)


@contextmanager
def envoys(directory: Path, port: int, free_port: Callable[[], int]) -> Iterator[Callable[[str], Envoy]]:
    """Start Envoys by the names of their proxies."""
    started: list[Envoy] = []

    def start(proxy: str) -> Envoy:
        started.append(Envoy(directory, proxy, free_port(), port))
        return started[-1]

    try:
        yield start
    finally:
        for envoy in started:
            envoy.stop()


async def held(envoy: Envoy, wanted: int) -> str:
    """What the Envoy lists once it has so many clusters."""

    async def look() -> str:
        return await asyncio.to_thread(envoy.admin, "/clusters")

    def count(text: str) -> int:
        return sum(
            "::default_priority::max_connections::" in line and line.startswith("c") for line in text.splitlines()
        )

    return await eventually(look, lambda text: count(text) == wanted, f"{wanted} clusters", WITHIN_SECONDS)


async def test_a_poisoned_resource_among_a_thousand(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """It is found in a bounded number of responses, all others are delivered; no other proxy is ever sent it, what it
    was before stands in its place; it ends when the resource changes, or is released and then tried once again.
    """
    async with running() as (zone, port):
        with envoys(tmp_path, port, free_port) as start:
            guilty = f"c{GUILTY:03}"
            zone.offer(offered(1, **{guilty: BAD}), "e1", "e2")
            first = start("e1")
            await zone.settled("e1", 1)
            assert guilty not in await held(first, CLUSTERS - 1)
            assert len(zone.sent["e1"]) <= RESPONSES_MAX
            (one,) = zone.recorded()
            assert isinstance(one, ResourceQuarantined)
            assert (one.name, one.proxy, one.kept_g) == (guilty, "e1", 0)
            assert "connect_timeout" in one.reason.lower() or "ConnectTimeout" in one.reason

            second = start("e2")
            await zone.settled("e2", 1)
            assert guilty not in await held(second, CLUSTERS - 1)
            assert zone.carried("e2", guilty) == 0
            assert {proxy for proxy, _ in zone.nacks} == {"e1"}

            await _changed(zone, first, second)
            await _poisoned_again(zone, start)


async def _changed(zone: Zone, *envoys: Envoy) -> None:
    """Another version of it is another matter."""
    zone.offer(offered(2), "e1", "e2")
    for proxy, envoy in zip(("e1", "e2"), envoys, strict=True):
        await zone.settled(proxy, 2)
        await held(envoy, CLUSTERS)
    assert isinstance(zone.recorded()[-1], QuarantineEnded)
    assert zone.state.own.quarantined == Map()


async def _poisoned_again(zone: Zone, start: Callable[[str], Envoy]) -> None:
    """A change for the worse among changes for the better: who comes later gets what it was before."""
    guilty, better = f"c{GUILTY:03}", "c003"
    refused = len(zone.nacks)
    zone.offer(offered(3, **{guilty: BAD, better: BETTER}), "e1", "e2", "e3")
    for proxy in ("e1", "e2"):
        await zone.settled(proxy, 3)
    third = start("e3")
    await zone.settled("e3", 3)
    assert guilty in await held(third, CLUSTERS)
    assert zone.carried("e3", guilty) == 1
    assert not any(proxy == "e3" for proxy, _ in zone.nacks)
    assert zone.carried("e3", better) == 1
    assert len(zone.nacks) - refused <= 2 * 3  # e1 and e2 had it at the same time: whole, half, alone
    (key,) = zone.state.own.quarantined
    assert zone.state.own.quarantined[key].kept == Position(2, 0)

    refused = len(zone.nacks)
    zone.log.append(QuarantineEnded(type_url=key[0], name=key[1], version=key[2], by="operator"))
    zone.guard.forgive([key])
    await eventually(_same(lambda: len(zone.nacks)), lambda count: count > refused, "it is tried again", WITHIN_SECONDS)
    await eventually(
        _same(lambda: len(zone.state.own.quarantined)), lambda count: count == 1, "and is in quarantine", WITHIN_SECONDS
    )


def _same(read: Callable[[], int]) -> Callable[[], Any]:
    async def look() -> int:
        return read()

    return look
