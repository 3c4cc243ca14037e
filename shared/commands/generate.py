"""`zonal generate history`: the long past of a made-up deployment, to measure and try the debugger on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress
from shared.history.generate import Size, generated
from shared.process.collector import collector_paused
from shared.process.exit_code import ExitCode


def history(
    *,
    store: Annotated[Path, Parameter(help="A new directory: a JetStream store, as of a hub's nats-server.")],
    events: Annotated[int, Parameter(help="How many events, over all logs.")] = 1_000_000,
    resources: Annotated[int, Parameter(help="How many resources there are.")] = 10_000,
    proxies: Annotated[int, Parameter(help="How many proxies there are, in two zones.")] = 1_000,
    seed: Annotated[int, Parameter(help="Equal seeds give equal bytes.")] = 1,
) -> int:
    """Write the past of a made-up deployment: the same for the same sizes and seed."""
    from shared.history.fill import fill_store
    from shared.history.store import STORE_FAULTS

    size = Size(events=events, resources=resources, proxies=proxies)
    try:
        with progress() as told, collector_paused():
            asyncio.run(fill_store(store, generated(size, seed), events, told))
    except ValueError as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None
    except FileExistsError:
        raise CommandFailed(f"{store} is there already", ExitCode.USAGE) from None
    except STORE_FAULTS as error:
        raise CommandFailed(f"cannot write {store}: {error}") from None
    printing.say(f"{events} events are in {store}")
    return ExitCode.OK
