"""`zonal generate`: tokens of a deployment, and the long past of a made-up one to measure and try the debugger on."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shared.commands import output as printing
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress
from shared.history.generate import Size, generated
from shared.process.collector import collector_paused
from shared.process.exit_code import ExitCode

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def user_token(
    *,
    name: Annotated[str, Parameter(help="Whom events of this token's writes name as their actor.")],
    role: Annotated[tuple[str, ...], Parameter(negative="", help="admin may write; without, it reads only.")] = (),
    mesh: Annotated[
        tuple[str, ...], Parameter(negative="", help="Reads this mesh only, now and in the past; repeatable.")
    ] = (),
    zone: Annotated[
        tuple[str, ...], Parameter(negative="", help="Reads this zone only, now and in the past; repeatable.")
    ] = (),
    valid_for: Annotated[str, Parameter(help="How long it counts: 30m, 24h, 7d.")] = "24h",
    directory: Annotated[Path, Parameter(help="What `zonal init` laid out; it holds the signing key.")] = Path(
        ".zonal"
    ),
) -> int:
    """Print a token for the API. It can be limited to some meshes and zones: then nothing else is there for it."""
    from shared.events.event import GLOBAL
    from shared.keys.directory import KeysDirectory
    from shared.keys.files import KeyFileError

    found = _DURATION.fullmatch(valid_for)
    if found is None:
        raise CommandFailed(f'--valid-for "{valid_for}" is not a number and one of s, m, h, d', ExitCode.USAGE)
    seconds = int(found[1]) * _SECONDS[found[2]]
    try:
        issuer = KeysDirectory(directory / GLOBAL / "keys", GLOBAL).token_issuer()
        print(issuer.user_token(name, role, seconds, meshes=mesh, zones=zone))
    except KeyFileError as error:
        raise CommandFailed(str(error)) from None
    except ValueError as error:
        raise CommandFailed(str(error), ExitCode.USAGE) from None
    return ExitCode.OK


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
