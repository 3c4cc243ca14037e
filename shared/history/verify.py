"""Verifying logs where they stand: in a copy of a store, in a bundle, in what a running system gives (`events.verify`).

A store is read as its nats-server gives it, past whatever that has dropped: what is missing shows in the events
themselves, by their numbers. The original is only copied.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

import msgspec

from shared.events.event import GLOBAL
from shared.events.history import History
from shared.events.signing import Checks
from shared.events.verify import Finding, LogVerifier, Report, compared, unseen
from shared.history.bundle import read_bundle
from shared.history.progress import Progress, unwatched
from shared.history.store import CONNECT_SECONDS, origin_of
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.log import JetStreamLog
from shared.nats.salvage import salvaged
from shared.nats.server import scratch_server
from shared.nats.stream import stream_names

Reports: TypeAlias = dict[str, Report]
"""By origin."""
TOLD_EVENTS = 10_000


class Verifying:
    """How to verify: with which keys, which origins (all when None), and whether at a quick look."""

    def __init__(
        self,
        checks: Checks,
        *,
        origins: Collection[str] | None = None,
        quick: bool = False,
        progress: Progress = unwatched,
    ) -> None:
        self._checks = checks
        self._origins = origins
        self._quick = quick
        self._progress = progress

    async def store(self, store: Path) -> Reports:
        """Every log in a copy of a JetStream store. Raises `shared.history.store.STORE_FAULTS`."""
        self._progress("copy the store", 0, 0)
        async with scratch_server(store) as url:
            connection = await connect(NatsSettings(url=url, name="zonal-verify"), timeout_seconds=CONNECT_SECONDS)
            try:
                return await self.streams(connection)
            finally:
                await connection.close()

    async def streams(self, connection: Connection) -> Reports:
        """Every log as its nats-server gives it. Raises ApiError, LogUnavailable."""
        reports: Reports = {}
        for stream in await stream_names(connection):
            origin = origin_of(stream)
            if not origin or not self._wanted(origin):
                continue
            last = await JetStreamLog(connection, stream).last()
            verifier = self._verifier(origin)
            async with aclosing(salvaged(connection, stream, last)) as arriving:
                async for raws in arriving:
                    self._take(verifier, origin, [raw.data for raw in raws], last)
            reports[origin] = verifier.end(last)
        return _judged(reports)

    def bundle(self, file: Path) -> Reports:
        """Every log in a bundle. Raises BundleFault, OSError."""
        verifiers: dict[str, LogVerifier] = {}

        def take(origin: str, lines: Sequence[bytes]) -> None:
            if self._wanted(origin):
                if origin not in verifiers:
                    verifiers[origin] = self._verifier(origin, redacted=True)
                self._take(verifiers[origin], origin, lines, 0)

        contents = read_bundle(file, take, chained=False)
        ends = {one.origin: one.head for one in contents.header.origins if self._wanted(one.origin)}
        for origin in ends:
            verifiers.setdefault(origin, self._verifier(origin, redacted=True))
        reports = {origin: verifier.end() for origin, verifier in verifiers.items()}
        for origin, head in ends.items():
            report = reports[origin]
            if not report.findings and report.head != head:
                finding = Finding(
                    origin, max(report.events, 1), "changed", "the bundle says that the log ends otherwise"
                )
                reports[origin] = report.with_((finding,))
        return _judged(reports)

    def history(self, history: History) -> Reports:
        """Every log of a past that was read already, without secrets."""
        reports = {}
        for origin, log in {GLOBAL: history.hub, **history.zones}.items():
            if self._wanted(origin):
                verifier = self._verifier(origin, redacted=True)
                for first in range(1, len(log) + 1, TOLD_EVENTS):
                    numbers = range(first, min(first + TOLD_EVENTS, len(log) + 1))
                    self._take(verifier, origin, [log.raw(n) for n in numbers], len(log))
                reports[origin] = verifier.end()
        return _judged(reports)

    def _wanted(self, origin: str) -> bool:
        return self._origins is None or origin in self._origins

    def _verifier(self, origin: str, *, redacted: bool = False) -> LogVerifier:
        return LogVerifier(origin, self._checks.get(origin, {}), quick=self._quick, redacted=redacted)

    def _take(self, verifier: LogVerifier, origin: str, lines: Sequence[bytes], total: int) -> None:
        for line in lines:
            verifier.take(line)
        self._progress(f"verify {origin}", verifier.count, total)


def _judged(reports: Reports) -> Reports:
    """With what zones saw of global's log held against it."""
    hub = reports.get(GLOBAL)
    if hub is None:
        return reports
    zones = [report for origin, report in reports.items() if origin != GLOBAL]
    return {**reports, GLOBAL: hub.with_(unseen(hub, zones))}


def against(reports: Reports, copies: Mapping[str, Reports]) -> Reports:
    """The reports with what other copies, by where they are, say about these logs."""
    found = dict(reports)
    for where, others in copies.items():
        for origin, other in others.items():
            if origin in found:
                found[origin] = found[origin].with_(compared(found[origin], other, where))
        zones = [other for origin, other in others.items() if origin != GLOBAL]
        if (hub := found.get(GLOBAL)) is not None and all(one.kind != "truncated" for one in hub.findings):
            found[GLOBAL] = hub.with_(unseen(hub, zones))
    return found


def plain(report: Report) -> dict[str, object]:
    """A report as data."""
    first = report.first
    return {
        "origin": report.origin,
        "events": report.events,
        "head": report.head,
        "time": report.time,
        "signed": report.signed,
        "key": report.by,
        "keyKnown": report.keys,
        "restored": msgspec.to_builtins(report.restored),
        "sound": report.sound,
        "firstBad": None if first is None else first.n,
        "findings": msgspec.to_builtins(report.findings),
    }
