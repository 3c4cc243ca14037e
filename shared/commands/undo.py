"""`zonal undo`: take back what an event changed, after showing what that means."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import ApiRefused, Client
from shared.commands.connect import OutputFlag
from shared.commands.events import EventName, event_named, fields
from shared.commands.failure import CommandFailed
from shared.commands.source import HERE, Source, known
from shared.commands.whatif import DIFF, dry_client, told
from shared.events.event import GLOBAL
from shared.events.history import History
from shared.history.undo import CannotUndo
from shared.history.undo import undo as undone
from shared.history.undo_plan import Plan, planned, writes_of
from shared.process.exit_code import ExitCode

_NOTHING = "nothing was written"
_NOT_YET = "nothing is written yet"


def undo(
    event: EventName,
    *,
    batch: Annotated[bool, Parameter(negative="", help="All that was written together with it, or nothing.")] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="", help="Do not ask.")] = False,
    dry_run: Annotated[bool, Parameter(negative="", help="Only show what would be done.")] = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Put back what an event changed, and nothing else. What was changed again since is a conflict (exit code 4)."""
    origin, n = event_named(event)
    client = None if source.is_offline else _client(source, origin)
    plan = _plan(source, client, origin, n, batch=batch)
    if output == "table":
        _show(plan)
    done, foretold = None, None
    body = msgspec.json.encode({"origin": origin, "n": n, "batch": batch})
    if plan["conflicting"]:
        printing.say(f"what the event changed was changed again since; {_NOTHING}")
    elif any(step["action"] != "nothing" for step in plan["steps"]):
        if client is None and not dry_run:
            raise CommandFailed(
                "a store or a bundle is not written to; --dry-run shows what would be done", ExitCode.USAGE
            )
        if client is None:
            foretold = _supposed(source, origin, n, batch=batch)
        else:
            asked = dry_client(source.api, source.token_file, _zone(source, origin))
            foretold = _foretold(asked, body, plan, dry_run=dry_run)
        if foretold is not None and output == "table":
            told(foretold, output, written=_NOTHING if dry_run else _NOT_YET)
        if client is not None and not dry_run:
            _confirm(yes=yes)
            done = client.post("/history/undo", body, if_match=plan["etag"])
            for warning in done["warnings"]:
                printing.say(f"warning: {warning}")
    if output != "table":
        printing.document({"plan": plan, "whatif": foretold, "results": done["results"] if done else []}, output)
    elif done:
        for one in done["results"]:
            print(f"{one['key']} {one['outcome']}")
    return ExitCode.CONFLICT if plan["conflicting"] else ExitCode.OK


def _client(source: Source, origin: str) -> Client:
    """Events are taken back where they were written."""
    return connect.client(source.api, source.token_file, _zone(source, origin))


def _zone(source: Source, origin: str) -> str | None:
    return None if origin == GLOBAL or source.api else origin


def _plan(source: Source, client: Client | None, origin: str, n: int, *, batch: bool) -> dict[str, Any]:
    if client is not None:
        path = f"/history/undo/{origin}/{n}"
        found: dict[str, Any] = known(lambda: client.get(path, batch="true" if batch else None))
        return found

    def question(history: History) -> Plan:
        try:
            return planned(history, origin, n, batch=batch)
        except CannotUndo as error:
            raise CommandFailed(str(error), ExitCode.REFUSED) from None

    planned_offline: dict[str, Any] = source.asked("", question)
    return planned_offline


def _foretold(client: Client, body: bytes, plan: dict[str, Any], *, dry_run: bool) -> dict[str, Any] | None:
    """What it would lead to for proxies. Who may not write may look at the resources alone."""
    try:
        found: dict[str, Any] = client.post(f"/history/undo?{DIFF}", body, if_match=plan["etag"])
    except ApiRefused as refused:
        if refused.status != 403 or not dry_run:
            raise
        return None
    return found


def _supposed(source: Source, origin: str, n: int, *, batch: bool) -> dict[str, Any]:
    """The same at the end of the past in a file or directory."""
    from shared.history.whatif import whatif_of

    with source.opened() as history:
        writes = writes_of(undone(history, origin, n, batch=batch))
        found = whatif_of(history, "" if origin == GLOBAL else origin, writes)
    if isinstance(found, tuple):
        reasons = "; ".join(f"{one['path']}: {one['reason']}" for one in found)
        raise CommandFailed(f"it would be refused: {reasons}", ExitCode.REFUSED)
    return found


def _confirm(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"give --yes where nobody can be asked; {_NOTHING}", ExitCode.USAGE)
    sys.stderr.write("write this? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandFailed(_NOTHING)


def _show(plan: dict[str, Any]) -> None:
    for step in plan["steps"]:
        key = step["key"]
        name = f"{key['kind']} {'/'.join(part for part in (key['mesh'], key['name']) if part)}"
        head = f"event {step['event']} of {step['actor']} at {step['time']}: {name}"
        what = "conflict" if step["conflicts"] else _ACTIONS[step["action"]]
        printing.coloured(f"{head}: {what}", "bold")
        if step["action"] == "change":
            fields(step["fields"])
        for one in step["conflicts"]:
            print(f"  {one['path'] or 'the whole'}")
            for side, word in (("before", "before"), ("this", "this event"), ("now", "now")):
                lines = printing.yaml_lines(one[side]) if side in one else ["(not there)"]
                print("\n".join(f"    {word if number == 0 else '':<10} {line}" for number, line in enumerate(lines)))


_ACTIONS = {
    "create": "will be there again as it was",
    "change": "will be changed back",
    "delete": "will be deleted",
    "nothing": "is as before already",
}
