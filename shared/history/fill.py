"""A new JetStream store made of events that exist already, under a scratch nats-server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from shared.events.event import GLOBAL
from shared.history.generate import Written
from shared.history.progress import Progress, unwatched
from shared.history.store import CONNECT_SECONDS, stream_of
from shared.nats import topology
from shared.nats.config import scratch_text
from shared.nats.connection import NatsSettings, connect
from shared.nats.log import MAX_BATCH, JetStreamLog
from shared.nats.pull import RawEvent
from shared.nats.server import free_port, start_server
from shared.nats.stream import event_stream


async def fill_store(store: Path, pieces: Iterable[Written], total: int, progress: Progress = unwatched) -> None:
    """Write `pieces`, `total` events, as the planes would, in atomic batches, into the new directory `store`.

    Raises FileExistsError when there is something already, ServerFailed, LogUnavailable, LogFault.
    """
    store.mkdir(parents=True)  # noqa: ASYNC240 - a new directory, before anything else runs
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="zonal-fill-") as place:
        config = Path(place) / "nats.conf"
        config.write_text(scratch_text("127.0.0.1", port, str(store)))
        server = await start_server(config)
        try:
            await _write(f"nats://127.0.0.1:{port}", pieces, total, progress)
        finally:
            await server.stop()


async def _write(url: str, pieces: Iterable[Written], total: int, progress: Progress) -> None:
    connection = await connect(NatsSettings(url=url, name="zonal-fill"), timeout_seconds=CONNECT_SECONDS)
    logs: dict[str, JetStreamLog] = {}
    done = 0
    try:
        for piece in pieces:
            log = logs.get(piece.origin)
            if log is None:
                log = logs[piece.origin] = JetStreamLog(connection, stream_of(piece.origin))
                subjects = topology.EVENTS_SUBJECTS if piece.origin == GLOBAL else topology.zone_subjects(piece.origin)
                await log.ensure(event_stream(log.stream, subjects))
            numbered = enumerate(zip(piece.subjects, piece.lines, strict=True), start=piece.first)
            raws = [RawEvent(n, subject, line) for n, (subject, line) in numbered]
            for start in range(0, len(raws), MAX_BATCH):
                await log.append_raw(raws[start : start + MAX_BATCH])
            done += len(raws)
            progress("write", done, total)
    finally:
        await connection.close()
