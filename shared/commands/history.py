"""`zonal replay`, `diff`, `explain`: any moment, from the log alone.

They open a copy of a JetStream store under a scratch nats-server, so they work with everything stopped and never
touch the original. The compiler is the production one, imported by name: `shared` imports neither plane.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.failure import CommandFailed
from shared.events.event import Event
from shared.events.history import History, NoSuchMoment
from shared.events.state import Position
from shared.model import codec
from shared.process.exit_code import ExitCode

COMPILER = "zone_cp.replay"
CONNECT_SECONDS = 10.0

Store = Annotated[Path | None, Parameter(help="JetStream directory of a nats-server; the deployment's hub by default.")]
ZoneName = Annotated[str | None, Parameter(help="The zone; may be left out when there is one, or with east:57.")]
ProxyName = Annotated[str | None, Parameter(help="A proxy of the zone; all resources instead when left out.")]
Moment = Annotated[str | None, Parameter(help="1234 (global's sequence), east:57, or a time; the last when left out.")]


def replay(
    *,
    at: Moment = None,
    zone: ZoneName = None,
    proxy: ProxyName = None,
    store: Store = None,
    output: OutputFlag = "table",
) -> int:
    """Show what a proxy was served at a moment, or the resources of that moment."""
    history = _history(store)
    zone = _zone(history, zone, at)
    position = _position(history, zone, at)
    found = _tree(history, zone, position, proxy)
    if output != "table":
        printing.document({"zone": zone, "position": str(position), "proxy": proxy, "found": found}, output)
        return ExitCode.OK
    printing.say(f"{zone} at {position}" + (f", {proxy}" if proxy else ""))
    rows = [
        [kind.rsplit(".", 1)[-1], name, _brief(value)] for kind, names in found.items() for name, value in names.items()
    ]
    printing.table(["TYPE", "NAME", "CONTENT"], rows)
    return ExitCode.OK


def diff(
    before: Annotated[str, Parameter(help="A moment.")],
    after: Annotated[str, Parameter(help="A later moment.")],
    *,
    zone: ZoneName = None,
    proxy: ProxyName = None,
    store: Store = None,
    output: OutputFlag = "table",
) -> int:
    """Show, field by field, what changed for a proxy (or among resources) between two moments."""
    history = _history(store)
    zone = _zone(history, zone, before, after)
    trees = [_tree(history, zone, _position(history, zone, at), proxy) for at in (before, after)]
    changes = importlib.import_module(COMPILER).difference(*trees)
    if output != "table":
        items = [msgspec.to_builtins(change) for change in changes]
        printing.document({"zone": zone, "proxy": proxy, "before": before, "after": after, "changes": items}, output)
        return ExitCode.OK
    for change in changes:
        print(f"{change.kind.rsplit('.', 1)[-1]} {change.name}")
        place = f"{change.path}: " if change.path else ""
        if change.before is not None:
            print(f"  - {place}{_brief(change.before)}")
        if change.after is not None:
            print(f"  + {place}{_brief(change.after)}")
    if not changes:
        printing.say("nothing changed")
    return ExitCode.OK


def explain(
    proxy: Annotated[str, Parameter(help="A proxy of the zone.")],
    wanted: Annotated[str, Parameter(help="An xDS resource, a hostname, a VIP or a resource's name.")],
    *,
    at: Moment = None,
    zone: ZoneName = None,
    store: Store = None,
    output: OutputFlag = "table",
) -> int:
    """Name the events, their authors and times behind what a proxy is served."""
    history = _history(store)
    zone = _zone(history, zone, at)
    position = _position(history, zone, at)
    try:
        found = importlib.import_module(COMPILER).explain(history, zone, position, proxy, wanted)
    except NoSuchMoment as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None
    if not found:
        raise CommandFailed(f'nothing that {proxy} holds at {position} has to do with "{wanted}"')
    if output != "table":
        printing.document({"zone": zone, "position": str(position), "found": codec.to_plain(found)}, output)
        return ExitCode.OK
    for name, causes in found.items():
        print(name)
        for cause in causes:
            print(f"  event {cause.event} by {cause.actor} at {cause.time}: {cause.what}")
    return ExitCode.OK


# --- reading ------------------------------------------------------------------------------------------------


def _history(store: Path | None) -> History:
    place = store or _default_store()
    if not place.is_dir():
        raise CommandFailed(f"{place} is no directory", ExitCode.USAGE)
    from shared.events.log import LogUnavailable
    from shared.nats.connection import ApiError
    from shared.nats.log import LogFault
    from shared.nats.server import ServerFailed

    try:
        return asyncio.run(read_store(place))
    except (ApiError, LogFault, LogUnavailable, OSError, ServerFailed) as error:
        raise CommandFailed(f"cannot read the store {place}: {error}") from None


def _default_store() -> Path:
    known = connect.current().store
    if not known:
        raise CommandFailed("the context names no store; give --store with a nats-server's directory", ExitCode.USAGE)
    return Path(known)


async def read_store(store: Path) -> History:
    """Every log in a copy of a JetStream store. Raises ServerFailed, LogUnavailable, LogFault, ApiError, OSError."""
    from shared.nats import topology
    from shared.nats.connection import NatsSettings
    from shared.nats.connection import connect as connect_nats
    from shared.nats.server import scratch_server

    async with scratch_server(store) as url:
        connection = await connect_nats(NatsSettings(url=url, name="zonal-history"), timeout_seconds=CONNECT_SECONDS)
        try:
            names = await _stream_names(connection)
            prefix = topology.zone_stream("")
            hub: Sequence[Event] = ()
            if topology.EVENTS in names:
                hub = [event async for event in topology.global_log(connection).read()]
            zones = {}
            for name in names:
                if name.startswith(prefix):
                    zone = name.removeprefix(prefix)
                    zones[zone] = [event async for event in topology.zone_log_on_hub(connection, zone).read()]
        finally:
            await connection.close()
    return History.of(hub, zones)


async def _stream_names(connection: Any) -> list[str]:
    names: list[str] = []
    while True:
        answer = await connection.api("$JS.API.STREAM.NAMES", {"offset": len(names)})
        found = answer.get("streams") or []
        names += found
        if not found or len(names) >= answer.get("total", 0):
            return sorted(names)


# --- naming -------------------------------------------------------------------------------------------------


def _zone(history: History, zone: str | None, *moments: str | None) -> str:
    """The zone that is meant: named, implied by `east:57`, or the only one."""
    implied = {moment.partition(":")[0] for moment in moments if moment and moment.partition(":")[0] in history.zones}
    meant = {zone} if zone else implied or set(history.zones)
    if len(meant) != 1:
        known = ", ".join(sorted(history.zones)) or "none"
        raise CommandFailed(f"which zone? give --zone with one of: {known}", ExitCode.USAGE)
    return meant.pop()


def _position(history: History, zone: str, at: str | None) -> Position:
    try:
        return history.position(zone, at)
    except NoSuchMoment as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None


def _tree(history: History, zone: str, position: Position, proxy: str | None) -> dict[str, dict[str, Any]]:
    compiler = importlib.import_module(COMPILER)
    try:
        found: dict[str, dict[str, Any]] = (
            compiler.xds_at(history, zone, position, proxy) if proxy else compiler.resources_at(history, zone, position)
        )
    except NoSuchMoment as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None
    return found


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else codec.encode(value).decode()
