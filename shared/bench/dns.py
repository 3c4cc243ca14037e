"""How long a name waits for its address: the agent's DNS responder under load, its control plane away.

A real `zonal proxy sidecar` takes its table of NAMES names from disk, as after a restart during an outage.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from shared.bench.apart import measure_apart
from shared.bench.dns_load import STEPS_PER_PORT, Waited
from shared.demo.processes import Processes, listening
from shared.keys.ca import create_root

NAMES = 10_000
STEPS = 2 * STEPS_PER_PORT
FIRST_VIP = IPv4Address("242.0.0.1")
AGENT = "zone_cp.agent"

_DATAPLANE = """\
type: Dataplane
name: app
mesh: default
networking: {address: 127.0.0.1}
"""


class Lost(Exception):
    """Queries that the responder did not answer, or not rightly."""


async def measure(step: Callable[[int], None]) -> tuple[Waited, Waited]:
    """What queries to the agent waited, and to a bare loop that sends every datagram back. Raises Lost."""
    names = {f"service-{number}.ext.mesh": str(FIRST_VIP + number) for number in range(NAMES)}
    with tempfile.TemporaryDirectory(prefix="zonal-bench-") as place:
        directory = Path(place)
        (directory / "names.json").write_text(json.dumps(names))
        agent, echo = _free_port(), _free_port()
        async with Processes(directory / "logs") as processes:
            await processes.start("agent", _agent(directory, names, agent), ready=listening(agent))
            bare = [sys.executable, "-m", "shared.bench.bare_udp", str(echo)]
            await processes.start("echo", bare, ready=listening(echo))
            arguments = (str(directory / "names.json"), str(agent), f"e{echo}")
            seen, barely = await measure_apart("shared.bench.dns_load", list[Waited], step, *arguments)
    if seen.lost or seen.wrong:
        raise Lost(f"{seen.lost} queries without an answer, {seen.wrong} with a wrong one")
    return seen, barely


def _agent(directory: Path, names: dict[str, str], port: int) -> list[str]:
    place: Any = importlib.import_module(f"{AGENT}.place").Workplace(directory / "agent")
    table: Any = importlib.import_module(f"{AGENT}.dns_table").NameTable()
    table.replace("1", names)
    place.dns_table.parent.mkdir(parents=True, mode=0o700)
    place.dns_table.write_bytes(table.dump())
    authority, _ = create_root("default", "ca-1", datetime.now(UTC))
    for name, text in (("app.yaml", _DATAPLANE), ("token", "none"), ("ca.pem", authority)):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(text)
    # Nobody listens at the control plane's address; names that are not there are refused at once.
    nowhere = f"127.0.0.1:{_free_port()}"
    return [
        sys.executable, "-m", "shared.cli", "proxy", "sidecar", "--cp-address", f"https://{nowhere}",
        "--ca-cert-file", str(directory / "ca.pem"), "--dataplane-token-file", str(directory / "token"),
        "--dataplane", str(directory / "app.yaml"), "--workdir", str(place.directory),
        "--admin-port", str(_free_port()), "--dns-port", str(port), "--dns-upstream", nowhere,
    ]  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
