"""A hub, global, one zone and its proxies, each a process of its own, for the length of a measurement."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from shared.bench.http import Api
from shared.demo.processes import Process, Processes, listening
from shared.keys.deployment import Deployment
from shared.keys.init import init
from shared.keys.ports import BLOCK, ZonePorts
from shared.keys.tokens import TokenIssuer
from shared.nats.server import find_binary

ZONE = "east"
FIRST_BASE, LAST_BASE = 24_000, 29_900
"""Below the ports that systems give to clients."""
VIPS = "127.128.0.0/9"
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.05
"""Pause between looks at what is not measured."""

_EGRESS = """\
type: ZoneEgress
name: egress
zone: {zone}
networking:
  address: 127.0.0.1
  port: {port}
  admin:
    port: {admin}
"""

_DATAPLANE = """\
type: Dataplane
name: app
mesh: default
networking:
  address: 127.0.0.1
  inbound:
    - port: {inbound}
      servicePort: {application}
      tags:
        kuma.io/service: app
        kuma.io/protocol: http
  admin:
    port: {admin}
"""

_REDIRECT = """\
  transparentProxying:
    redirectPortOutbound: {outbound}
"""

EGRESS = ".egress"
"""Proxy id of the zone's egress."""
SIDECAR = "default.app"
"""Proxy id of the sidecar."""


def free_base() -> int:
    """A base port whose plan for one zone is free. Raises OSError when there is none."""
    for base in range(FIRST_BASE, LAST_BASE, 2 * BLOCK):
        if all(_free(port) for port in range(base, base + 2 * BLOCK)):
            return base
    raise OSError(f"no {2 * BLOCK} free ports between {FIRST_BASE} and {LAST_BASE}")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Deliveries:
    """When an egress held a position, as its zone says: in its log, by the clock that all processes share."""

    def __init__(self) -> None:
        self._moments: list[tuple[int, int]] = []
        self._taken: dict[int, int] = {}
        self._grown = asyncio.Condition()

    async def read(self, descriptor: int, copy: Path) -> None:
        """Take lines of the zone's log from a pipe until it ends, and keep them in a file."""
        reader = asyncio.StreamReader(limit=2**20)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
        )
        try:
            with copy.open("ab", buffering=0) as kept:
                while line := await reader.readline():
                    kept.write(line)
                    if b'"delivered"' in line or b'"taken"' in line:
                        await self._note(line)
        finally:
            transport.close()

    async def _note(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if said.get("event") == "taken":
            self._taken = {said["g"]: said["monotonic_ns"]}
        elif said.get("event") == "delivered" and said.get("proxy") == EGRESS:
            async with self._grown:
                self._moments.append((said["g"], said["monotonic_ns"]))
                self._grown.notify_all()

    async def held(self, g: int) -> int:
        """Nanoseconds of the monotonic clock when the egress first held global's event g. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS), self._grown:
            await self._grown.wait_for(lambda: bool(self._moments) and self._moments[-1][0] >= g)
            found = next(moment for known, moment in self._moments if known >= g)
            del self._moments[:-1]
            return found

    def taken(self, g: int) -> int:
        """Nanoseconds of the same clock when the zone's state began to take event g, the last that it took alone.

        Raises KeyError when it was not alone.
        """
        return self._taken[g]


class Place:
    """The processes. Use `async with`: leaving it ends them, last started first, and removes their files."""

    def __init__(self, *, log_level: str = "warning", zone_options: Sequence[str] = (), bare: bool = False) -> None:
        """zone_options: further flags of `zonal zone`. bare: the NATS servers alone."""
        self._bare = bare
        self._log_level = log_level
        self._zone_options = tuple(zone_options)
        self._scratch = tempfile.TemporaryDirectory(prefix="zonal-bench-")
        self.directory = Path(self._scratch.name)
        self.base_port = free_base()
        self.deployment: Deployment = init(self.directory, (ZONE,), base_port=self.base_port, vip_cidrs={ZONE: VIPS})
        self.ports: ZonePorts = self.deployment.zone_ports(ZONE)
        self.deliveries = Deliveries()
        self._processes = Processes(self.directory / "logs")
        self._reading: asyncio.Task[None] | None = None
        self._named: dict[str, Process] = {}

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._processes.__aexit__()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait((self._reading,))
        self._scratch.cleanup()

    async def _start(self) -> None:
        deployment = self.deployment
        for name, config, port in (
            ("hub-nats", deployment.hub_config, deployment.ports.nats),
            ("zone-nats", deployment.leaf_config(ZONE), self.ports.nats),
        ):
            argv = [find_binary(), "-c", str(config)]
            self._named[name] = await self._processes.start(name, argv, ready=listening(port))
        if self._bare:
            return
        await self._zonal("global", "global", "--config", str(deployment.global_settings), port=deployment.ports.api)
        await self.start_zone()

    async def start_zone(self) -> None:
        """The zone's control plane; again after `stop`."""
        if self._reading is not None:
            await self._reading
        read_end, write_end = os.pipe()
        self._reading = asyncio.create_task(self.deliveries.read(read_end, self.directory / "logs" / "zone.log"))
        settings = (
            "--config",
            str(self.deployment.zone_settings(ZONE)),
            "--log-level",
            self._log_level,
            *self._zone_options,
        )
        try:
            await self._zonal("zone", "zone", *settings, port=self.ports.api, output=write_end)
        finally:
            os.close(write_end)

    async def start_egress(self) -> None:
        """The zone's egress: an Envoy under its agent."""
        text = _EGRESS.format(zone=ZONE, port=self.ports.egress, admin=self.ports.egress_admin)
        token = self._tokens.egress_token(ZONE, name="egress")
        await self._proxy("egress", text, token, self.ports.egress_admin)

    async def start_sidecar(self, *, redirect: bool = False) -> None:
        """A sidecar with its DNS; redirect: with the listener that traffic would be redirected to."""
        ports = self.ports
        text = _DATAPLANE.format(inbound=ports.inbound, application=ports.application, admin=ports.sidecar_admin)
        text += _REDIRECT.format(outbound=ports.sidecar_status) if redirect else ""
        token = self._tokens.dataplane_token("default", name="app", zone=ZONE)
        # Names that are not there yet are refused at once: how long the machine's resolvers take is not measured.
        dns = ("--dns-enabled", "--dns-port", str(ports.dns), "--dns-upstream", f"127.0.0.1:{ports.sidecar_status}")
        await self._proxy("sidecar", text, token, ports.sidecar_admin, *dns)

    @property
    def _tokens(self) -> TokenIssuer:
        return TokenIssuer.load(self.deployment.token_signing_key)

    async def _proxy(self, kind: str, text: str, token: str, admin: int, *options: str) -> None:
        described, token_file = self.directory / f"{kind}.yaml", self.directory / f"{kind}.token"
        described.write_text(text)
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        await self._zonal(
            kind, "proxy", kind, "--cp-address", f"https://127.0.0.1:{self.ports.ads}",
            "--ca-cert-file", str(self.deployment.ca_file), "--dataplane-token-file", str(token_file),
            "--dataplane", str(described), "--workdir", str(self.workdir(kind)), "--admin-port", str(admin), *options,
            port=admin,
        )  # fmt: skip

    def workdir(self, kind: str) -> Path:
        """Working directory of a proxy's agent."""
        return self.directory / "proxies" / kind

    async def _zonal(self, name: str, *arguments: str, port: int, output: int | None = None) -> None:
        argv = [sys.executable, "-m", "shared.cli", *arguments]
        self._named[name] = await self._processes.start(name, argv, ready=listening(port), output=output)

    async def start(self, name: str, argv: list[str], port: int) -> None:
        """A further process that will listen on `port`."""
        self._named[name] = await self._processes.start(name, argv, ready=listening(port))

    async def stop(self, *names: str) -> None:
        """Stop processes early."""
        for name in names:
            await self._processes.stop(self._named.pop(name))

    # --- looking ------------------------------------------------------------------------------------------

    def api(self, *, zone: bool = False) -> Api:
        """A connection to global's API, or to the zone's."""
        port = self.ports.api if zone else self.deployment.ports.api
        return Api(port, self.deployment.admin_token.read_text().strip())

    async def until(self, path: str, wanted: Callable[[Any], bool]) -> None:
        """Look at a path of the zone's API until `wanted`; for what is not measured. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS), self.api(zone=True) as zone:
            while not wanted(await zone.get(path)):  # noqa: ASYNC110 - from outside; this is not what is measured
                await asyncio.sleep(LOOK_SECONDS)

    async def holds(self, proxy: str, g: int) -> None:
        """Wait until a proxy has ACKed global's event g; for what is not measured. Raises TimeoutError."""
        await self.until("/proxies", lambda found: any(_acked(row, proxy) >= g for row in found["items"]))

    def resident_bytes(self, name: str, *, peak: bool = False) -> int:
        """Resident set size of a process; with `peak` the largest that it ever had."""
        return _resident_bytes(self._named[name].pid, "VmHWM:" if peak else "VmRSS:")

    def envoy_bytes(self, name: str) -> int:
        """Resident set size of the one process that a proxy's agent started: its Envoy."""
        pid = self._named[name].pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return _resident_bytes(int(child))


def _resident_bytes(pid: int, which: str = "VmRSS:") -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def _acked(row: dict[str, Any], proxy: str) -> int:
    if row["proxy"] != proxy or not row["online"] or not row["acked"]:
        return 0
    return int(row["acked"].partition(".")[0].removeprefix("g"))
