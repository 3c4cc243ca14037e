"""`zonal resume`: let zones try again what halted, once its cause is repaired."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.connect import Api, OutputFlag, TokenFile
from shared.commands.release import zones_meant
from shared.process.exit_code import ExitCode


def resume(
    *,
    zone: Annotated[
        str | None, Parameter(help="Only in this zone; in every zone of the context when left out.")
    ] = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Let a zone's copy of global's log, and its outbox, try again after they halted (`zonal_halted` at /metrics).

    What is still wrong halts them again; nothing is skipped or overwritten.
    """
    answers = [connect.client(api, token_file, one).post("/resume", b"") for one in zones_meant(zone, api)]
    if output != "table":
        printing.document(answers[0] if len(answers) == 1 else {"items": answers, "total": len(answers)}, output)
        return ExitCode.OK
    for answer in answers:
        for what, reason in answer["resumed"].items():
            print(f"{answer['zone']}: {what} tries again; it had halted: {reason}")
        if not answer["resumed"]:
            print(f"{answer['zone']}: nothing has halted")
    return ExitCode.OK
