"""`zonal events` and `zonal show`: what happened, from any origin's log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter

from shared.commands import connect, differing
from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.failure import CommandFailed
from shared.commands.source import HERE, Source
from shared.events.event import GLOBAL
from shared.events.history import NoSuchMoment
from shared.events.moment import time_meant
from shared.history.listing import LIMIT_MAX, Asked, kinds_meant, listed
from shared.history.show import show as shown
from shared.process.exit_code import ExitCode

LIMIT = 100
FOLLOW_LIMIT = 10
"""So many events stand before what comes, as in journalctl."""

_HEADERS = ("EVENT", "TIME", "ACTOR", "WHAT")
_WIDTHS = (10, 27, 16)

EventName = Annotated[str, Parameter(help="An event: 1234 of global's log, east:57 of a zone's.")]


def _several(words: str) -> Parameter:
    return Parameter(negative="", help=f"{words}; repeatable.")


def events(
    *,
    zone: Annotated[str | None, Parameter(help="Of this zone's log; of global's when left out.")] = None,
    all_logs: Annotated[bool, Parameter(name=["--all", "-A"], negative="", help="Of every log, by time.")] = False,
    kind: Annotated[tuple[str, ...], _several("Only of this kind of resource (mes, …) or change")] = (),
    name: Annotated[tuple[str, ...], _several("Only about what is called so; may hold * and ?")] = (),
    mesh: Annotated[tuple[str, ...], Parameter(name=["--mesh", "-m"], negative="", help="Only of this mesh.")] = (),
    actor: Annotated[tuple[str, ...], _several("Only written by this one; may hold * and ?")] = (),
    since: Annotated[str | None, Parameter(help="Only from this time on: RFC 3339, or 10m, 2h, 3d ago.")] = None,
    until: Annotated[str | None, Parameter(help="Only up to this time, or this event (its number).")] = None,
    after: Annotated[int | None, Parameter(help="Only events after this one.")] = None,
    limit: Annotated[int | None, Parameter(help="The newest so many.")] = None,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", help="Go on as they happen.")] = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Show events, a line each with what it changed; the newest when there are more than --limit."""
    if follow and (source.is_offline or all_logs or until is not None):
        raise CommandFailed("--follow goes on with one log of a running system, without an end", ExitCode.USAGE)
    if limit is not None and not 1 <= limit <= LIMIT_MAX:
        raise CommandFailed(f"--limit is from 1 to {LIMIT_MAX}", ExitCode.USAGE)
    ends = until is not None and until.isascii() and until.isdigit() and len(until) <= 15
    try:
        asked = Asked(
            origins=() if all_logs else (zone or GLOBAL,),
            kinds=kind,
            names=name,
            meshes=mesh,
            actors=actor,
            since=_time(since),
            until="" if ends else _time(until),
            after=after or 0,
            upto=int(until) if ends and until else None,
            limit=limit or (FOLLOW_LIMIT if follow and after is None else LIMIT),
        )
        kinds_meant(kind)
    except NoSuchMoment as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None
    found = source.asked("/history/events", lambda history: listed(history, asked), **_query(asked))
    if follow:
        _follow(source, asked, found, output)
    if output == "table":
        printing.table(_HEADERS, [_cells(row) for row in found["items"]])
    else:
        last = found["last"]
        items = [row["whole"] for row in found["items"]]
        printing.document({"items": items, "last": last if all_logs else last[asked.origins[0]]}, output)
    return ExitCode.OK


def _time(text: str | None) -> str:
    return time_meant(text, datetime.now(UTC)) if text else ""


def _query(asked: Asked) -> dict[str, Any]:
    return {
        "origin": asked.origins or "*",
        "kind": asked.kinds,
        "name": asked.names,
        "mesh": asked.meshes,
        "actor": asked.actors,
        "since": asked.since or None,
        "until": asked.until or None,
        "after": asked.after or None,
        "upto": asked.upto,
        "limit": asked.limit,
    }


def _follow(source: Source, asked: Asked, found: dict[str, Any], output: printing.Output) -> None:
    """Print what was found and then what comes, until the stream ends. Raises CommandFailed then."""
    client = connect.client(source.api, source.token_file)
    (origin,) = asked.origins
    for row in found["items"]:
        _stream(row, output)
    last = found["last"][origin]
    for event in client.lines("/events/follow", origin=origin, after=last):
        if event["n"] > last:
            found = client.get("/history/events", **_query(asked) | {"after": last, "limit": LIMIT_MAX})
            for row in found["items"]:
                _stream(row, output)
            last = found["last"][origin]
    raise CommandFailed("the stream of events ended")


def _cells(row: dict[str, Any]) -> list[str]:
    return [row["moment"], row["time"], row["actor"], f"{row['about']}: {row['what']}"]


def _stream(row: dict[str, Any], output: printing.Output) -> None:
    if output == "table":
        printing.row(_cells(row), _WIDTHS)
    else:
        printing.item(row["whole"], output)


def show(
    event: EventName,
    *,
    proxies: Annotated[
        bool, Parameter(negative="", help="What it changed for proxies, however long that takes to compile.")
    ] = False,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Show one event: what it changed, what it was written because of, and what it led to in every zone."""
    origin, n = event_named(event)
    found = source.asked(
        f"/history/events/{origin}/{n}",
        lambda history: shown(history, origin, n, everything=proxies),
        proxies="true" if proxies else None,
    )
    if output != "table":
        printing.document(found, output)
        return ExitCode.OK
    row = found["row"]
    printing.coloured(f"event {row['moment']}: {row['about']}: {row['what']}", "bold")
    for word in ("change", "actor", "time"):
        print(f"  {word:<12} {row[word]}")
    for word in ("id", "incarnation", "seen", "cause", "prev", "payloadHash"):
        if value := row["whole"].get(word):
            print(f"  {word:<12} {value}")
    fields(found["fields"])
    _rows("because of", found["causes"])
    _rows("led to", [{**one["row"], "steps": one["steps"]} for one in found["effects"]])
    for zone in found["served"]:
        if "note" in zone:
            printing.say(f"{zone['zone']} {zone['before']} → {zone['after']}: {zone['note']}")
        else:
            differing.show(zone)
    return ExitCode.OK


def event_named(text: str) -> tuple[str, int]:
    """Origin and number of an event as people write it. Raises CommandFailed."""
    origin, _, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit() and len(number) <= 15) or ":" in origin or "/" in origin:
        raise CommandFailed(f"{text!r} is no event: give 1234 or east:57", ExitCode.USAGE)
    return origin or GLOBAL, int(number)


def fields(changes: list[dict[str, Any]]) -> None:
    """Print what differs, field by field."""
    for line in differing.field_lines(changes, "  "):
        printing.coloured(line, "red" if line.lstrip().startswith("-") else "green")


def _rows(title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        print(title)
    for row in rows:
        indent = "  " * row.get("steps", 1)
        print(f"{indent}{row['moment']}  {row['time']}  {row['actor']}  {row['about']}: {row['what']}")
