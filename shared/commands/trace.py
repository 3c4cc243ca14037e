"""`zonal trace`: the way of one change through zones to proxies, with the time of every step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from shared.api.shown import event_body
from shared.commands import connect
from shared.commands import output as printing
from shared.commands import wait as waiting
from shared.commands.connect import Api, OutputFlag, TokenFile, Zone
from shared.commands.failure import CommandFailed
from shared.commands.source import BundleFile, Source, StoreDirectory
from shared.commands.wait import TIMEOUT_SECONDS, Timeout, Wait
from shared.events.event import GLOBAL
from shared.process.exit_code import ExitCode

_LABELS = {"sent": "sent, not answered yet", "offered": "not sent yet", "order": "has to wait"}


def trace(
    event: Annotated[str, Parameter(help="1234 (global's sequence) or east:57.")],
    *,
    wait: Wait = False,
    timeout: Timeout = TIMEOUT_SECONDS,
    bundle: BundleFile = None,
    store: StoreDirectory = None,
    zone: Zone = None,
    api: Api = None,
    token_file: TokenFile = None,
    output: OutputFlag = "table",
) -> int:
    """Show the way of one change: committed, seen by each zone, offered and sent to proxies, ACKed.

    An ACK says that a proxy's Envoy found the configuration valid. Times are those of the machines they are of. With
    --wait the exit code is 5 when it has not arrived in time, and 1 when no waiting helps. Of what is long past, and in
    a bundle or a store, times are bounds: no more is recorded.
    """
    origin, n = _named(event)
    source = Source(bundle=bundle, store=store)
    until = waiting.words(wait)
    if source.is_offline and until:
        raise CommandFailed("nothing comes of waiting in a bundle or a store", ExitCode.USAGE)
    client = connect.client(api, token_file, zone) if not source.is_offline else None
    if client is None:
        found = _from_past(source, origin, n)
    elif until:
        found = waiting.arrived(client, origin, n, until=until, timeout_seconds=timeout)
    else:
        found = client.get(waiting.path_of(origin, n))
    if output == "table":
        for line in told(found):
            print(line)
    else:
        printing.document(found, output)
    if until:
        waiting.judged(found)
    return ExitCode.OK


def _from_past(source: Source, origin: str, n: int) -> dict[str, Any]:
    from shared.history.told import told as told_of
    from shared.history.trace import past_traces

    with source.opened() as history:
        zones = msgspec.to_builtins(past_traces(history, origin, n))
        about = told_of(history.event(origin, n), None).about
        event = json.loads(event_body(history.log(origin).raw(n)))
    return {"origin": origin, "n": n, "event": event, "about": about, "zones": zones}


def _named(event: str) -> tuple[str, int]:
    origin, _, n = event.rpartition(":")
    if not (n.isascii() and n.isdigit() and len(n) <= 15):
        raise CommandFailed(f"{event} is no event: give 1234 (global's sequence) or east:57", ExitCode.USAGE)
    return origin or GLOBAL, int(n)


def told(trace: dict[str, Any]) -> Iterator[str]:
    """A small timeline per zone."""
    event = trace["event"]
    change = event.get("change") or {}
    name = trace["n"] if trace["origin"] == GLOBAL else f"{trace['origin']}:{trace['n']}"
    yield f"event {name}  {change.get('type', '')} {trace['about']}".rstrip()
    yield f"committed {event['time']} by {event['actor']}"
    for zone in trace["zones"]:
        yield ""
        yield f"{zone['zone']}  {_headline(zone)}"
        for time, text in _steps(zone, trace):
            yield f"  {_after(event['time'], time):>12}  {text}"
        for one in zone.get("missing", ()):
            state = _LABELS.get(one["state"], one["state"])
            why = f": {one['why']}" if one.get("why") else ""
            yield f"  {'missing':>12}  {one['proxy']}  {state}{why}"
        unnamed = zone.get("missingCount", 0) - len(zone.get("missing", ()))
        if unnamed:
            yield f"  {'missing':>12}  {unnamed} more"
        if zone.get("offline"):
            names = ", ".join(zone.get("offlineNames", ()))
            yield f"  {'offline':>12}  {zone['offline']}: {names} (given it when they are back)"


def _headline(zone: dict[str, Any]) -> str:
    state, online = zone["state"], zone.get("online", 0)
    match state:
        case "not seen":
            if not zone.get("saidAt"):
                return "not seen: the zone has not said anything yet"
            return f"not seen: the zone's last word is of {zone['saidAt']}, at {_moment(zone.get('position'))}"
        case _ if zone.get("recorded") and not zone.get("saidAt"):
            return f"as it is recorded, of {zone['recorded']['proxies']} proxies that were online"
        case "seen":
            return "seen, nothing offered yet"
        case "delivered":
            push = zone.get("push")
            needed = "" if push is None else f"; {push.get('touched', 0)} needed it"
            return f"delivered: all of {online} online proxies have it{needed}"
        case _:
            return f"delivering: {zone.get('missingCount', 0)} of {online} online proxies do not have it"


def _steps(zone: dict[str, Any], trace: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if zone.get("seenAt"):
        yield zone["seenAt"], "seen: the zone's copy of the log holds it"
    push = zone.get("push")
    if push is None:
        yield from _records(zone, trace["event"]["time"])
        return
    later = push["position"]["g" if trace["origin"] == GLOBAL else "z"] > trace["n"]
    together = ", together with later changes" if later else ""
    names = f": {', '.join(push['names'])}" if push.get("names") else ""
    count = push.get("touched", 0)
    touched = f"offered to {count} proxies{names}" if count else "compiled; no proxy needs anything"
    yield push["offeredAt"], f"{touched} ({_moment(push['position'])}{together})"
    if push.get("sentFirst"):
        yield push["sentFirst"], "first sent"
    if push.get("sentLast", "") > push.get("sentFirst", ""):
        yield push["sentLast"], "last sent"
    yield from _answers(push)
    if push.get("overtaken"):
        yield "", f"{push['overtaken']} were sent something newer instead"
    if push.get("gone"):
        yield "", f"{push['gone']} went offline before they had answered"


def _records(zone: dict[str, Any], committed: str) -> Iterator[tuple[str, str]]:
    record = zone.get("recorded")
    if record is None:
        if zone["state"] in ("delivering", "delivered"):
            yield "", "when it was sent and answered is not remembered any more"
        return
    if record["seenBy"]:
        yield record["seenBy"], f"seen at the latest{_not_before(record['seenAfter'], committed)}"
    for one in record["delivered"]:
        yield one["by"], f"{one['proxy']} had it at the latest{_not_before(one['after'], committed)}"
    if record["unrecordedCount"]:
        yield "", f"not recorded of {record['unrecordedCount']} proxies: {', '.join(record['unrecorded'])}"


def _not_before(time: str, committed: str) -> str:
    return f" (not yet at {_after(committed, time)})" if time > committed else ""


def _answers(push: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in sorted(push.get("types", ()), key=lambda one: str(one["last"])):
        yield one["last"], f"ACKed {one['type']}" + (f" ({one['count']} times)" if one["count"] > 1 else "")
    if push.get("ackedLast"):
        yield push["ackedLast"], "last answer"


def _moment(position: dict[str, int] | None) -> str:
    return "no moment" if position is None else f"g{position['g']}.z{position['z']}"


def _after(committed: str, time: str) -> str:
    if not time:
        return ""
    spent = datetime.fromisoformat(time) - datetime.fromisoformat(committed)
    return f"{spent.total_seconds() * 1000:+.1f} ms"
