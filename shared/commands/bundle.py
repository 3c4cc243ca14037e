"""`zonal bundle export` and `import`: a system's past in one file, without its secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress
from shared.commands.source import HERE, Source
from shared.history.bundle import BundleFault, open_bundle, state_digest, write_bundle
from shared.process.collector import collector_paused
from shared.process.exit_code import ExitCode


def export(
    file: Annotated[Path, Parameter(help="Where to write it.")],
    *,
    zone: Annotated[
        tuple[str, ...], Parameter(negative="", help="Only this zone's log, beside global's; repeatable.")
    ] = (),
    source: Source = HERE,
) -> int:
    """Write every log to one file that `--bundle` reads anywhere. Ciphertexts and wrapped keys are left out."""
    with source.opened() as whole, progress() as told:
        history = whole.of_zones(zone) if zone else whole
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            write_bundle(history, file, time=time, progress=told)
        except OSError as error:
            raise CommandFailed(f"cannot write {file}: {error.strerror or error}", ExitCode.USAGE) from None
        count = len(history.hub) + sum(map(len, history.zones.values()))
    printing.say(f"{count} events are in {file}, {file.stat().st_size / 1e6:.1f} MB")
    return ExitCode.OK


def import_(file: Annotated[Path, Parameter(help="The bundle.")], *, output: OutputFlag = "table") -> int:
    """Check a bundle event by event, make it ready for `--bundle`, and say what is in it."""
    try:
        with progress() as told, collector_paused():
            history, contents = open_bundle(file, told)
            digests = {origin.origin: state_digest(history.log(origin.origin)) for origin in contents.header.origins}
    except BundleFault as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror or error}", ExitCode.USAGE) from None
    rows: list[dict[str, Any]] = [
        {
            **msgspec.to_builtins(origin),
            "same_state": digests[origin.origin] == contents.digests.get(origin.origin),
        }
        for origin in contents.header.origins
    ]
    if output != "table":
        printing.document({"zonal": contents.header.zonal, "time": contents.header.time, "origins": rows}, output)
        return ExitCode.OK
    printing.say(f"written by zonal {contents.header.zonal} at {contents.header.time}; every chain holds")
    cells = [[row["origin"], str(row["events"]), row["time"], row["head"][:16], _same(row)] for row in rows]
    printing.table(["ORIGIN", "EVENTS", "LAST", "HEAD", "STATE"], cells)
    return ExitCode.OK


def _same(row: dict[str, Any]) -> str:
    return "as when it was written" if row["same_state"] else "this version makes something else of it"
