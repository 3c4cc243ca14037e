"""`zonal events`: what happened, from any origin's log."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any

from cyclopts import Parameter

from shared.api.shown import event_body
from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import Client
from shared.commands.connect import Api, OutputFlag, TokenFile
from shared.commands.failure import CommandFailed
from shared.commands.source import BundleFile, Source, StoreDirectory
from shared.events.event import GLOBAL
from shared.events.search import Wanted
from shared.model import kinds
from shared.process.exit_code import ExitCode

PAGE_EVENTS = 1000

_HEADERS = ("EVENT", "TIME", "ACTOR", "CHANGE", "ABOUT")
_WIDTHS = (10, 27, 20, 22)


def events(
    *,
    zone: Annotated[str | None, Parameter(help="Of this zone's log; of global's when left out.")] = None,
    kind: Annotated[str | None, Parameter(help="Only of this kind of resource (mes, …) or change.")] = None,
    after: Annotated[int | None, Parameter(help="Only events after this one; the latest when left out.")] = None,
    until: Annotated[int | None, Parameter(help="Only events up to this one.")] = None,
    limit: Annotated[int, Parameter(help="At most so many.")] = 100,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on as they happen.")] = False,
    bundle: BundleFile = None,
    store: StoreDirectory = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Show the events of a log."""
    source = Source(bundle=bundle, store=store)
    if source.is_offline:
        if follow:
            raise CommandFailed("nothing follows in a bundle or a store", ExitCode.USAGE)
        return _shown(*_from_past(source, zone or GLOBAL, kind, (after, until), limit), output)
    client = connect.client(api, token_file)
    origin = zone or GLOBAL
    wanted = _wanted(kind)
    if follow:
        start = _last(client, origin) if after is None else after
        for event in client.lines("/events/follow", origin=origin, after=start):
            if wanted is None or wanted & _words(event):
                _stream(event, output)
        raise CommandFailed("the stream of events ended")
    found: list[dict[str, Any]] = []
    last = _last(client, origin)
    end = last if until is None else min(until, last)
    position = max(0, end - limit) if after is None else after
    while position < end and len(found) < limit:
        page = client.get("/events", origin=origin, after=position, until=end, limit=PAGE_EVENTS)
        items = page.get("items") or []
        if not items:
            break
        found += [event for event in items if wanted is None or wanted & _words(event)]
        position = items[-1]["n"]
    return _shown(found[:limit], last, output)


def _shown(found: list[dict[str, Any]], last: int, output: printing.Output) -> int:
    if output == "table":
        printing.table(_HEADERS, [_row(event) for event in found])
    else:
        printing.document({"items": found, "last": last}, output)
    return ExitCode.OK


def _from_past(
    source: Source, origin: str, kind: str | None, between: tuple[int | None, int | None], limit: int
) -> tuple[list[dict[str, Any]], int]:
    """The events that are wanted, and the log's last n."""
    with source.opened() as history:
        log = history.log(origin)
        after, until = between
        words = frozenset(_wanted(kind) or ())
        by_change = words and words <= log.index.changes.keys()
        asked = Wanted(
            kinds=words if words and not by_change else None,
            changes=words if by_change else None,
            after=after or 0,
            until=until,
        )
        numbers = list(islice(log.find(asked, newest_first=after is None), limit))
        return [json.loads(event_body(log.raw(n))) for n in sorted(numbers)], len(log)


def _last(client: Client, origin: str) -> int:
    return int(client.get("/events", origin=origin, limit=1).get("last", 0))


def _wanted(kind: str | None) -> set[str] | None:
    if kind is None:
        return None
    known = kinds.lookup(kind)
    return {known.name if known else kind}


def _words(event: dict[str, Any]) -> set[str]:
    """The kind of change and the kind of resource it is about."""
    change = event.get("change") or {}
    about = change.get("resource") or {}
    key = change.get("key") or {}
    return {word for word in (change.get("type"), about.get("type"), key.get("kind")) if word}


def about(change: dict[str, Any]) -> str:
    """What a change is about, in one line."""
    named = change.get("resource") or change.get("key") or {}
    words = [named.get("type") or named.get("kind") or ""]
    words.append("/".join(part for part in (named.get("mesh"), named.get("name")) if part))
    plain = ("hostname", "ip", "proxy", "zone", "until", "reason", "cidr", "kid", "recipient")
    words += [str(change[name]) for name in plain if isinstance(change.get(name), str)]
    return " ".join(word for word in words if word)


def _row(event: dict[str, Any]) -> list[str]:
    change = event.get("change") or {}
    moment = str(event.get("n", "")) if event.get("origin") == GLOBAL else f"{event.get('origin')}:{event.get('n')}"
    return [moment, event.get("time", ""), event.get("actor", ""), change.get("type", ""), about(change)]


def _stream(event: dict[str, Any], output: printing.Output) -> None:
    if output == "json":
        printing.line(event)
    elif output == "yaml":
        print("---", flush=True)
        printing.document(event, output)
    else:
        *fixed, about = _row(event)
        print("  ".join([*(cell.ljust(width) for cell, width in zip(fixed, _WIDTHS, strict=True)), about]), flush=True)
