"""Processes of the demo: started as production would, stopped in reverse order, never left behind."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

_PR_SET_PDEATHSIG = 1
STOP_SECONDS = 10
READY_SECONDS = 60
LINGER_SECONDS = 2.0


class NotReady(Exception):
    """A process ended, or took too long, before it was ready; the message ends with its last log lines."""


def _die_with_parent() -> None:
    # Even a kill -9 of the demo leaves nothing behind: the kernel ends the children.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Process:
    """One child and its log file."""

    def __init__(self, name: str, child: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.child = child
        self.log = log

    @property
    def pid(self) -> int:
        """Process id."""
        return self.child.pid

    def tail(self, lines: int = 12) -> str:
        """The end of its log, for error messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL if it does not end in STOP_SECONDS."""
        if self.child.returncode is None:
            with suppress(ProcessLookupError):
                self.child.terminate()
            try:
                await asyncio.wait_for(self.child.wait(), STOP_SECONDS)
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        with suppress(ProcessLookupError):
            self.child.kill()
        await self.child.wait()


class Processes:
    """All children of one run, as an async context: leaving it stops them, last started first."""

    def __init__(self, log_directory: Path) -> None:
        self._directory = log_directory
        self._running: list[Process] = []

    async def __aenter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._running:
            await self._running.pop().stop()

    async def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        ready: Callable[[], Awaitable[bool]],
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
    ) -> Process:
        """Start a child and wait until `ready` says so. Raises NotReady, also when that is so before it is started.

        output: a file descriptor for what it writes, where somebody reads along; its log file otherwise.
        """
        await self._free(name, ready)
        log = self._directory / f"{name}.log"
        with log.open("ab") as file:
            child = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file if output is None else output,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                preexec_fn=_die_with_parent,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then stops them in order
            )
        process = Process(name, child, log)
        self._running.append(process)
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not await ready():
                    if child.returncode is not None:
                        raise NotReady(f"{name} ended with {child.returncode}:\n{process.tail()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise NotReady(f"{name} was not ready in {READY_SECONDS} s:\n{process.tail()}") from None
        return process

    async def _free(self, name: str, ready: Callable[[], Awaitable[bool]]) -> None:
        # Another's readiness would be taken for ours. A child of a process that was just killed may linger a moment.
        deadline = time.monotonic() + LINGER_SECONDS
        while await ready():
            if time.monotonic() > deadline:
                raise NotReady(f"{name}: address already in use, by a process that is not of this system")
            await asyncio.sleep(0.05)

    async def stop(self, process: Process) -> None:
        """Stop one of them early."""
        self._running.remove(process)
        await process.stop()


async def check_free(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Raises NotReady, naming every address that somebody else listens at and what to do. Names: what it is for."""
    deadline = time.monotonic() + LINGER_SECONDS
    while used := [f"{host}:{port} ({what})" for what, (host, port) in addresses.items() if _is_used(host, port)]:
        if time.monotonic() > deadline:
            raise NotReady(
                f"address already in use: {', '.join(used)}. Stop what listens there, such as another demo, "
                "or choose other ports with --base-port"
            )
        await asyncio.sleep(0.05)


def _is_used(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections may linger
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def listening(
    port: int, host: str = "127.0.0.1", make_socket: Callable[[], socket.socket] = socket.socket
) -> Callable[[], Awaitable[bool]]:
    """Readiness: something accepts connections on `port`, as a socket of `make_socket` sees it."""

    async def check() -> bool:
        with make_socket() as probe:
            probe.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(probe, (host, port))
            except OSError:
                return False
        return True

    return check
