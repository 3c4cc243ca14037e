"""`zonal preflight`: the real past through another installed version of the compiler, before it is put in place."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.diff import Stat
from shared.commands.differing import show
from shared.commands.failure import CommandFailed
from shared.commands.source import HERE, Moment, Source
from shared.events.history import History
from shared.history.bundle import write_bundle
from shared.history.preflight import HERE as OURS
from shared.history.preflight import CannotRun, installation
from shared.history.preflight import preflight as compared
from shared.process.exit_code import ExitCode


def preflight(
    *,
    with_: Annotated[str, Parameter(name="--with", help="A python, venv, source tree or version (`zonal-<version>`).")],
    at: Moment = None,
    stat: Stat = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Compare what this and another version make of the past, for every proxy; exit code 1 when anything differs."""
    try:
        other = installation(with_)
        with source.opened() as history, tempfile.TemporaryDirectory(prefix="zonal-preflight-") as place:
            # Both read the very same, and nobody's secrets; an earlier version reads no records.
            bundle, logs = Path(place) / "past.bundle", History(history.hub, history.zones)
            write_bundle(logs, bundle, time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
            found = compared(bundle, OURS, other, at)
    except CannotRun as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None
    differing = any(one["groups"] or one["came"] or one["left"] or one["faults"] for one in found["items"])
    if output != "table":
        printing.document(found, output)
    else:
        for one in found["items"]:
            show(one, stat=stat)
    return ExitCode.FAILED if differing else ExitCode.OK
