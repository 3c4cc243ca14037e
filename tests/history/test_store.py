"""The history in the copy of a real store: read once, kept beside it, grown, and made again when it is another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shared.events.compose import compose
from shared.events.event import GLOBAL
from shared.events.fold import fold_all
from shared.events.history import History
from shared.events.past import PastLog
from shared.events.state import LogState
from shared.history import store as stores
from shared.history.fill import fill_store
from shared.history.generate import Size, Written, generated
from shared.history.store import cache_directory, open_store
from shared.nats.config import scratch_text
from shared.nats.connection import NatsSettings, connect
from shared.nats.log import JetStreamLog
from shared.nats.server import ServerFailed, free_port, start_server
from tests.builders import applied, mes

pytestmark = pytest.mark.e2e
SIZE = Size(events=5000, resources=200, proxies=20)


@pytest.fixture(scope="module")
def pieces() -> list[Written]:
    return list(generated(SIZE))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, pieces: list[Written]) -> Path:
    place = tmp_path_factory.mktemp("history") / "store"
    asyncio.run(fill_store(place, pieces, SIZE.events))
    return place


def _lines(pieces: list[Written], origin: str) -> list[bytes]:
    return [line for piece in pieces if piece.origin == origin for line in piece.lines]


def _read(past: PastLog) -> list[bytes]:
    return [past.raw(n) for n in past.numbers]


def _opened(store: Path) -> History:
    return asyncio.run(open_store(store))


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a nats-server fails."""

    def fail(*_: Any) -> None:
        raise ServerFailed("there is none")

    monkeypatch.setattr(stores, "scratch_server", fail)


def test_every_event_is_read_as_it_stands(store: Path, pieces: list[Written]) -> None:
    """All origins, byte for byte; told while it goes on."""
    told: list[tuple[str, int, int]] = []
    history = asyncio.run(open_store(store, lambda *step: told.append(step)))
    assert set(history.zones) == {"east", "west"}
    for origin in (GLOBAL, "east", "west"):
        assert _read(history.log(origin)) == _lines(pieces, origin)
    assert ("read global", len(history.hub), len(history.hub)) in told
    state = history.state("east", history.position("east", "1000"))
    assert state.hub == fold_all(LogState(GLOBAL), history.hub.events(until=1000))
    assert state.own == fold_all(LogState("east"), history.zones["east"].events(until=state.own.n))


def test_what_was_read_needs_no_server_again(store: Path, pieces: list[Written], no_server: None) -> None:
    """As long as the store's files are the same."""
    assert _read(_opened(store).zones["west"]) == _lines(pieces, "west")


@pytest.mark.parametrize("spoil", ["index", "source", "events"])
def test_a_damaged_cache_is_made_again(store: Path, pieces: list[Written], spoil: str) -> None:
    """Cut short, emptied, or with bytes behind the end that a crash left."""
    place = cache_directory(store)
    file = place / "source" if spoil == "source" else place / "origin-global" / spoil
    if spoil == "events":
        file.write_bytes(file.read_bytes()[:-7])
        (place / "origin-east" / "events").open("ab").write(b"left over")
    else:
        file.write_bytes(b"")
    history = _opened(store)
    for origin in (GLOBAL, "east", "west"):
        assert _read(history.log(origin)) == _lines(pieces, origin)


def test_only_what_is_new_is_read(store: Path, pieces: list[Written], tmp_path: Path) -> None:
    """After the store grew, the cache grows; another log in its place is read anew."""
    before = _opened(store)
    end = before.hub.state(len(before.hub))
    added = compose(end, [applied(mes("new"))], ids=["new"], time=end.time, actor="ann")
    asyncio.run(_append(store, tmp_path, added))
    told: list[tuple[str, int, int]] = []
    after = asyncio.run(open_store(store, lambda *step: told.append(step)))
    assert after.hub.event(len(after.hub)) == added[0]
    assert [step for step in told if step[0] == "read global"] == [("read global", len(after.hub), len(after.hub))]

    other = list(generated(SIZE, seed=2))
    asyncio.run(fill_store(tmp_path / "other", other, SIZE.events))
    history = asyncio.run(open_store(tmp_path / "other", cache=cache_directory(store)))
    assert _read(history.hub) == _lines(other, GLOBAL)


async def _append(store: Path, place: Path, events: Any) -> None:
    port = free_port()
    config = place / "nats.conf"
    config.write_text(scratch_text("127.0.0.1", port, str(store)))
    server = await start_server(config)
    try:
        connection = await connect(NatsSettings(url=f"nats://127.0.0.1:{port}"))
        await JetStreamLog(connection, "EV").append(events)
        await connection.close()
    finally:
        await server.stop()
