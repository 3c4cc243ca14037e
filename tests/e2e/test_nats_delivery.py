"""How far proxies have come, over one real nats-server: what an earlier life wrote is what the next one knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.events.state import Position
from shared.history.recordings import Recordings
from shared.nats import topology
from shared.nats.connection import connect
from shared.nats.status import StatusStream
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.ads.stream_pair import SHORT, snapshot
from tests.nats.world import running_single
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.fence import Mark
from zone_cp.ads.hub import Hub, NodeInfo, Stream
from zone_cp.marks import BUCKETS, HEAD, Bucket, Marks
from zone_cp.took import Record, Records

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


@asynccontextmanager
async def delivery(tmp_path: Path) -> AsyncIterator[StatusStream]:
    async with running_single(tmp_path) as single, await connect(single.settings) as connection:
        await topology.ensure_zone(connection, "east")
        yield topology.own_delivery(connection, "east")


class Life:
    """A hub with proxies, and the marks of one life of the control plane."""

    def __init__(self, stream: StatusStream) -> None:
        self.hub = Hub()
        self.records = topology.records(stream.connection, "east")
        self.marks = Marks(stream, self.hub, lambda: ("of global", "of the zone"), Records(self.records))
        self.hub.on_moved, self.hub.on_advanced, self.hub.on_left = (
            self.marks.moved, self.marks.advanced, self.marks.left,
        )  # fmt: skip
        self.streams: dict[str, Stream] = {}
        self.written: list[str] = []
        put = stream.put

        async def counted(key: str, data: bytes, **rest: Any) -> int:
            self.written.append(key)
            return await put(key, data, **rest)

        stream.put = counted  # type: ignore[method-assign]

    def connect(self, *proxies: str) -> None:
        """They open a stream and ask for their clusters."""
        for proxy in proxies:
            stream = Stream(NodeInfo(proxy), proxy, proxy, 1, xds=DeltaStream(), scope="")
            self.hub.attach(stream)
            self.streams[proxy] = stream
            self.hub.receive(stream, DeltaDiscoveryRequest(type_url=SHORT["CDS"]))

    def give(self, position: int, *proxies: str, answer: bool = True) -> None:
        """They are offered a cluster each, and ACK it."""
        for proxy in proxies:
            self.hub.offer(proxy, snapshot(position, CDS={"a": str(position)}))
            stream = self.streams[proxy]
            for raw in self.hub.responses(stream):
                if answer:
                    nonce = DeltaDiscoveryResponse.FromString(raw).nonce
                    self.hub.receive(stream, DeltaDiscoveryRequest(type_url=SHORT["CDS"], response_nonce=nonce))
            self.hub.responses(stream)
        self.hub.advance(Position(position, 0))


def mark(g: int) -> Mark:
    return Mark("of global", "of the zone", g, 0)


async def test_the_next_life_knows_what_proxies_had(tmp_path: Path) -> None:
    """Those that were up to date are marked with the newest moment, those that did not answer with their last one."""
    async with delivery(tmp_path) as stream:
        life = Life(stream)
        life.connect("p", "q", "r")
        life.give(1, "p", "q", "r")
        await life.marks.flush()
        life.give(2, "p")
        life.give(3, "q", answer=False)
        life.hub.detach(life.streams["r"])
        life.give(4, "p")
        await life.marks.flush()
        assert await Life(stream).marks.recall() == {"p": mark(4), "q": mark(2), "r": mark(3)}
        await life.marks.flush()
        assert await Life(stream).marks.recall() == {"p": mark(4), "q": mark(2), "r": mark(3)}


async def test_changes_cost_nothing_to_those_that_they_do_not_touch(tmp_path: Path) -> None:
    """A hundred changes to one of a hundred proxies: two small messages, when they are written."""
    async with delivery(tmp_path) as stream:
        life = Life(stream)
        proxies = [f"proxy-{number}" for number in range(100)]
        life.connect(*proxies)
        life.give(1, *proxies)
        await life.marks.flush()
        assert len(life.written) <= BUCKETS + 1
        life.written.clear()
        for position in range(2, 102):
            life.give(position, "proxy-7")
        await life.marks.flush()
        assert len(life.written) == 2
        assert HEAD in life.written
        assert set((await Life(stream).marks.recall()).values()) == {mark(101)}


async def test_types_are_told_apart_with_their_times(tmp_path: Path) -> None:
    """What `trace` will read: per proxy and type, the moments of what was sent and ACKed last, and since when."""
    async with delivery(tmp_path) as stream:
        life = Life(stream)
        life.connect("p")
        life.give(1, "p")
        life.give(2, "p", answer=False)
        await life.marks.flush()
        values = await stream.values()
        buckets = [msgspec.json.decode(data, type=Bucket) for key, data in values.items() if key != HEAD]
        (row,) = [row for bucket in buckets for row in bucket.rows.values()]
        moved = row.types["Cluster"]
        assert (moved.sent, moved.acked) == (Position(2, 0), Position(1, 0))
        assert row.at >= moved.sent_at > "2"
        assert row.delivered == Position(1, 0)


async def test_what_proxies_took_is_recorded_where_it_differs(tmp_path: Path) -> None:
    """Proxies that hold the same stand in one entry; a moment that brought nothing else is not written; all is kept."""
    async with delivery(tmp_path) as stream:
        life = Life(stream)
        proxies = [f"proxy-{number}" for number in range(100)]
        life.connect(*proxies)
        life.give(1, *proxies)
        await life.marks.flush()
        for position in range(2, 60):
            life.give(position, "proxy-7")
            await life.marks.flush()
        life.hub.advance(Position(60, 0))
        await life.marks.flush()
        kept = await life.records.kept()
        first, *rest = [msgspec.json.decode(message, type=Record) for message in kept]
        (together,) = first.took
        assert together.proxies == tuple(sorted(proxies))
        assert together.position == Position(1, 0)
        assert together.incarnations == ("of global", "of the zone")
        assert [(one.position.g, one.proxies) for record in rest for one in record.took] == [
            (position, ("proxy-7",)) for position in range(2, 60)
        ]
        assert len(kept[-1]) < 300


async def test_readings_ask_for_what_is_new(tmp_path: Path) -> None:
    """Whoever reads the records again has what was written since, and all of it where the stream began anew."""
    async with delivery(tmp_path) as stream:
        life, marks = Life(stream), Recordings(topology.records(stream.connection, "east"), stream)
        life.connect("p")
        for position in (1, 2):
            life.give(position, "p")
            await life.marks.flush()
            kept = [message for message in await marks.read() if b'"took"' in message]
            assert kept == await life.records.kept()
            assert len(kept) == position
        assert len(await marks.read()) > len(kept)
        await stream.connection.api(f"$JS.API.STREAM.DELETE.{life.records.stream}")
        await topology.ensure_zone(stream.connection, "east")
        life.give(3, "p")
        await life.marks.flush()
        (anew,) = [message for message in await marks.read() if b'"took"' in message]
        assert msgspec.json.decode(anew, type=Record).took[0].position == Position(3, 0)
