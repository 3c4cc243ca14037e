"""Making a probe (`shared.history.probe`) at a scratch proxy's listeners."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from shared.events.halving import Verdict
from shared.history.probe import Probe
from zone_cp.scratch.check import listener_of
from zone_cp.scratch.moved import HOST, Reached

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r|\n)")


async def run(
    probe: Probe, listeners: Mapping[str, int], services: Sequence[Reached], timeout_seconds: float
) -> Verdict:
    """Ask, and judge by the status of the answer. No such service at that moment, no answer, or not in time is bad."""
    wanted = probe.host.rstrip(".")
    ports = [
        listeners[name]
        for one in services
        if probe.port == one.port and wanted in (*one.hostnames, one.vip) and (name := listener_of(one)) in listeners
    ]
    if not ports:
        return Verdict("bad", f"nothing is called {wanted}:{probe.port}")
    try:
        async with asyncio.timeout(timeout_seconds):
            status = await _asked(probe, ports[0])
    except TimeoutError:
        return Verdict("bad", f"no answer within {timeout_seconds:g} s")
    except OSError as error:
        return Verdict("bad", f"no answer: {error.strerror or error}")
    if status is None:
        return Verdict("bad", "the connection ended without an answer of HTTP/1")
    return Verdict("good" if probe.is_good(status) else "bad", f"the answer is {status}")


async def _asked(probe: Probe, port: int) -> int | None:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(probe.request)
        await writer.drain()
        with suppress(ValueError):  # a line without an end
            found = _STATUS.match(await reader.readline())
            return int(found[1]) if found else None
        return None
    finally:
        writer.close()
