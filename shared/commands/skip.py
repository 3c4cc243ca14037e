"""`zonal halted` shows what stands still, `zonal skip` lets it pass over an event that cannot be read."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import ApiRefused
from shared.commands.connect import Api, OutputFlag, TokenFile
from shared.commands.events import EventName, event_named
from shared.commands.failure import CommandFailed
from shared.events.event import GLOBAL
from shared.process.exit_code import ExitCode


def skip(
    event: EventName,
    *,
    reason: Annotated[str, Parameter(help="Why nothing is missed without it; it stays in the log.")],
    in_: Annotated[
        str | None,
        Parameter(
            name="--in",
            help="In whose log to record it: global or a zone. Left out it is the event's own, and holds for all that "
            "read it; another plane's is for that plane alone.",
        ),
    ] = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Let readers pass over an event that they cannot read, as if it changed nothing; they go on by themselves.

    A control plane stops before an event of a kind or schema that it does not know: better run a version that knows it.
    `zonal halted` shows what stops where.
    """
    origin, n = event_named(event)
    where = in_ or origin
    body = msgspec.json.encode({"origin": origin, "n": n, "reason": reason})
    client = connect.client(api, token_file, None if where == GLOBAL else where)
    answer = client.post("/skip", body)
    if output != "table":
        printing.document(answer, output)
        return ExitCode.OK
    for one in answer["recorded"]:
        print(f"{where} passes over event {event}: recorded as {_named(one)}")
    for part in answer["halted"]:
        printing.say(f"{where} still stands {part['what']}: {part['reason']}")
    return ExitCode.OK


def halted(*, api: Api = None, token_file: TokenFile = None, output: OutputFlag = "table") -> int:
    """Show what stands still in global and its zones, and how it goes on; exit code 1 for anything.

    Zones of the context are asked themselves; of others, and of those that do not answer, it is what they told last.
    With --api, that plane alone is asked.
    """
    answer = connect.client(api, token_file).get("/halted")
    found = {api or GLOBAL: answer["items"], **answer.get("zones", {})}
    for zone in sorted(connect.current().zones) if api is None else ():
        try:
            found[zone] = connect.client(None, token_file, zone).get("/halted")["items"]
        except ApiRefused:
            raise
        except CommandFailed as silent:
            printing.say(f"{silent.message}; of zone {zone} this is what it told global last")
    rows: list[dict[str, Any]] = [{"where": where, **item} for where, items in found.items() for item in items]
    if output != "table":
        printing.document({"items": rows, "total": len(rows)}, output)
    elif rows:
        printing.table(
            ["WHERE", "STANDS STILL", "WHY", "MENDED BY"],
            [[row["where"], row["what"], row["reason"], row["mend"]] for row in rows],
        )
    else:
        print("nothing stands still")
    return ExitCode.FAILED if rows else ExitCode.OK


def _named(event: dict[str, Any]) -> str:
    return str(event["n"]) if event["origin"] == GLOBAL else f"{event['origin']}:{event['n']}"
