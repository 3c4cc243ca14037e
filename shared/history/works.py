"""Long work that a plane has done in processes of its own: one at a time, bounded in time, to be watched and cancelled.

The plane only starts them and reads what they say (`work`). A process ends when its input does, so that none outlives
the plane, and is killed with all of its session where it does not end in time.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from shared.history.order import Job, Order, Plane, Word
from shared.process.settings import GlobalSettings, ZoneSettings
from shared.process.writer import event_time

WORK_SECONDS = 1_800.0
END_SECONDS = 20.0
"""What a process may take to end once it was told to: Envoys have to be ended."""
KEPT = 8
"""Works that are told of, the newest; what older ones made is removed."""
REMARKS_KEPT = 200
WORD_BYTES_MAX = 16 << 20
STDERR_BYTES_TOLD = 2_000
PROGRAM = (sys.executable, "-P", "-m", "shared.history.work")

Standing: TypeAlias = Literal["running", "done", "failed", "cancelled"]


class Busy(Exception):
    """Something is being done already; the message says what."""


class Told(msgspec.Struct, frozen=True, rename="camel"):
    """One work as it stands. progress: what is done, how much of it, of how much; made: size in bytes of the file that
    it made, 0 for none.
    """

    id: str
    order: Order
    actor: str
    standing: Standing
    started: str
    ended: str
    progress: tuple[str, int, int] | None
    remarks: Sequence[str]
    result: Any
    fault: str
    made: int


class _Work:
    def __init__(self, order: Order, actor: str, file: Path) -> None:
        self.id = file.name
        self.order, self.actor, self.file = order, actor, file
        self.standing: Standing = "running"
        self.started, self.ended = event_time(), ""
        self.progress: tuple[str, int, int] | None = None
        self.remarks: deque[str] = deque(maxlen=REMARKS_KEPT)
        self.result: Any = None
        self.fault = ""
        self.task: asyncio.Task[None] | None = None

    def take(self, word: Word) -> None:
        self.progress = word.progress or self.progress
        if word.remark:
            self.remarks.append(word.remark)
        if word.result is not None:
            self.standing, self.result = "done", word.result
        if word.fault:
            self.standing, self.fault = "failed", word.fault

    def told(self) -> Told:
        made = self.file.stat().st_size if self.standing == "done" and self.file.exists() else 0
        return Told(
            self.id, self.order, self.actor, self.standing, self.started, self.ended,
            self.progress, list(self.remarks), self.result, self.fault, made,
        )  # fmt: skip


class Works:
    """What is done for a plane. directory: its own, emptied at the first work of a process's life."""

    def __init__(
        self,
        plane: Plane,
        directory: Path,
        *,
        program: Sequence[str] = PROGRAM,
        seconds: float = WORK_SECONDS,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self.zone = plane.zone
        self._plane = plane
        self._directory = directory
        self._program, self._seconds, self._end_seconds = program, seconds, end_seconds
        self._works: OrderedDict[str, _Work] = OrderedDict()

    @classmethod
    def of(cls, settings: GlobalSettings | ZoneSettings, zone: str = "") -> Works:
        """What is done for the plane with these settings; zone: which, "" for global."""
        plane = Plane(zone, settings.nats_url, settings.nats_credentials, settings.nats_ca, settings.keys_dir)
        return cls(plane, Path(settings.data_dir) / "tasks")

    def start(self, order: Order, actor: str) -> Told:
        """Begin. Raises Busy, OSError."""
        if running := next((one for one in self._works.values() if one.standing == "running"), None):
            raise Busy(f"{running.id} of {running.actor} is running: wait for it, or cancel it")
        if not self._works:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = _Work(order, actor, self._directory / secrets.token_hex(8))
        self._works[work.id] = work
        while len(self._works) > KEPT:
            _, oldest = self._works.popitem(last=False)
            oldest.file.unlink(missing_ok=True)
        work.task = asyncio.ensure_future(self._run(work))
        return work.told()

    def all(self) -> list[Told]:
        """Every work that is told of, the newest last."""
        return [work.told() for work in self._works.values()]

    def one(self, name: str) -> Told | None:
        """One of them."""
        work = self._works.get(name)
        return None if work is None else work.told()

    async def ended(self, name: str, seconds: float) -> Told | None:
        """One of them once it has ended, or after so long."""
        work = self._works.get(name)
        if work is None:
            return None
        if work.task is not None and not work.task.done():
            await asyncio.wait((work.task,), timeout=seconds)
        return work.told()

    async def cancel(self, name: str) -> Told | None:
        """End it, with all that it started; one that has ended stays as it is."""
        work = self._works.get(name)
        if work is None:
            return None
        if work.task is not None and work.standing == "running":
            work.task.cancel()
            await asyncio.wait((work.task,))
        return work.told()

    def made(self, name: str) -> Path | None:
        """The file that it made."""
        found = self.one(name)
        return self._works[name].file if found is not None and found.made else None

    async def _run(self, work: _Work) -> None:
        with tempfile.TemporaryFile() as said:
            try:
                child = await asyncio.create_subprocess_exec(
                    *self._program,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=said,
                    start_new_session=True,
                    limit=WORD_BYTES_MAX,
                )
                try:
                    async with asyncio.timeout(self._seconds):
                        await self._watch(child, work)
                finally:
                    await self._end(child)
            except asyncio.CancelledError:
                work.standing, work.fault = "cancelled", "cancelled"
            except TimeoutError:
                work.standing, work.fault = "failed", f"it was not done within {self._seconds:g} s"
            except (OSError, ValueError, msgspec.DecodeError) as error:
                work.standing, work.fault = "failed", f"its process cannot be run: {error}"
            if work.standing == "running":
                work.standing, work.fault = "failed", f"its process ended without a word: {_tail(said)}"
        if work.standing != "done":
            work.file.unlink(missing_ok=True)
        work.ended = event_time()

    async def _watch(self, child: asyncio.subprocess.Process, work: _Work) -> None:
        if child.stdin is None or child.stdout is None:
            raise OSError("no pipes")
        job = Job(self._plane, work.order, str(work.file.resolve()))
        child.stdin.write(msgspec.json.encode(job) + b"\n")
        await child.stdin.drain()
        async for line in child.stdout:
            work.take(msgspec.json.decode(line, type=Word))

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        if child.stdin is not None:
            child.stdin.close()
        try:
            async with asyncio.timeout(self._end_seconds):
                await child.wait()
        except TimeoutError:
            pass
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()


def _tail(said: Any) -> str:
    said.seek(0, os.SEEK_END)
    said.seek(max(0, said.tell() - STDERR_BYTES_TOLD))
    text: str = said.read().decode(errors="replace").strip()
    return text or "it said nothing"
