"""`zonal release`: let proxies have what their zone keeps from them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.connect import Api, OutputFlag, TokenFile
from shared.commands.failure import CommandFailed
from shared.process.exit_code import ExitCode


def release(
    proxy: Annotated[str, Parameter(help="A proxy, as `zonal get proxies` names it, or all.")],
    *,
    zone: Annotated[
        str | None, Parameter(help="Release in this zone; in every zone of the context when left out.")
    ] = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Let proxies have what is kept from them: a push that takes away much, or an older state than they have had.

    Resources that an Envoy refused are tried again as well. What waits, and why, is in the column WAITS of
    `zonal get proxies`.
    """
    body = msgspec.json.encode({"proxy": proxy})
    answers = [connect.client(api, token_file, one).post("/release", body) for one in zones_meant(zone, api)]
    if output != "table":
        printing.document(answers[0] if len(answers) == 1 else {"items": answers, "total": len(answers)}, output)
    else:
        for answer in answers:
            _tell(answer)
    return ExitCode.OK


def zones_meant(zone: str | None, api: str | None) -> list[str | None]:
    """The zones to talk to: the one that is named, that of the address, or all of the context. Raises CommandFailed."""
    zones: list[str | None] = [zone] if zone is not None or api is not None else [*sorted(connect.current().zones)]
    if not zones:
        raise CommandFailed("the context has no zone; give --api with a zone's address", ExitCode.USAGE)
    return zones


def _tell(answer: dict[str, Any]) -> None:
    zone = answer["zone"]
    if answer.get("restored"):
        print(f"{zone}: the log goes on without what it lost")
    for proxy in answer["proxies"]:
        print(f"{zone}: released {proxy}")
    for name in answer.get("quarantines") or ():
        print(f"{zone}: {name} is tried again")
    if not (answer["proxies"] or answer.get("quarantines") or answer.get("restored")):
        print(f"{zone}: nothing waits")
