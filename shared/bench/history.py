"""How long it takes to know a zone as it was, on a million events: the first time, and at any moment after that.

The first time takes a copy of the store, a nats-server on it, one read of everything and the checkpoints; beside it
stands the same copy and server with every event read and decoded, and nothing done with it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import msgspec

from shared.events.event import decode_event
from shared.events.history import History
from shared.history.fill import fill_store
from shared.history.generate import Size, generated
from shared.history.store import CONNECT_SECONDS, open_store, origin_of
from shared.nats.connection import NatsSettings, connect
from shared.nats.fast import read_fast
from shared.nats.log import JetStreamLog
from shared.nats.server import scratch_server
from shared.nats.stream import stream_names
from shared.process.collector import collector_paused

SIZE = Size()
SEED = 1
GENERATED = 2
"""Counted up when the generator gives another past: the store is kept between runs."""
ZONE = "east"
MOMENTS = 40
STEPS = 4


class Seen(msgspec.Struct, frozen=True):
    """Milliseconds: of the first answer, of the bare read, of each further answer."""

    first_ms: float
    bare_ms: float
    next_ms: list[float]


def measure(step: Callable[[int], None]) -> Seen:
    """Measure on the generated past, which is made where it is missing. `step` is told what is done, of `STEPS`."""
    store = made(SIZE)
    step(1)
    with collector_paused(), tempfile.TemporaryDirectory(prefix="zonal-bench-") as place:  # as the commands do
        bare_ms = _milliseconds(lambda: asyncio.run(_bare(store)))
        step(1)
        kept: list[History] = []

        def first() -> None:
            kept.append(opened(store, Path(place)))
            _ask(kept[0], len(kept[0].hub) // 2)

        first_ms = _milliseconds(first)
        step(1)
        chance = random.Random(SEED)  # noqa: S311 - the same moments in every run
        moments = [chance.randrange(1, len(kept[0].hub)) for _ in range(MOMENTS)]
        next_ms = []
        for g in moments:
            next_ms.append(_milliseconds(lambda g=g: _ask(kept[0], g)))  # type: ignore[misc]
            kept[0].tidy()  # as a plane does, once it has answered
        step(1)
    return Seen(first_ms, bare_ms, next_ms)


def made(size: Size) -> Path:
    """The store with the generated past: made once, in the directory for temporary files."""
    name = f"zonal-bench-history-{GENERATED}-{size.events}-{size.resources}-{size.proxies}-{SEED}"
    store = Path(tempfile.gettempdir()) / name
    if not store.is_dir():
        fresh = store.with_name(f"{name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        with collector_paused():
            asyncio.run(fill_store(fresh, generated(size, SEED), size.events))
        fresh.rename(store)
    return store


def opened(store: Path, cache: Path) -> History:
    """The past in a store, read anew."""
    return asyncio.run(open_store(store, cache=cache))


def _ask(history: History, g: int) -> None:
    state = history.state(ZONE, history.position(ZONE, str(g)))
    if state.hub.n != g:
        raise RuntimeError(f"asked for {g}, got {state.position}")


def _milliseconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


async def _bare(store: Path) -> None:
    async with scratch_server(store) as url:
        connection = await connect(NatsSettings(url=url, name="bench"), timeout_seconds=CONNECT_SECONDS)
        for stream in await stream_names(connection):
            if origin_of(stream):
                last = await JetStreamLog(connection, stream).last()
                async with aclosing(read_fast(url, stream, 0, last)) as arriving:
                    async for lines in arriving:
                        for line in lines:
                            decode_event(line)
        await connection.close()
