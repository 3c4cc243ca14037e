"""A check: any command, run beside a scratch plane. Its exit code is the verdict, as with `git bisect run`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from shared.events.halving import Verdict
from zone_cp.scratch.moved import HOST, Reached

SKIP = 125
"""Exit code of a check that cannot judge."""
ABORT_ABOVE = 127
"""A check that ends with more was killed: that is no verdict."""
SERVICES_IN_ENVIRONMENT = 1_000
PREFIX = "ZONAL_BISECT_"


class CheckFailed(Exception):
    """The check came to no verdict at all: it was killed."""


def environment(
    listeners: Mapping[str, int], services: Sequence[Reached], curl: Path, more: Mapping[str, str]
) -> dict[str, str]:
    """What a check finds in its environment, beside the caller's own.

    HOST; PORT_<listener> for every listener, PORT_<service> for external services (letters, digits, `_`); CURL, a file
    for `curl -K` by which services are called by their hostnames; and `more` (AT, ADMIN, DNS, …).
    """
    found = {"HOST": HOST, "CURL": str(curl), **more}
    for name, port in list(listeners.items())[:SERVICES_IN_ENVIRONMENT]:
        found[f"PORT_{_word(name)}"] = str(port)
    for one in services[:SERVICES_IN_ENVIRONMENT]:
        if (port_of := listeners.get(listener_of(one))) is not None:
            found[f"PORT_{_word(one.name)}"] = str(port_of)
    return {PREFIX + name: value for name, value in found.items()}


def curl_file(listeners: Mapping[str, int], services: Sequence[Reached]) -> str:
    """Lines for `curl -K`: the services' hostnames and VIPs lead to the scratch listeners, and no proxy is asked."""
    lines = ['noproxy = "*"']
    for one in services:
        port = listeners.get(listener_of(one))
        lines += [
            f'connect-to = "{name}:{one.port}:{HOST}:{port}"' for name in (*one.hostnames, one.vip) if port is not None
        ]
    return "\n".join(lines) + "\n"


async def run(command: str, variables: Mapping[str, str], timeout_seconds: float) -> Verdict:
    """Run the check by `/bin/sh -c`, its output to stderr: 0 is good, 125 skips, anything else is bad.

    It is killed with all it started when time is up, which is bad, or when this task is cancelled. Raises CheckFailed.
    """
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        command,
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            code = await child.wait()
    except TimeoutError:
        return Verdict("bad", f"the check did not end within {timeout_seconds:g} s")
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        if child.returncode is None:
            await child.wait()
    match code:
        case 0:
            return Verdict("good", "the check passed")
        case _ if code == SKIP:
            return Verdict("skip", "the check skipped it (125)")
        case _ if code < 0 or code > ABORT_ABOVE:
            raise CheckFailed(f"the check was killed (exit code {code}): that is no verdict")
        case _:
            return Verdict("bad", f"the check failed with {code}")


def listener_of(one: Reached) -> str:
    """The scratch listener that an external service is called through."""
    return f"outbound/{one.vip}:{one.port}"


def _word(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name).upper().strip("_")
