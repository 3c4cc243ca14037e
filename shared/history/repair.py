"""Repair: a new store for the hub, made of what a zone's copy holds. Nothing that exists is written to.

Global's log is taken from the zone's copy, as far as it is sound, and beyond that from the hub's own store where both
hold the same log and the hub's is sound further. The hub's copies of zones' logs are taken as far as they are sound;
what they lack, the zones' outboxes bring. If anybody knows of more events of global than can be had, the log goes on in
a new incarnation whose first event names what is lost (decision 33); if nothing is lost it is the same log as before.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from shared.events.compose import compose
from shared.events.event import GLOBAL, LogRestored, decode_envelope, encode_event, event_hash
from shared.events.signing import Signer, signed
from shared.events.state import LogState
from shared.events.verify import compared
from shared.history.fill import new_store
from shared.history.generate import Written
from shared.history.progress import Progress, unwatched
from shared.history.store import CONNECT_SECONDS, stream_of
from shared.history.verify import Reports, Verifying
from shared.nats import topology
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.pull import RawEvent
from shared.nats.salvage import salvaged
from shared.nats.server import SCRATCH_ACCOUNT, ServerFailed, account_directory, scratch_server

ACTOR = "operator:repair"


Opener: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Connection]]


class CannotRepair(Exception):
    """There is nothing that the log can be repaired from; the message says why."""


class Part(msgspec.Struct, frozen=True):
    """Events 1 to `until` of `origin`, from the store at `store`."""

    origin: str
    until: int
    store: Path


class Repaired(msgspec.Struct, frozen=True):
    """What the new store holds. lost: what is known to be missing for ever, (from, to]; apart: from where on the hub's
    store holds other events than the zone's copy, which were not taken; 0 where it does not.
    """

    parts: tuple[Part, ...]
    lost: tuple[int, int] | None
    apart: int
    hub_events: int


async def planned(hub: Path, zone: str, zone_store: Path, verifying: Verifying, known: int) -> Repaired:
    """What a repair would take from where. known: up to which event of global's log anybody else has seen it.

    Raises CannotRepair, and `shared.history.store.STORE_FAULTS` when a store cannot be opened.
    """
    theirs = await verifying.store(zone_store)
    ours = {} if _account(hub) is None else await verifying.store(hub)
    copy = theirs.get(GLOBAL)
    if copy is None or not copy.sound:
        raise CannotRepair(f"the store of {zone}, {zone_store}, holds no sound copy of global's log")
    best, apart = Part(GLOBAL, copy.sound, zone_store), 0
    mine = ours.get(GLOBAL)
    if mine is not None:
        parting = [one.n for one in compared(mine, copy, zone) if one.kind == "diverged"]
        apart = parting[0] if parting and parting[0] <= copy.sound else 0
        if not apart and mine.sound > copy.sound:
            best = Part(GLOBAL, mine.sound, hub)
    ends = 0 if mine is None or apart else mine.known
    seen = max(report.seen for report in (*theirs.values(), *ours.values()))
    most = max(known, ends, seen)
    told = max((one.lost_to for one in copy.restored), default=0)
    lost = (best.until, most) if most > max(best.until, told) else None
    return Repaired((best, *_zones(ours, theirs, hub, zone_store)), lost, apart, 0 if mine is None else mine.events)


def _zones(ours: Reports, theirs: Reports, hub: Path, zone_store: Path) -> list[Part]:
    """The zones' logs, each from where more of it is sound."""
    parts = []
    for origin in sorted({*ours, *theirs} - {GLOBAL}):
        mine, own = ours.get(origin), theirs.get(origin)
        if own is not None and (mine is None or own.sound >= mine.sound):
            parts.append(Part(origin, own.sound, zone_store))
        elif mine is not None:
            parts.append(Part(origin, mine.sound, hub))
    return parts


def planned_here(reports: Reports, known: int) -> Repaired:
    """What a zone's own, running server has to give for a hub's store. known: as for `planned`. Raises CannotRepair."""
    copy = reports.get(GLOBAL)
    if copy is None or not copy.sound:
        raise CannotRepair("there is no sound copy of global's log here")
    most = max(known, *(report.seen for report in reports.values()))
    told = max((one.lost_to for one in copy.restored), default=0)
    lost = (copy.sound, most) if most > max(copy.sound, told) else None
    parts = [Part(origin, report.sound, Path()) for origin, report in sorted(reports.items()) if origin != GLOBAL]
    return Repaired((Part(GLOBAL, copy.sound, Path()), *parts), lost, 0, 0)


async def rebuild(
    plan: Repaired,
    hub: Path | None,
    target: Path,
    signer: Signer | None,
    *,
    now: str,
    progress: Progress = unwatched,
    opened: Opener | None = None,
) -> None:
    """Write what was planned for the store `hub` to the new directory `target`, as a hub's nats-server keeps it.

    signer: global's key, needed where events are lost; now: the time of the event that says so. opened: how a part's
    store is read; by default under a scratch server. Raises FileExistsError, CannotRepair,
    `shared.history.store.STORE_FAULTS`.
    """
    opened = opened or _opened
    if plan.lost is not None and signer is None:
        raise CannotRepair("events are lost for ever, and global's signing key is not here to say so: give --keys")
    async with new_store(target) as write:
        for part in filter(lambda one: one.until, plan.parts):
            last: RawEvent | None = None
            stream = stream_of(part.origin)
            async with (
                opened(part.store) as connection,
                aclosing(salvaged(connection, stream, part.until)) as arriving,
            ):
                async for raws in arriving:
                    last = raws[-1]
                    await write(_written(part.origin, raws))
                    progress(f"write {part.origin}", last.sequence, part.until)
            if part.origin == GLOBAL and plan.lost is not None and signer is not None and last is not None:
                await write(_restored(last, plan.lost, signer, now))
    await asyncio.to_thread(_finish, hub, target)


def _finish(hub: Path | None, target: Path) -> None:
    """Give the streams to the hub's account, since a server without auth wrote them; zones' words on conditions and
    records of what proxies took, which are no logs, come along as they are.
    """
    account = target / "jetstream" / topology.GLOBAL_ACCOUNT
    (target / "jetstream" / SCRATCH_ACCOUNT).rename(account)
    if hub is not None and (old := _account(hub)) is not None:
        named = (topology.status_stream_name(""), topology.record_stream_name(""))
        for stream in (one for name in named for one in (old / "streams").glob(f"{name}*")):
            shutil.copytree(stream, account / "streams" / stream.name, ignore=shutil.ignore_patterns("obs"))


def _account(store: Path) -> Path | None:
    """Where the streams of a store are, None where nothing is left of it."""
    try:
        return account_directory(store)
    except (ServerFailed, OSError):
        return None


@asynccontextmanager
async def _opened(store: Path) -> AsyncIterator[Connection]:
    async with scratch_server(store) as url:
        connection = await connect(NatsSettings(url=url, name="zonal-repair"), timeout_seconds=CONNECT_SECONDS)
        try:
            yield connection
        finally:
            await connection.close()


def _written(origin: str, raws: list[RawEvent]) -> Written:
    return Written(origin, raws[0].sequence, [raw.subject for raw in raws], [raw.data for raw in raws])


def _restored(last: RawEvent, lost: tuple[int, int], signer: Signer, now: str) -> Written:
    """The event that begins the new incarnation."""
    before = decode_envelope(last.data)
    state = LogState(GLOBAL, before.n, event_hash(before), before.incarnation, max(before.time, now))
    change = LogRestored(lost_from=lost[0], lost_to=lost[1])
    events = compose(state, [change], ids=[uuid.uuid4().hex], time=state.time, actor=ACTOR, kid=signer.kid)
    (event,) = signed(events, signer)
    return Written(GLOBAL, event.n, [event.subject], [encode_event(event)])
