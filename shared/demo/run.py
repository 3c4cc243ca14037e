"""`zonal demo` and `zonal up`: start the system, tell the story or stay, leave nothing behind."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from shared.commands.failure import CommandFailed
from shared.commands.output import Output
from shared.demo.looking import eventually
from shared.demo.namespace_story import NamespaceStory
from shared.demo.namespaces import Namespaces, Unavailable
from shared.demo.narration import Narrator, Step, StepFailed
from shared.demo.placement import ZONES
from shared.demo.processes import NotReady
from shared.demo.story import Story
from shared.demo.system import System
from shared.keys.deployment import PLAN, load
from shared.keys.ports import DEFAULT_BASE
from shared.process.exit_code import ExitCode

UP_DIRECTORY = Path(".zonal")
_PAYMENTS = "payments.ext.mesh"


def run(*, base_port: int | None, directory: Path | None, netns: bool = False, output: Output = "table") -> int:
    """Tell the story; returns the exit code. A directory of its own is removed unless a step failed.

    Raises CommandFailed when it cannot run from base_port on in that directory.
    """
    base = _base(base_port, directory)
    place = directory or Path(tempfile.mkdtemp(prefix="zonal-demo-"))
    narrator = Narrator(output)

    async def tell() -> int:
        try:
            async with System(place, base, Namespaces(base) if netns else None) as system:
                with narrator.step("Start everything, each as a process of its own") as step:
                    await _start(system, step)
                await (NamespaceStory if netns else Story)(system, narrator).tell()
        except StepFailed:
            narrator.line(f"logs of every process are in {place / 'logs'}")
            return ExitCode.FAILED
        except Unavailable as error:
            sys.stderr.write(f"zonal demo --netns: {error}\n")
            if directory is None:
                shutil.rmtree(place, ignore_errors=True)
            return ExitCode.FAILED
        return ExitCode.OK

    code = _interruptible(tell)
    if directory is None and code in (ExitCode.OK, _INTERRUPTED):
        shutil.rmtree(place, ignore_errors=True)
    return code


def up(*, base_port: int | None, directory: Path | None) -> int:
    """Start the system, print what to try, stay until Ctrl-C. Raises CommandFailed as `run` does."""
    place = (directory or UP_DIRECTORY).absolute()
    base = _base(base_port, place)
    console = Console(highlight=False)
    if (place / PLAN).exists():
        console.print(f"taking up the deployment in {place}")

    async def stay() -> int:
        async with System(place, base) as system:
            narrator = Narrator("table")
            try:
                with narrator.step("Start everything, each as a process of its own") as step:
                    await _start(system, step)
                await Story(system, narrator).prologue()
                hints = await _hints(system)
            except StepFailed:
                console.print(f"logs of every process are in {place / 'logs'}")
                return ExitCode.FAILED
            console.print(hints, soft_wrap=True)
            await asyncio.Event().wait()
        return ExitCode.OK

    code = _interruptible(stay)
    return ExitCode.OK if code == _INTERRUPTED else code


def _base(base_port: int | None, directory: Path | None) -> int:
    """The base port that is asked for, or else that of the demo's deployment in the directory. Raises CommandFailed."""
    try:
        known = load(directory) if directory else None
        base = base_port or (known.plan.base_port if known else DEFAULT_BASE)
        System(directory or UP_DIRECTORY, base)
    except ValueError as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None
    if known and (known.plan.base_port != base or known.plan.zones[: len(ZONES)] != ZONES):
        raise CommandFailed(
            f"{directory} holds a deployment of zones {', '.join(known.plan.zones)} from base port "
            f"{known.plan.base_port}: name another directory with --directory",
            ExitCode.REFUSED,
        )
    try:
        if directory:
            (directory / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"cannot write to {directory}: {error.strerror}") from None
    return base


_INTERRUPTED = 130
"""128 + SIGINT, the shell's convention."""


def _interruptible(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run until done, SIGINT or SIGTERM; on a signal every context is left properly, so processes are stopped."""

    async def main() -> int:
        task = asyncio.ensure_future(work())
        asked: list[int] = []

        def stop() -> None:
            # Once: a second Ctrl-C must not end the ending, which is bounded and leaves nothing behind.
            if not asked:
                task.cancel()
            asked.append(1)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        with suppress(asyncio.CancelledError):
            return await task
        return _INTERRUPTED

    return asyncio.run(main())


async def _start(system: System, step: Step) -> None:
    system.prepare()
    step.say(f"keys, certificates and configuration are in {system.directory}")
    try:
        await system.start_control_planes()
        step.check("hub and leaf NATS servers, global and both zones are up", f"API on {system.ports.api}", ok=True)
        await system.start_services()
        step.check("external services are up", f"ports from {system.services.base}", ok=True)
        await system.start_proxies()
        step.check("a sidecar and a zone egress per zone are up", "4 Envoys", ok=True)
    except NotReady as error:
        raise StepFailed("every process is up", str(error)) from error


async def _hints(system: System) -> str:
    """What to try, all of it with addresses and commands that are there."""
    lines = ["", "[bold]It runs.[/bold] In another terminal, in this directory:", ""]
    if shutil.which("zonal") is None:
        lines.append(f'  export PATH="{Path(sys.prefix) / "bin"}:$PATH"   # where zonal is')
    lines += [
        "  zonal get meshexternalservices",
        "  zonal events --follow",
        "  zonal inspect",
        "  zonal inspect .egress --zone east",
    ]
    for zone in ZONES:
        lines.append(f"  dig @127.0.0.1 -p {system.dns_port(zone)} +short {_PAYMENTS}   # asks {zone}'s sidecar")
    for zone in ZONES:
        vip = await eventually(partial(system.resolve, zone, _PAYMENTS), bool, f"{_PAYMENTS} resolves in {zone}")
        lines.append(f"  curl http://{vip}:8443/   # payments, as {zone}'s application calls it")
    lines += ["", "Debian's package bind9-dnsutils has dig. web answers on port 8080 of an address of its own."]
    lines += ["Ctrl-C stops everything."]
    return "\n".join(lines)
