"""Where a debugger's command takes the past from: a store's copy, a bundle, or a running system. The flags for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from shared.commands import connect
from shared.commands import output as printing
from shared.commands.client import ApiRefused
from shared.commands.failure import CommandFailed
from shared.commands.progress import progress
from shared.events.history import History, NoSuchMoment
from shared.events.index import DamagedLog
from shared.model import codec
from shared.process.collector import collector_paused
from shared.process.exit_code import ExitCode

ZoneName = Annotated[str | None, Parameter(help="The zone; may be left out when there is one, or with east:57.")]
Moment = Annotated[str | None, Parameter(help="1234 (global's sequence), east:57, or a time; the last when left out.")]
BundleFile = Annotated[Path | None, Parameter(help="A file that `zonal bundle export` wrote.")]
StoreDirectory = Annotated[Path | None, Parameter(help="JetStream directory of a nats-server; read from a copy.")]


@Parameter(name="*")
class Source:
    """The flags. Named ones win in the order bundle, store, live; without any it is the context's store, else live."""

    def __init__(
        self,
        *,
        bundle: BundleFile = None,
        store: StoreDirectory = None,
        live: Annotated[bool, Parameter(negative="", help="Ask the running system, not its store.")] = False,
        api: connect.Api = None,
        token_file: connect.TokenFile = None,
    ) -> None:
        self.bundle = bundle
        self.store = store
        self.live = live or api is not None
        self.api = api
        self.token_file = token_file

    @property
    def is_offline(self) -> bool:
        """Whether a flag names a file or directory."""
        return self.bundle is not None or self.store is not None

    def asked(self, path: str, question: Callable[[History], Any], **query: Any) -> Any:
        """What the API says at `path`, or what `question` finds in the file or directory that a flag names, or in the
        context's store where no API answers. Plain data. Raises CommandFailed.
        """
        if not self.is_offline:
            client = connect.client(self.api, self.token_file)
            try:
                return known(lambda: client.get(path, **query))
            except CommandFailed as failed:
                if failed.code != ExitCode.FAILED or self.live or not connect.current().store:
                    raise
                printing.say(f"{failed.message}; its store is read instead")
        with self.opened() as history:
            return codec.to_plain(question(history))

    @contextmanager
    def opened(self) -> Iterator[History]:
        """The history. Inside, a moment that never was ends the command with what there is. Raises CommandFailed."""
        with collector_paused():
            try:
                yield self._history()
            except NoSuchMoment as error:
                raise CommandFailed(str(error), ExitCode.REFUSED) from None

    def _history(self) -> History:
        if self.bundle is not None:
            return _from_bundle(self.bundle)
        if self.store is not None:
            return _from_store(self.store)
        known = connect.current().store
        if known and not self.live:
            return _from_store(Path(known))
        return self._from_api()

    def _from_api(self) -> History:
        from shared.history.live import BrokeOff, open_live

        client = connect.client(self.api, self.token_file)
        try:
            with progress() as told:
                return open_live(client, told)
        except (BrokeOff, DamagedLog, OSError) as error:
            raise CommandFailed(f"cannot read the past from {client.api}: {error}") from None


def known(ask: Callable[[], Any]) -> Any:
    """An answer of the API about the past; what never was is the question's fault. Raises CommandFailed."""
    try:
        return ask()
    except ApiRefused as refused:
        if refused.status != 404:
            raise
        raise CommandFailed(str(refused.problem.get("detail") or refused.message), ExitCode.REFUSED) from None


HERE = Source()
"""No flag given."""


def _from_store(place: Path) -> History:
    if not place.is_dir():
        raise CommandFailed(f"{place} is no directory", ExitCode.USAGE)
    from shared.history.store import STORE_FAULTS, open_store

    try:
        with progress() as told:
            return asyncio.run(open_store(place, told))
    except STORE_FAULTS as error:
        raise CommandFailed(f"cannot read the store {place}: {error}") from None


def _from_bundle(file: Path) -> History:
    from shared.history.bundle import BundleFault, open_bundle

    try:
        with progress() as told:
            return open_bundle(file, told)[0]
    except BundleFault as error:
        raise CommandFailed(str(error), ExitCode.REFUSED) from None
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror or error}", ExitCode.USAGE) from None
