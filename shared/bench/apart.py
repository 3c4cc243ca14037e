"""A measurement in a process of its own: fresh memory, all of its processor time is the measurement's.

`python -m MODULE` calls `report(steps)` as it goes and `finish(figures)` last; `measure_apart` is the other end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")

_TAIL_LINES = 12
_LINE_LIMIT_BYTES = 2**20


class Died(Exception):
    """The process ended without its figures; the message is the end of what it said."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    steps: int = 0
    figures: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Line)


def report(steps: int) -> None:
    """So many further steps are done."""
    print(msgspec.json.encode({"steps": steps}).decode(), flush=True)  # noqa: T201 - the other process reads it


def finish(figures: object) -> None:
    """What was measured."""
    print(msgspec.json.encode({"figures": figures}).decode(), flush=True)  # noqa: T201 - the other process reads it


async def measure_apart(module: str, kind: type[T], step: Callable[[int], None], *arguments: str) -> T:
    """Run a module and return the figures it finished with. Raises Died."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT_BYTES, start_new_session=True,
    )  # fmt: skip
    said = asyncio.create_task(_read(child.stderr))
    try:
        while child.stdout is not None and (line := await child.stdout.readline()):
            one = _decoder.decode(line)
            step(one.steps)
            if bytes(one.figures):
                return msgspec.json.decode(one.figures, type=kind)
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()
        tail = (await said).decode(errors="replace").splitlines()[-_TAIL_LINES:]
    raise Died(f"{module} ended with {child.returncode}:\n" + "\n".join(tail))


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()
