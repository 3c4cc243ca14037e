"""The process that does long work for a plane (`order`): `python -m shared.history.work`, a job on its input.

It reads the plane's nats-server itself, in its own time and at a low priority, so that nothing of it stands in the way
of proxies. It says `Word`s, a line each, and ends when its input ends: with the plane, or when the plane cancels it.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, assert_never

import msgspec

from shared.events.event import GLOBAL
from shared.events.halving import NotAsClaimed
from shared.events.history import History, NoSuchMoment
from shared.history.bisected import told
from shared.history.bisecting import SCRATCH, Judge, by_predicate, driven
from shared.history.order import Bisect, Endpoint, Job, Plane, Repair, Verify, Word
from shared.history.plane import PlaneHistory
from shared.history.predicate import BadPredicate, predicate
from shared.history.repair import CannotRepair, planned_here, rebuild
from shared.history.store import STORE_FAULTS, origin_of
from shared.history.verify import Verifying, plain
from shared.keys.directory import KeysDirectory
from shared.model.addresses import address_fault
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.log import JetStreamLog
from shared.nats.stream import stream_names
from shared.process import logs
from shared.process.collector import collector_paused
from shared.process.writer import event_time

NICE = 10
TOLD_EVERY_SECONDS = 0.2
CONNECT_SECONDS = 20.0


class CannotTry(Exception):
    """A moment could not be given to Envoys at all; the message says why."""


FAULTS = (BadPredicate, CannotRepair, CannotTry, NoSuchMoment, NotAsClaimed, *STORE_FAULTS)
"""What may be wrong with the question, or with what it is about."""


def main() -> int:
    """Do what the first line of the input says."""
    os.nice(NICE)
    logs.configure("critical")
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    with collector_paused():
        word = asyncio.run(_until_the_input_ends(job))
    _say(word)
    return 1 if word.fault else 0


async def _until_the_input_ends(job: Job) -> Word:
    working = asyncio.ensure_future(_done(job))
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), working.cancel)  # nothing more is said there: it is the end
    try:
        return Word(result=await working)
    except asyncio.CancelledError:
        return Word(fault="cancelled")
    except FAULTS as error:
        return Word(fault=str(error) or type(error).__name__)
    finally:
        loop.remove_reader(sys.stdin.fileno())


async def _done(job: Job) -> Any:
    async with _connected(job.plane) as connection:
        match job.order:
            case Verify():
                return await _verified(job.plane, job.order, connection)
            case Bisect():
                return await _bisected(job.plane, job.order, connection)
            case Repair():
                return await _repaired(job, job.order, connection)
            case _:
                assert_never(job.order)


async def _verified(plane: Plane, order: Verify, connection: Connection) -> Any:
    checks = KeysDirectory(Path(plane.keys_dir), plane.zone or GLOBAL).log_checks()
    reports = await Verifying(checks, origins=order.origins or None, progress=_Progress()).streams(connection)
    if missing := [origin for origin in order.origins if origin not in reports]:
        raise NoSuchMoment(f"there is no log of {', '.join(missing)} here")
    found = [plain(report) for report in reports.values()]
    return {"sound": not any(report.findings for report in reports.values()), "items": found}


async def _bisected(plane: Plane, order: Bisect, connection: Connection) -> Any:
    origins = {origin: name for name in await stream_names(connection) if (origin := origin_of(name))}
    sources = {origin: JetStreamLog(connection, name) for origin, name in origins.items()}
    with tempfile.TemporaryDirectory(prefix="zonal-work-") as place:
        _say(Word(progress=("read the past", 0, 0)))
        history = await PlaneHistory(sources, Path(place)).ask(lambda history: history)
        zone = history.meant(order.zone, order.good, order.bad)
        ends = history.position(zone, order.good), history.position(zone, order.bad)
        async with _judging(plane, order, history, zone) as judge:
            found = await driven(history, zone, ends, judge, lambda text: _say(Word(remark=text)))
        return told(history, zone, found).plain()


@asynccontextmanager
async def _judging(plane: Plane, order: Bisect, history: History, zone: str) -> AsyncIterator[Judge]:
    if order.predicate is not None:
        yield by_predicate(history, zone, predicate(order.predicate, order.proxy))
        return
    scratch: Any = importlib.import_module(SCRATCH)
    asked = scratch.Asked(
        zone=zone,
        proxy=order.proxy,
        check=order.probe,
        timeout_seconds=order.timeout_seconds,
        endpoints=endpoints(order, history, zone),
        keyring=scratch.keyring_of(Path(plane.keys_dir), zone),
        anew=order.fresh,
    )
    try:
        async with scratch.ScratchPlane(history, asked, lambda text: _say(Word(remark=text))) as served:
            yield served.judge
    except scratch.SCRATCH_FAULTS as fault:
        raise CannotTry(str(fault)) from None


def endpoints(order: Bisect, history: History, zone: str) -> dict[Endpoint, Endpoint]:
    """What is dialled instead of what: nothing that an endpoint of a resource may not be (decision 13), or a token for
    this API would reach what listens on the plane's own host. Raises CannotTry.
    """
    found, settings = order.endpoint_map(), history.state(zone, history.position(zone, order.bad)).own.settings
    for host, port in found.values():
        if fault := address_fault(host, () if settings is None else settings.allowed_addresses):
            raise CannotTry(f"endpoints: {host}:{port}: {fault}")
    return found


async def _repaired(job: Job, order: Repair, connection: Connection) -> Any:
    checks = KeysDirectory(Path(job.plane.keys_dir), job.plane.zone).log_checks()
    verifying = Verifying(checks, progress=_Progress())
    plan = planned_here(await verifying.streams(connection), order.known)
    if plan.lost is not None:
        lost = (
            f"events {plan.lost[0] + 1} to {plan.lost[1]} of global are lost for ever, and only global's key may say so"
        )
        raise CannotRepair(f"{lost}: run `zonal repair` on stores, with --keys")

    @asynccontextmanager
    async def here(_: Path) -> AsyncIterator[Connection]:
        yield connection

    with tempfile.TemporaryDirectory(prefix=".zonal-repair-", dir=Path(job.target).parent) as place:
        store = Path(place) / "store"
        await rebuild(plan, None, store, None, now=event_time(), progress=_Progress(), opened=here)
        reports = await verifying.store(store)
        if any(report.findings for report in reports.values()):
            raise CannotRepair("what was written is not sound; it is of no use")
        await asyncio.to_thread(_packed, store, Path(job.target))
    taken = [{"origin": part.origin, "events": part.until} for part in plan.parts]
    return {"zone": job.plane.zone, "taken": taken, "bytes": Path(job.target).stat().st_size}  # noqa: ASYNC240 - once


def _packed(store: Path, target: Path) -> None:
    with tarfile.open(target, "w") as archive:
        archive.add(store / "jetstream", "jetstream")


@asynccontextmanager
async def _connected(plane: Plane) -> AsyncIterator[Connection]:
    settings = NatsSettings(
        url=plane.nats_url,
        nkey_seed_file=plane.nats_credentials or None,
        ca_file=plane.nats_ca or None,
        name=f"zonal-work-{plane.zone or GLOBAL}",
    )
    connection = await connect(settings, timeout_seconds=CONNECT_SECONDS)
    try:
        yield connection
    finally:
        await connection.close()


class _Progress:
    """Says how far it is, not too often."""

    def __init__(self) -> None:
        self._at, self._what = 0.0, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or done == total or now - self._at >= TOLD_EVERY_SECONDS:
            self._at, self._what = now, what
            _say(Word(progress=(what, done, total)))


def _say(word: Word) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.buffer.write(msgspec.json.encode(word) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
