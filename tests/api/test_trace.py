"""`GET /history/trace/…`: at once, or when there is news."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from shared.api.app import build_api
from shared.events.progress import Laggard, Progress
from shared.events.state import Position
from shared.keys.tokens import Principal
from shared.process.news import News
from tests.api.memory_store import ADMIN, PROXY, READER, MemoryStore, Tokens

pytestmark = pytest.mark.anyio

AT = "2026-01-01T00:00:05Z"
LIMIT_SECONDS = 10


class Zones:
    """What two zones have said."""

    def __init__(self) -> None:
        self.rows: dict[str, Progress] = {}
        self.told = News()

    @property
    def zones(self) -> Sequence[str]:
        return ("east", "west")

    def progress(self, zone: str) -> Progress | None:
        return self.rows.get(zone)

    async def news(self) -> None:
        await self.told.wait()

    def say(self, zone: str, g: int, *laggards: Laggard) -> None:
        self.rows[zone] = Progress(zone, AT, Position(g, 0), 2, len(laggards), laggards)
        self.told.tell()


@pytest.fixture
def zones() -> Zones:
    return Zones()


@pytest.fixture
async def api(zones: Zones) -> httpx.AsyncClient:
    """One mesh is there: event 1."""
    built = build_api(MemoryStore(), authenticator=Tokens(), role="global", tracer=zones)
    transport = httpx.ASGITransport(app=built)  # type: ignore[arg-type]
    client = httpx.AsyncClient(transport=transport, base_url="http://test", headers=ADMIN)
    assert (await client.put("/meshes/one", json={})).status_code == 201
    return client


async def trace(api: httpx.AsyncClient, n: int = 1, **query: Any) -> dict[str, Any]:
    answer = await api.get(f"/history/trace/global/{n}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_what_is_known_is_told_at_once(api: httpx.AsyncClient, zones: Zones) -> None:
    """The event, each zone, and who is missing; the same revision as long as nothing else is known."""
    zones.say("east", 1, Laggard("a", "sent"))
    found = await trace(api)
    assert found["event"]["change"]["resource"]["name"] == "one"
    assert [(one["zone"], one["state"]) for one in found["zones"]] == [("east", "delivering"), ("west", "not seen")]
    assert found["missing"] == ["east: a sent", "west: has not seen it (it never spoke)"]
    assert (await trace(api))["revision"] == found["revision"]
    assert (await trace(api, until="west"))["missing"] == ["west: has not seen it (it never spoke)"]


async def test_news_are_waited_for(api: httpx.AsyncClient, zones: Zones) -> None:
    """With waitMs an answer comes when there is something new, and when everything has arrived."""
    known = (await trace(api))["revision"]
    asked = asyncio.create_task(trace(api, waitMs=LIMIT_SECONDS * 1000, known=known))
    await asyncio.sleep(0)
    zones.say("east", 1)
    async with asyncio.timeout(LIMIT_SECONDS):
        found = await asked
        assert [one["state"] for one in found["zones"]] == ["delivered", "not seen"]
        zones.say("west", 1)
        assert (await trace(api, waitMs=LIMIT_SECONDS * 1000, known=found["revision"]))["missing"] == []
    assert (await trace(api, waitMs=1, known="none"))["missing"] == []


async def test_an_event_that_is_still_to_come_is_waited_for(api: httpx.AsyncClient, zones: Zones) -> None:
    """A zone may not hold it yet; what never comes is not found."""
    asked = asyncio.create_task(api.get("/history/trace/global/2", params={"waitMs": LIMIT_SECONDS * 1000}))
    await asyncio.sleep(0)
    await api.put("/meshes/two", json={})
    zones.say("east", 2)
    async with asyncio.timeout(LIMIT_SECONDS):
        assert (await asked).json()["event"]["n"] == 2
    assert (await api.get("/history/trace/global/9")).status_code == 404
    assert (await api.get("/history/trace/global/9", params={"waitMs": 1})).status_code == 404


async def test_what_is_refused(api: httpx.AsyncClient) -> None:
    """Reading needs the same right as anywhere; unknown origins, zones and numbers are told."""
    path = "/history/trace/global/1"
    assert (await api.get(path, headers=READER)).status_code == 200
    assert (await api.get(path, headers=PROXY)).status_code == 403
    assert (await api.get(path, headers={"Authorization": ""})).status_code == 401
    assert (await api.get("/history/trace/north/1")).status_code == 404
    assert (await api.get("/history/trace/global/0")).status_code == 404
    refused = await api.get(path, params={"until": "north"})
    assert (refused.status_code, "no zone that is known" in refused.json()["detail"]) == (400, True)
    assert (await api.get(path, params={"waitMs": 60_000})).status_code == 400


async def test_a_deletion_says_its_event(api: httpx.AsyncClient) -> None:
    """In a header: the body is Kuma's."""
    answer = await api.delete("/meshes/one")
    assert (answer.json(), answer.headers["zonal-sequence"]) == ({}, "2")


class LimitedTokens(Tokens):
    """One more, for the mesh red in the zone east."""

    def authenticate(self, token: str) -> Principal | None:
        if token == "red-token":
            return Principal("user", "rita", (), meshes=("red",), zones=("east",))
        return super().authenticate(token)


async def test_who_may_read_of_one_mesh_is_told_of_it(zones: Zones) -> None:
    """Other zones are not there; proxies of other meshes are counted, and of an egress no reason is told."""
    built = build_api(MemoryStore(), authenticator=LimitedTokens(), role="global", tracer=zones)
    api = httpx.AsyncClient(transport=httpx.ASGITransport(app=built), base_url="http://test", headers=ADMIN)  # type: ignore[arg-type]
    for name in ("red", "blue"):
        await api.put(f"/meshes/{name}", json={})
    why = "Cluster mes/http/blue/x refused"
    zones.say(
        "east", 2, Laggard("red.a", "held", "much"), Laggard(".egress", "refused", why), Laggard("blue.b", "sent")
    )
    api.headers["Authorization"] = "Bearer red-token"
    found = await trace(api)
    assert found["missing"] == ["east: red.a held (much)", "east: .egress refused", "east: 1 more"]
    assert "blue" not in str(found)
    assert (await api.get("/history/trace/global/2")).status_code == 404, "it is about another mesh"
    assert (await api.get("/history/trace/global/1", params={"until": "west"})).status_code == 400
