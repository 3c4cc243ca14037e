"""Waiting until a change has arrived: `--wait` of `zonal apply`, `delete` and `trace`."""

from __future__ import annotations

import time
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.client import ApiRefused, Client
from shared.commands.failure import CommandFailed
from shared.events.event import GLOBAL
from shared.process.exit_code import ExitCode

TIMEOUT_SECONDS = 60.0
ASK_SECONDS = 20.0
"""How long the API is let look for news in one request."""
AGAIN_SECONDS = 0.5
"""Pause before an API is asked again that could not be reached: the change is in its log, whatever happens to it."""
ALL = "all"

Wait: TypeAlias = Annotated[
    bool | str,
    Parameter(
        negative="",
        requires_equals=True,
        help="Wait until it has arrived: all (every online proxy has ACKed it), zones (every zone has seen it), "
        "names of zones (their proxies), offline (with all or names: offline proxies too).",
    ),
]
Timeout: TypeAlias = Annotated[float, Parameter(help="Seconds to wait at most.")]


def path_of(origin: str, n: int) -> str:
    """Where the trace of an event is."""
    return f"/history/trace/{quote(origin, safe='')}/{n}"


def words(wait: bool | str) -> str:
    """What is waited for, in the API's words; "" for nothing."""
    return wait if isinstance(wait, str) else ALL if wait else ""


def own_origin(client: Client) -> str:
    """The origin of what the API of a plane writes."""
    return client.get("/").get("zone") or GLOBAL


def arrived(client: Client, origin: str, n: int, *, until: str, timeout_seconds: float) -> dict[str, Any]:
    """The trace of an event when all of `until` has come about, nothing more comes by waiting, or time is up.

    What happens meanwhile is told on stderr. Raises CommandFailed.
    """
    ends = time.monotonic() + timeout_seconds
    known, told = "", dict[str, str]()
    while True:
        left = ends - time.monotonic()
        milliseconds = max(0, round(min(left, ASK_SECONDS) * 1000))
        try:
            trace: dict[str, Any] = client.get(path_of(origin, n), until=until, waitMs=milliseconds, known=known)
        except ApiRefused:
            raise
        except CommandFailed:
            if left <= AGAIN_SECONDS:
                raise
            time.sleep(AGAIN_SECONDS)
            continue
        known = trace["revision"]
        for zone in trace["zones"]:
            said = _brief(zone)
            if told.get(zone["zone"]) != said:
                told[zone["zone"]] = said
                printing.say(f"{zone['zone']}: {said}")
        if not trace["missing"] or trace["stuck"] or left <= 0:
            return trace


def _brief(zone: dict[str, Any]) -> str:
    missing = zone.get("missingCount", 0)
    if not missing:
        return str(zone["state"])
    return f"{zone['state']}, {missing} of {zone.get('online', 0)} proxies missing"


def judged(trace: dict[str, Any]) -> None:
    """Raises CommandFailed naming who is missing: with code 5, or 1 where no waiting helps."""
    if not trace["missing"]:
        return
    code = ExitCode.FAILED if trace["stuck"] else ExitCode.TIMEOUT
    why = "is not delivered, and waiting does not help" if trace["stuck"] else "is not delivered in time"
    name = trace["n"] if trace["origin"] == GLOBAL else f"{trace['origin']}:{trace['n']}"
    raise CommandFailed("\n".join([f"event {name} {why}; missing:", *(f"  {one}" for one in trace["missing"])]), code)
