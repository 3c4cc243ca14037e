"""`zonal verify` and `zonal repair`: whether every log is the one that was written, and a new store where it is not."""

from __future__ import annotations

import asyncio
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import Client
from shared.commands.connect import OutputFlag
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress
from shared.commands.source import HERE, Source
from shared.commands.tasks import done
from shared.events.event import GLOBAL
from shared.events.signing import Checks
from shared.events.verify import Report
from shared.history.bundle import BundleFault
from shared.history.repair import CannotRepair, Repaired, planned, rebuild
from shared.history.store import STORE_FAULTS
from shared.history.verify import Reports, Verifying, against, plain
from shared.keys.directory import KeysDirectory
from shared.keys.files import KeyFileError
from shared.keys.signing import SigningKey
from shared.process.collector import collector_paused
from shared.process.exit_code import ExitCode
from shared.process.writer import event_time

Keys = Annotated[
    Path | None, Parameter(help="Directory with the origins' public keys (*.sign.pub); the context's when left out.")
]


QUICK = (
    "Check the last signature, which vouches for all before it through the chain, and one of a thousand: a tenth of "
    "the time on signed logs, and a forgery is named less exactly."
)


def verify(
    *,
    zone: Annotated[str | None, Parameter(help="Only this zone's log, or only global's (global).")] = None,
    copy: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="Another store of the same system to compare with; repeatable."),
    ] = (),
    keys: Keys = None,
    quick: Annotated[bool, Parameter(negative="", help=QUICK)] = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Check every event of every log: its hash, its place in the chain, the signatures of its origin, and what other
    copies hold. Exits with 1 and names the first bad event where anything is wrong.
    """
    checks = known_checks(keys)
    origins = None if zone is None else (zone,)
    with progress() as told, collector_paused():
        verifying = Verifying(checks, origins=origins, quick=quick, progress=told)
        reports, copies = _read(source, verifying, copy)
    reports = against(reports, copies)
    if zone is not None and zone not in reports:
        raise CommandFailed(f'no log of origin "{zone}" is here', ExitCode.USAGE)
    bad = any(report.findings for report in reports.values())
    if output != "table":
        items = [plain(report) for report in reports.values()]
        printing.document({"sound": not bad, "copies": sorted(copies), "items": items}, output)
    else:
        _tell(reports, copies, source)
    return ExitCode.FAILED if bad else ExitCode.OK


def repair(
    *,
    from_zone: Annotated[str, Parameter(help="The zone whose copy of global's log is taken.")],
    to: Annotated[Path, Parameter(help="A new directory: the hub's new store.")],
    store: Annotated[Path | None, Parameter(help="The hub's damaged store; the context's when left out.")] = None,
    zone_store: Annotated[Path | None, Parameter(help="The zone's store; the context's when left out.")] = None,
    keys: Keys = None,
    live: Annotated[bool, Parameter(negative="", help="Ask the zone's running control plane for it.")] = False,
    api: connect.Api = None,
    token_file: connect.TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Write a new store for the hub, made of a zone's verified copy. Nothing that exists is changed.

    Stop global and the hub's nats-server first; zones may go on. Where events are lost for ever, the log goes on in a
    new incarnation that names them; only global's key can say so, hence not with --live.
    """
    if live or api is not None:
        if store is not None or zone_store is not None or keys is not None:
            raise CommandFailed("--live asks the zone: --store, --zone-store and --keys go without it", ExitCode.USAGE)
        return _repair_live(connect.client(api, token_file, None if api else from_zone), to, output)
    hub, theirs = _places(from_zone, store, zone_store)
    try:
        with progress() as told, collector_paused():
            verifying = Verifying(known_checks(keys), progress=told)
            others = _zone_stores(verifying, but=from_zone)
            seen = max((report.seen for reports in others.values() for report in reports.values()), default=0)
            plan = asyncio.run(planned(hub, from_zone, theirs, verifying, seen))
            _refuse_shorter(plan.parts[0].until, others)
            asyncio.run(rebuild(plan, hub, to, _signer(keys), now=event_time(), progress=told))
            reports = asyncio.run(verifying.store(to))
    except FileExistsError:
        raise CommandFailed(f"{to} is there already", ExitCode.USAGE) from None
    except (CannotRepair, KeyFileError) as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None
    except STORE_FAULTS as error:
        raise CommandFailed(f"cannot repair: {error}") from None
    if any(report.findings for report in reports.values()):
        raise CommandFailed(f"what was written to {to} is not sound; it is of no use")
    facts = {
        "store": str(to),
        "taken": [{"origin": part.origin, "events": part.until, "from": str(part.store)} for part in plan.parts],
        "lost": None if plan.lost is None else {"from": plan.lost[0] + 1, "to": plan.lost[1]},
        "apart": plan.apart,
        "next": _next(hub, to),
    }
    if output != "table":
        printing.document(facts, output)
    else:
        _tell_plan(plan, hub, from_zone, to)
    return ExitCode.OK


def _repair_live(client: Client, to: Path, output: printing.Output) -> int:
    """The store as the zone's plane makes it. The directory appears whole, or not at all."""
    if to.exists():
        raise CommandFailed(f"{to} is there already", ExitCode.USAGE)
    task = done(client, {"do": "repair"})
    try:
        with tempfile.TemporaryDirectory(prefix=f".{to.name}-", dir=to.absolute().parent) as place:
            fresh, archive = Path(place) / "store", Path(place) / "store.tar"
            with archive.open("wb") as out:
                for piece in client.pieces(f"/history/tasks/{task['id']}/store"):
                    out.write(piece)
            with tarfile.open(archive) as packed:
                packed.extractall(fresh, filter="data")
            fresh.rename(to)
    except (OSError, tarfile.TarError) as error:
        raise CommandFailed(f"cannot write {to}: {error}") from None
    known = connect.current().store
    following = _next(Path(known) if known else Path("THE-HUBS-STORE"), to)
    taken = [{**part, "from": client.api} for part in task["result"]["taken"]]
    if output != "table":
        printing.document({"store": str(to), "taken": taken, "lost": None, "apart": 0, "next": following}, output)
        return ExitCode.OK
    for part in taken:
        print(f"{part['origin']}: {part['events']} events from {client.api}")
    print("\n  ".join(["Next:", *following]))
    return ExitCode.OK


def _places(zone: str, store: Path | None, zone_store: Path | None) -> tuple[Path, Path]:
    """The stores of the hub and of a zone. Raises CommandFailed."""
    context = connect.current()
    known = context.zones.get(zone)
    hub = store or (Path(context.store) if context.store else None)
    theirs = zone_store or (Path(known.store) if known is not None and known.store else None)
    if hub is None or theirs is None:
        raise CommandFailed("where are the stores? give --store and --zone-store", ExitCode.USAGE)
    return hub, theirs


def _signer(keys: Path | None) -> SigningKey | None:
    directory = _keys(keys)
    return None if directory is None else KeysDirectory(directory, GLOBAL).signer_if_any()


def _tell_plan(plan: Repaired, hub: Path, zone: str, to: Path) -> None:
    for part in plan.parts:
        print(f"{part.origin}: {part.until} events from {part.store}")
    if plan.lost is not None:
        print(
            f"lost for ever: events {plan.lost[0] + 1} to {plan.lost[1]} of global; the log says so, and goes on anew"
        )
    if plan.apart:
        print(f"not taken: events {plan.apart} to {plan.hub_events} of {hub}, which are others than {zone} holds")
    print("Next:")
    for line in _next(hub, to):
        print(f"  {line}")


def known_checks(keys: Path | None) -> Checks:
    """What signatures are verified with. Raises CommandFailed."""
    directory = _keys(keys)
    if directory is None:
        return {}
    try:
        return KeysDirectory(directory, GLOBAL).log_checks()
    except KeyFileError as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None


def _keys(keys: Path | None) -> Path | None:
    if keys is not None and not keys.is_dir():
        raise CommandFailed(f"{keys} is no directory", ExitCode.USAGE)
    known = connect.current().keys
    return keys or (Path(known) if known else None)


def _read(source: Source, verifying: Verifying, copy: tuple[Path, ...]) -> tuple[Reports, dict[str, Reports]]:
    """What is verified, and what it is compared with."""
    for where, what, good in (
        *((one, "directory", one.is_dir()) for one in (*copy, *filter(None, [source.store]))),
        *((one, "bundle", one.is_file()) for one in filter(None, [source.bundle])),
    ):
        if not good:
            raise CommandFailed(f"{where} is no {what}", ExitCode.USAGE)
    try:
        copies = {str(place): asyncio.run(verifying.store(place)) for place in copy}
        if source.bundle is not None:
            return verifying.bundle(source.bundle), copies
        context = connect.current()
        place = source.store or (Path(context.store) if context.store and not source.live else None)
        if place is not None:
            if source.store is None:
                copies |= _zone_stores(verifying)
            return asyncio.run(verifying.store(place)), copies
        if limits := connect.client(source.api, source.token_file).get("/history/origins").get("limits"):
            raise CommandFailed(f"this token sees a part only ({limits}): its chain has gaps", ExitCode.REFUSED)
        with source.opened() as history:
            return verifying.history(history), copies
    except BundleFault as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None
    except STORE_FAULTS as error:
        raise CommandFailed(f"cannot verify: {error}") from None


def _zone_stores(verifying: Verifying, *, but: str = "") -> dict[str, Reports]:
    """The zones' stores that are on this machine."""
    zones = connect.current().zones
    places = {name: Path(zone.store) for name, zone in sorted(zones.items()) if zone.store and name != but}
    return {f"zone {name}": asyncio.run(verifying.store(at)) for name, at in places.items() if at.is_dir()}


def _refuse_shorter(until: int, others: Mapping[str, Reports]) -> None:
    """Raises CommandFailed when another zone on this machine holds what would be given up for lost."""
    for where, reports in others.items():
        copy = reports.get(GLOBAL)
        if copy is not None and copy.sound > until:
            reason = f"{where} holds {copy.sound} events of global, this copy {until}: repair from that one"
            raise CommandFailed(reason, ExitCode.REFUSED)


def _tell(reports: Reports, copies: Mapping[str, Reports], source: Source) -> None:
    rows = [[name, str(report.events), _signed(report), report.time, _word(report)] for name, report in reports.items()]
    printing.table(["LOG", "EVENTS", "SIGNED TO", "LAST", "RESULT"], rows)
    for report in reports.values():
        for finding in sorted(report.findings, key=lambda one: one.n):
            print(f"{finding.origin}:{finding.n} {finding.kind}: {finding.reason}")
    if copies:
        printing.say(f"compared with {', '.join(copies)}")
    hub = reports.get(GLOBAL)
    if hub is not None and hub.first is not None and source.bundle is None:
        print(
            f"All before event {hub.first.n} of global is sound. To repair it from a zone's copy, with global and the"
        )
        print("hub's nats-server stopped: zonal repair --from-zone ZONE --to NEW-DIRECTORY")


def _signed(report: Report) -> str:
    if not report.keys:
        return "no key known"
    return f"{report.signed} by {report.by}" if report.signed else "-"


def _word(report: Report) -> str:
    return "sound" if report.first is None else f"bad from event {report.first.n}"


def _next(hub: Path, to: Path) -> list[str]:
    return [
        f"mv {hub} {hub}.damaged",
        f"mv {to} {hub}",
        "start the hub's nats-server, then zonal global; zones that halted there: zonal resume",
        "zonal verify",
    ]
