"""What a plane that stands before an event says, and how it is let past it, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest
from litestar.testing import TestClient

from shared.api.app import build_api
from shared.events.event import Event
from shared.events.stop import Stop, refuse_skip, tombstone
from tests.api.memory_store import ADMIN, READER, MemoryStore, Tokens
from tests.builders import LogBuilder

REASON = "quotes what is in it"
SKIP = {"origin": "global", "n": 3, "reason": "nobody needs it"}


class Plane:
    """Stands before event 3 of global until that is skipped."""

    def __init__(self) -> None:
        self.stops: Sequence[Stop] = (Stop("global", 3, REASON),)
        self.faults: Mapping[str, str] = {}

    async def skip(self, origin: str, n: int, reason: str, actor: str) -> Sequence[Event]:
        refuse_skip("global", origin, n, self.stops)
        self.stops = ()
        return LogBuilder().append(tombstone(origin, n, reason), actor=actor)


@pytest.fixture
def api() -> Iterator[TestClient]:  # type: ignore[type-arg]
    app = build_api(MemoryStore(), authenticator=Tokens(), role="global", reads=Plane())
    with TestClient(app) as client:
        client.headers.update(ADMIN)
        yield client


def test_every_answer_says_of_when_it_is(api: TestClient) -> None:  # type: ignore[type-arg]
    """Until the event is skipped: reads go on, it is ready and live, and says before which event it stands."""
    listed = api.get("/meshes")
    assert (listed.status_code, listed.headers["zonal-halted"]) == (200, "3")
    assert api.get("/healthy").status_code == 200
    ready = api.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "halted": ["3"]})
    assert api.post("/skip", json=SKIP).json()["recorded"] == [{"origin": "global", "n": 1, "id": "global-1"}]
    assert "zonal-halted" not in api.get("/meshes").headers
    assert api.get("/ready").json() == {"status": "ready"}


def test_only_who_may_write_skips_and_only_what_stops(api: TestClient) -> None:  # type: ignore[type-arg]
    """And never without a reason: it stays in the log."""
    assert api.get("/halted", headers=READER).json()["items"][0]["reason"] == REASON
    assert api.post("/skip", json=SKIP, headers=READER).status_code == 403
    other = api.post("/skip", json={**SKIP, "n": 2})
    assert (other.status_code, "stops before event 3" in other.json()["detail"]) == (409, True)
    for wrong in ({**SKIP, "reason": "  "}, {**SKIP, "actor": "bob"}, {"n": 3}):
        assert api.post("/skip", json=wrong).status_code == 400
    assert api.get("/ready").json()["halted"] == ["3"]
