"""A new JetStream store made of events that exist already, under a scratch nats-server."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from shared.events.event import GLOBAL
from shared.history.generate import Written
from shared.history.progress import Progress, unwatched
from shared.history.store import CONNECT_SECONDS, stream_of
from shared.nats import topology
from shared.nats.config import scratch_text
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.log import MAX_BATCH, JetStreamLog
from shared.nats.pull import RawEvent
from shared.nats.server import free_port, start_server
from shared.nats.stream import event_stream


async def fill_store(store: Path, pieces: Iterable[Written], total: int, progress: Progress = unwatched) -> None:
    """Write `pieces`, `total` events, as the planes would, in atomic batches, into the new directory `store`.

    Raises FileExistsError when there is something already, ServerFailed, LogUnavailable, LogFault.
    """
    done = 0
    async with new_store(store) as write:
        for piece in pieces:
            await write(piece)
            done += len(piece.lines)
            progress("write", done, total)


@asynccontextmanager
async def new_store(store: Path) -> AsyncIterator[Callable[[Written], Awaitable[None]]]:
    """The new directory `store` under a scratch server; what is yielded writes the next events of an origin there.

    Raises FileExistsError when there is something already, ServerFailed, and writing LogUnavailable and LogFault.
    """
    store.mkdir(parents=True)  # noqa: ASYNC240 - a new directory, before anything else runs
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="zonal-fill-") as place:
        config = Path(place) / "nats.conf"
        config.write_text(scratch_text("127.0.0.1", port, str(store)))
        server = await start_server(config)
        try:
            settings = NatsSettings(url=f"nats://127.0.0.1:{port}", name="zonal-fill")
            connection = await connect(settings, timeout_seconds=CONNECT_SECONDS)
            try:
                yield _Writer(connection).write
            finally:
                await connection.close()
        finally:
            await server.stop()


class _Writer:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._logs: dict[str, JetStreamLog] = {}

    async def write(self, piece: Written) -> None:
        log = self._logs.get(piece.origin)
        if log is None:
            log = self._logs[piece.origin] = JetStreamLog(self._connection, stream_of(piece.origin))
            subjects = topology.EVENTS_SUBJECTS if piece.origin == GLOBAL else topology.zone_subjects(piece.origin)
            await log.ensure(event_stream(log.stream, subjects))
        numbered = enumerate(zip(piece.subjects, piece.lines, strict=True), start=piece.first)
        raws = [RawEvent(n, subject, line) for n, (subject, line) in numbered]
        for start in range(0, len(raws), MAX_BATCH):
            await log.append_raw(raws[start : start + MAX_BATCH])
