"""`zonal compile`: what every proxy should hold at a moment, for another version to compare with."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shared import VERSION
from shared.commands import output as printing
from shared.commands.source import HERE, Moment, Source
from shared.history.preflight import COMPILED, CONTRACT
from shared.process.exit_code import ExitCode


def compile_(
    *,
    from_bundle: Annotated[Path | None, Parameter(help="Same as --bundle; what every version knows.")] = None,
    at: Moment = None,
    body: Annotated[tuple[str, ...], Parameter(negative="", help="A proxy to tell in full; repeatable.")] = (),
    source: Source = HERE,
) -> int:
    """Print digests of all that proxies should hold, by proxy, type and name: one JSON object a line.

    The first line says which contract and version, the last one how many came between.
    """
    printing.line({"contract": CONTRACT, "zonal": VERSION})
    count = 0
    with (source if from_bundle is None else Source(bundle=from_bundle)).opened() as history:
        for count, told in enumerate(importlib.import_module(COMPILED).compiled(history, at, body), start=1):  # noqa: B007
            printing.line(told)
    printing.line({"end": count})
    return ExitCode.OK
