"""What a zone records about its services, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from immutables import Map

from shared.api.store import ServiceStatus
from shared.events.event import ProxyConnected
from shared.events.state import ZoneState
from shared.model.resource import key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, at, egress, generator, mes, mesh
from zone_cp import status
from zone_cp.status import StatusBoard
from zone_cp.view.project import project
from zone_cp.view.zone_view import ZoneView

pytestmark = pytest.mark.anyio

SERVICES = tuple(f"service-{number}" for number in range(5))


class Kept:
    """A status stream that keeps in memory what was put, in order."""

    def __init__(self) -> None:
        self.puts: list[ServiceStatus] = []

    async def put(self, _key: str, data: bytes) -> None:
        """Keep a row."""
        self.puts.append(msgspec.json.decode(data, type=ServiceStatus))

    async def keys(self) -> Sequence[str]:
        """Nothing was recorded before."""
        return ()


class Zone:
    """A zone with an egress and five services, and its board."""

    def __init__(self) -> None:
        self.hub, self.zone, self.stream = LogBuilder(), ZoneBuilder("east"), Kept()
        self.zone.write(applied(egress(), "east"))
        self.zone.write(ProxyConnected(proxy=".egress-1", key=key_of(egress(), "east"), connection="c"))
        self.hub.append(applied(mesh()), applied(generator()), *(applied(mes(name)) for name in SERVICES))
        self.board = StatusBoard("east", self.stream, self.present, Map)  # type: ignore[arg-type]

    def present(self) -> tuple[ZoneState, ZoneView]:
        """The moment now."""
        self.zone.follow(self.hub)
        return self.zone.state, project(self.zone.state)

    async def recorded(self) -> list[ServiceStatus]:
        """Rows that are recorded once the egress has ACKed the moment now."""
        before = len(self.stream.puts)
        self.board.delivered(self.present()[1], (), at(self.hub.seconds + 1))
        running = asyncio.create_task(self.board.run())
        await asyncio.sleep(0.2)
        running.cancel()
        return self.stream.puts[before:]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pause for proxies."""
    monkeypatch.setattr(status, "SETTLE_SECONDS", 0.0)


async def test_an_ack_of_one_service_is_no_news_of_the_others() -> None:
    """A change rewrites the row of its own service alone, whatever else the zone has."""
    zone = Zone()
    assert sorted(row.name for row in await zone.recorded()) == list(SERVICES)
    zone.hub.append(applied(mes("service-3", endpoints=("203.0.113.9:80",))), seconds=60)
    assert [row.name for row in await zone.recorded()] == ["service-3"]


async def test_ready_says_since_when_this_version_is_held() -> None:
    """Each version of a service is Ready since the ACK that covered it first."""
    zone = Zone()
    first = await zone.recorded()
    zone.hub.append(applied(mes("service-3", endpoints=("203.0.113.9:80",))), seconds=60)
    await zone.recorded()
    since = {
        row.name: next(one.time for one in row.conditions if one.type == "Ready") for row in zone.board.rows.values()
    }
    assert len(first) == len(SERVICES)
    assert since == {name: at(61 if name == "service-3" else 1) for name in SERVICES}
