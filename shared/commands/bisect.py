"""`zonal bisect`: the one event that made the difference, found by halving a zone's history.

With a check or a probe each moment is served by a scratch control plane to real Envoys (`zone_cp.scratch`); with a
predicate it is looked up, and no Envoy is needed. Progress and the check's own output go to stderr.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.connect import OutputFlag
from shared.commands.differing import field_lines
from shared.commands.failure import CommandFailed
from shared.commands.source import HERE, Source, ZoneName
from shared.events.event import EventRef
from shared.events.halving import Found, NotAsClaimed
from shared.events.history import History
from shared.events.state import Position
from shared.history.bisected import Suspect, Told, told
from shared.history.bisecting import SCRATCH, by_predicate, driven
from shared.history.order import mapped
from shared.history.predicate import BadPredicate
from shared.history.predicate import predicate as judge_of
from shared.history.probe import Probe
from shared.process import logs
from shared.process.exit_code import ExitCode

CHECK_SECONDS = 30.0


@Parameter(name="*")
class Trial:
    """How a check is run."""

    def __init__(
        self,
        *,
        keys: Annotated[Path | None, Parameter(help="Keys directory of the zone: secrets are opened with it.")] = None,
        endpoint_map: Annotated[
            tuple[str, ...], Parameter(negative="", help="host:port=ip:port: dial this instead; repeatable.")
        ] = (),
        timeout: Annotated[float, Parameter(help="Seconds a check may take; longer is bad.")] = CHECK_SECONDS,
        fresh: Annotated[bool, Parameter(negative="", help="Start Envoy anew for every moment.")] = False,
        envoy: Annotated[str | None, Parameter(help="The Envoy binary.")] = None,
    ) -> None:
        self.keys = keys
        self.endpoint_map = endpoint_map
        self.timeout = timeout
        self.fresh = fresh
        self.envoy = envoy


AS_USUAL = Trial()
"""No flag given."""


def bisect(
    *,
    good: Annotated[str, Parameter(help="A moment at which all was well.")],
    bad: Annotated[str | None, Parameter(help="A later one at which it was not; the last when left out.")] = None,
    check: Annotated[str | None, Parameter(help="Command: 0 is good, 125 skips, all else is bad.")] = None,
    probe: Annotated[
        str | None, Parameter(help="Instead: an URL, called as an application of the proxy would.")
    ] = None,
    expect: Annotated[int, Parameter(help="The status that is good for --probe; 0: any below 400.")] = 0,
    predicate: Annotated[str | None, Parameter(help='Instead: "hostname pay.ext resolves", … (see the docs).')] = None,
    zone: ZoneName = None,
    proxy: Annotated[str | None, Parameter(help="The proxy that the check calls, or that is looked at.")] = None,
    trial: Trial = AS_USUAL,
    source: Source = HERE,
    output: OutputFlag = "table",
) -> int:
    """Find the event between a good and a bad moment that made the difference, by a check, a probe or a predicate."""
    if sum(one is not None for one in (check, probe, predicate)) != 1:
        raise CommandFailed("give one of --check, --probe and --predicate", ExitCode.USAGE)
    if predicate is None and proxy is None:
        raise CommandFailed("a check needs a proxy to call: --proxy", ExitCode.USAGE)
    try:
        holds = None if predicate is None else judge_of(predicate, proxy)
        request = None if probe is None else Probe(url=probe, expect=expect)
    except (BadPredicate, ValueError) as reason:
        raise CommandFailed(str(reason), ExitCode.USAGE) from None
    with source.opened() as history:
        zone = history.meant(zone, good, bad)
        ends = history.position(zone, good), history.position(zone, bad)
        try:
            if holds is not None:
                found = asyncio.run(driven(history, zone, ends, by_predicate(history, zone, holds), printing.say))
            else:
                wanted = request or check or ""
                asked = partial(_asked, zone=zone, proxy=proxy or "", check=wanted, trial=trial)
                found = _interruptible(_by_check(history, zone, ends, asked))
        except NotAsClaimed as reason:
            raise CommandFailed(str(reason), ExitCode.REFUSED) from None
        return _tell(told(history, zone, found), output)


async def _by_check(history: History, zone: str, ends: tuple[Position, Position], asked: Callable[[Any], Any]) -> Found:
    logs.configure("critical")
    scratch: Any = importlib.import_module(SCRATCH)
    try:
        plane = scratch.ScratchPlane(history, asked(scratch), printing.say)
        async with plane:
            return await driven(history, zone, ends, plane.judge, printing.say)
    except scratch.SCRATCH_FAULTS as fault:
        raise CommandFailed(str(fault)) from None


def _tell(ended: Told, output: printing.Output) -> int:
    """Print the event, or the events that are left."""
    if output != "table":
        printing.document(ended.plain(), output)
        return ExitCode.OK if ended.count == 1 else ExitCode.FAILED
    if ended.count > 1:
        print(f"one of these {ended.count} events; no moment between them could be judged:")
    for one in ended.events:
        _print(one)
    print(f"good at {ended.good}, bad at {ended.bad}: {ended.reason}")
    return ExitCode.OK if ended.count == 1 else ExitCode.FAILED


def _print(one: Suspect) -> None:
    event = one.event
    print(f"{EventRef(event.origin, event.n)} by {event.actor} at {event.time}")
    for change in one.changes:
        print(f"  {change.kind} {change.name}")
        for line in field_lines([field.plain() for field in change.fields], "    "):
            print(line)
    if event.cause:
        print(f"  because of {event.cause}")


def _asked(scratch: Any, *, zone: str, proxy: str, check: str | Probe, trial: Trial) -> Any:
    return scratch.Asked(
        zone=zone,
        proxy=proxy,
        check=check,
        timeout_seconds=trial.timeout,
        endpoints=dict(_mapped(text) for text in trial.endpoint_map),
        keyring=None if trial.keys is None else scratch.keyring_of(trial.keys, zone),
        anew=trial.fresh,
        envoy=trial.envoy,
    )


def _mapped(text: str) -> tuple[tuple[str, int], tuple[str, int]]:
    old, _, new = text.partition("=")
    try:
        return mapped(old, new)
    except ValueError:
        raise CommandFailed(f"--endpoint-map {text!r} is not host:port=ip:port", ExitCode.USAGE) from None


def _interruptible(search: Any) -> Found:
    """Run to the end; Ctrl-C and SIGTERM end it in order, with everything it started."""

    async def run() -> Found:
        task = asyncio.ensure_future(search)
        for one in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(one, task.cancel)
        try:
            found: Found = await task
        except asyncio.CancelledError:
            raise CommandFailed("interrupted; everything that was started is gone") from None
        return found

    return asyncio.run(run())
