"""The history in a copy of a nats-server's store: opened with everything stopped, the original is never touched.

The first time, the copy stands under a scratch nats-server and every event is read once; what was read is kept in a
cache beside the store, or below the user's own caches where that cannot be written. After that the store's files are
only looked at (names, sizes, times): as long as they are the same, no server is needed, and when they grew only what
is new is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path

import msgspec

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.events.index import DamagedLog
from shared.events.log import LogUnavailable
from shared.history.cache import HistoryCache, OriginCache, history_of, user_cache
from shared.history.plane import continues
from shared.history.progress import Progress, unwatched
from shared.nats import topology
from shared.nats.connection import ApiError, Connection, NatsSettings, connect
from shared.nats.fast import read_fast
from shared.nats.log import JetStreamLog, LogFault
from shared.nats.server import ServerFailed, account_directory, scratch_server
from shared.nats.stream import stream_names

CONNECT_SECONDS = 20.0

STORE_FAULTS = (ApiError, DamagedLog, LogFault, LogUnavailable, OSError, ServerFailed)
"""What opening a store may raise."""


async def open_store(store: Path, progress: Progress = unwatched, *, cache: Path | None = None) -> History:
    """The history of every origin in a copy of the JetStream store at `store`.

    cache: where to keep what is read; by default beside the store. Raises STORE_FAULTS.
    """
    source = fingerprint(store)
    with HistoryCache(cache or cache_directory(store)) as kept:
        note = kept.directory / "deliveries"
        if not kept.holds(source) or not note.exists():
            kept.incomplete()
            note.write_bytes(msgspec.json.encode(await _read(store, kept, progress)))
            kept.complete(source)
        return history_of(kept.pasts(), msgspec.json.decode(note.read_bytes(), type=dict[str, list[bytes]]))


def cache_directory(store: Path) -> Path:
    """Where what is read of a store is kept."""
    beside = store.resolve()
    if os.access(beside.parent, os.W_OK):
        return beside.parent / f"{beside.name}-history"
    return user_cache(f"store {beside}")


def fingerprint(store: Path) -> str:
    """Stands for what a store holds: names, sizes and times of the files of its messages. Raises ServerFailed."""
    files = []
    for path in sorted((account_directory(store) / "streams").glob("*/msgs/*.blk")):
        known = path.stat()
        files.append([f"{path.parent.parent.name}/{path.name}", known.st_ino, known.st_size, known.st_mtime_ns])
    return sha256(json.dumps(files).encode()).hexdigest()


async def _read(store: Path, kept: HistoryCache, progress: Progress) -> dict[str, list[bytes]]:
    """Read what is new into the cache; returns what zones recorded of their proxies."""
    progress("copy the store", 0, 0)
    async with scratch_server(store) as url:
        connection = await connect(NatsSettings(url=url, name="zonal-history"), timeout_seconds=CONNECT_SECONDS)
        try:
            streams = await stream_names(connection)
            origins = {origin_of(name): name for name in streams if origin_of(name)}
            kept.keep_only(origins)
            for origin, stream in origins.items():
                await _read_origin(url, JetStreamLog(connection, stream), kept.origin(origin), progress)
            return await _recorded(connection, streams)
        finally:
            await connection.close()


async def _recorded(connection: Connection, streams: Sequence[str]) -> dict[str, list[bytes]]:
    """What zones recorded of their proxies: records of what they took, and in a zone's own store their marks."""
    found: dict[str, list[bytes]] = {}
    for named, opened in (
        (topology.delivery_stream_name(""), topology.own_delivery),
        (topology.record_stream_name(""), topology.records),
    ):
        for zone in (name.removeprefix(named) for name in streams if name.startswith(named)):
            found.setdefault(zone, []).extend(await opened(connection, zone).kept())
    return found


def origin_of(stream: str) -> str:
    """Whose events a stream holds; "" when it holds none."""
    prefix = topology.zone_stream("")
    if stream == topology.EVENTS:
        return GLOBAL
    return stream.removeprefix(prefix) if stream.startswith(prefix) else ""


def stream_of(origin: str) -> str:
    """The stream that holds an origin's events on the hub."""
    return topology.EVENTS if origin == GLOBAL else topology.zone_stream(origin)


async def _read_origin(url: str, log: JetStreamLog, cache: OriginCache, progress: Progress) -> None:
    last = await log.last()
    if not await continues(log, cache.past, last):
        cache.forget()
    done = len(cache.index)
    with cache.growing() as extend:
        async with aclosing(read_fast(url, log.stream, done, last)) as arriving:
            async for lines in arriving:
                extend(lines)
                done += len(lines)
                progress(f"read {cache.index.origin}", done, last)
