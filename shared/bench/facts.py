"""What it costs to know how far every proxy is with every change: messages written by the zone, to all its streams.

`python -m shared.bench.facts` plays changes, and proxies that ACK at once, against the hub, the marks, the records and
the progress of a zone, without any network. A zone that wrote a fact for each proxy and change would write `pushes`
messages.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from immutables import Map

from shared.bench.apart import finish, measure_apart, report
from shared.events.event import GLOBAL
from shared.events.state import LogState, Position, ZoneState
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

PROXIES, CHANGES = 1_000, 1_000
TOUCHED = 100
"""Proxies that each change has something for; all others move on with it."""
ZONE = "east"
STEPS = CHANGES
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
BODY_BYTES = 560


class Figures(msgspec.Struct, frozen=True):
    """Messages that were written, and what was sent to single proxies and ACKed."""

    messages: int
    pushes: int


async def measure(step: Callable[[int], None]) -> Figures:
    """Measure in a process of its own. Raises Died."""
    return await measure_apart("shared.bench.facts", Figures, step)


# --- in that process ---------------------------------------------------------------------------------------------


class _Counted:
    """A status stream that takes everything at once."""

    def __init__(self) -> None:
        self.messages = 0

    async def put(self, _key: str, _data: bytes) -> int:
        self.messages += 1
        return self.messages

    async def values(self) -> dict[str, bytes]:
        return {}


class _Nothing:
    """No fleet, and nothing is kept from anybody."""

    fleet = None
    stops: Sequence[Any] = ()
    faults: Mapping[str, str] = {}

    def delayed(self, _proxy: str) -> str:
        return ""

    def reason(self, _proxy: str) -> str:
        return ""

    def quarantined(self) -> Sequence[Any]:
        return ()


class _Zone:
    """The production parts, wired as `zone_cp.app` does it."""

    def __init__(self) -> None:
        self._ads: Any = importlib.import_module("zone_cp.ads.hub")
        self._delta: Any = importlib.import_module("zone_cp.ads.delta")
        self._fleet: Any = importlib.import_module("zone_cp.xds.fleet")
        self._snapshot: Any = importlib.import_module("zone_cp.xds.snapshot")
        self._wire: Any = importlib.import_module("zone_cp.xds.wire")
        self._empty: Any = importlib.import_module("zone_cp.view.project").empty_view
        self.stream = _Counted()
        self.hub = self._ads.Hub()
        records = importlib.import_module("zone_cp.took").Records(self.stream)
        marks = importlib.import_module("zone_cp.marks").Marks
        self.marks = marks(self.stream, self.hub, lambda: ("hub", "own"), records)
        self.hub.on_moved, self.hub.on_advanced = self.marks.moved, self.marks.advanced
        self.progress = importlib.import_module("zone_cp.progress").ZoneProgress(
            ZONE, self.hub, self.stream, state=self.state, plan=_Nothing(), kept=_Nothing()
        )
        self.g = 1
        self.streams: list[Any] = []

    def state(self) -> ZoneState:
        """No resource, up to the last change."""
        return ZoneState(ZONE, LogState(GLOBAL, n=self.g), LogState(ZONE))

    def connect(self, number: int) -> None:
        """A proxy that asks for its clusters."""
        name = f"default.proxy-{number:04}"
        node = self._ads.NodeInfo(name)
        stream = self._ads.Stream(node, name, str(number), number, xds=self._delta.DeltaStream(), scope="")
        self.hub.attach(stream)
        self.hub.receive(stream, DeltaDiscoveryRequest(type_url=CLUSTER))
        self.streams.append(stream)

    def change(self, touched: Sequence[Any]) -> int:
        """One more event, of which these are told; returns how many responses they ACKed."""
        self.g += 1
        state = self.state()
        one = self._wire.encode(CLUSTER, "one", self._wire.piece(28, f"{self.g} ".ljust(BODY_BYTES, "x")))
        snapshot = self._snapshot.Snapshot(state.position, Map({CLUSTER: Map({"one": one})}))
        for stream in touched:
            self.hub.offer(stream.proxy, snapshot)
        self.hub.advance(Position(self.g, 0))
        offers = tuple((stream.proxy, snapshot) for stream in touched)
        self.progress.offered(self._fleet.Turn(self._fleet.Fleet(state, self._empty(state)), None, (), offers))
        return sum(self._answered(stream) for stream in touched)

    def _answered(self, stream: Any) -> int:
        responses = [DeltaDiscoveryResponse.FromString(raw) for raw in self.hub.responses(stream)]
        for response in responses:
            self.hub.receive(stream, DeltaDiscoveryRequest(type_url=CLUSTER, response_nonce=response.nonce))
        self.hub.responses(stream)  # as its writer looks after each answer
        return len(responses)


async def _measured() -> Figures:
    zone = _Zone()
    for number in range(PROXIES):
        zone.connect(number)
    zone.change(zone.streams)
    writers = [asyncio.create_task(zone.marks.run()), asyncio.create_task(zone.progress.run())]
    pushes = 0
    for turn in range(CHANGES):
        first = turn * TOUCHED % PROXIES
        pushes += zone.change(zone.streams[first : first + TOUCHED])
        await asyncio.sleep(0)
        report(1)
    for writer in writers:
        writer.cancel()
    await zone.marks.flush()
    if not zone.progress.progress(ZONE).position or zone.progress.progress(ZONE).behind:
        raise RuntimeError("not every proxy has ACKed")
    return Figures(zone.stream.messages, pushes)


if __name__ == "__main__":
    finish(asyncio.run(_measured()))
