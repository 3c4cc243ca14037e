"""Where a debugger's command takes the past from: a store's copy, a bundle, or a running system. The flags for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from shared.commands import connect
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress
from shared.events.history import History, NoSuchMoment
from shared.process.collector import collector_paused
from shared.process.exit_code import ExitCode

Store: TypeAlias = Annotated[
    Path | None, Parameter(help="JetStream directory of a nats-server; the deployment's hub by default.")
]
ZoneName: TypeAlias = Annotated[
    str | None, Parameter(help="The zone; may be left out when there is one, or with east:57.")
]
Moment: TypeAlias = Annotated[
    str | None, Parameter(help="1234 (global's sequence), east:57, or a time; the last when left out.")
]


@contextmanager
def opened(store: Path | None) -> Iterator[History]:
    """The history that the flags name. Inside, a moment that never was ends the command with what there is."""
    with collector_paused():
        try:
            yield _from_store(store or _default_store())
        except NoSuchMoment as error:
            raise CommandFailed(str(error), ExitCode.REFUSED) from None


def _from_store(place: Path) -> History:
    if not place.is_dir():
        raise CommandFailed(f"{place} is no directory", ExitCode.USAGE)
    from shared.history.store import STORE_FAULTS, open_store

    try:
        with progress() as told:
            return asyncio.run(open_store(place, told))
    except STORE_FAULTS as error:
        raise CommandFailed(f"cannot read the store {place}: {error}") from None


def _default_store() -> Path:
    known = connect.current().store
    if not known:
        raise CommandFailed("the context names no store; give --store with a nats-server's directory", ExitCode.USAGE)
    return Path(known)
