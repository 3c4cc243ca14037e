"""The FIFO that Envoy writes its access log into, read as it arrives.

The agent holds both ends (O_RDWR), so that opening never blocks, Envoy's restarts are no end of file, and a write
never meets a pipe without readers. Only Envoy's flush thread writes; when the agent falls behind it is that thread
that waits, not the workers.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from zone_cp.agent.observe import Outcomes, Transition

PIPE_BYTES = 1 << 20
READ_BYTES = 1 << 18
MAX_PARTIAL_BYTES = 1 << 16
"""A line without an end is dropped at this length."""

log = structlog.get_logger()


class AccessLog:
    """Reads `path` into `outcomes` and reports transitions, limited as `Outcomes` says."""

    def __init__(self, path: Path, outcomes: Outcomes, report: Callable[[Transition], None]) -> None:
        self._path = path
        self._outcomes = outcomes
        self._report = report
        self._descriptor = -1
        self._partial = b""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Make the FIFO (mode 0600) where there is none, and read it. Raises OSError."""
        with suppress(FileExistsError):
            os.mkfifo(self._path, 0o600)
        if not stat.S_ISFIFO(self._path.lstat().st_mode):
            raise FileExistsError(f"{self._path} exists and is not a FIFO")
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # an unprivileged user may have used up its pipe memory
            fcntl.fcntl(self._descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        asyncio.get_running_loop().add_reader(self._descriptor, self._readable)

    async def stop(self) -> None:
        """Stop reading and remove the FIFO."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            self._path.unlink(missing_ok=True)
        if self._timer is not None:
            self._timer.cancel()

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_PARTIAL_BYTES:
            log.warning("access log line dropped", length=len(self._partial))
            self._partial = b""
        self._tell(self._outcomes.feed(lines, asyncio.get_running_loop().time()))

    def _due(self) -> None:
        self._timer = None
        self._tell(self._outcomes.due(asyncio.get_running_loop().time()))

    def _tell(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            log.info(
                "destination failing" if transition.failing else "destination working",
                cluster=transition.cluster,
                reason=transition.reason,
            )
            self._report(transition)
        due = self._outcomes.next_due()
        if due is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(due, self._due)
