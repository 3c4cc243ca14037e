"""The whole system on one machine, as separate processes: what `zonal demo` tells about and `zonal up` leaves running.

A hub nats-server and a leaf nats-server per zone, `zonal global`, a `zonal zone` per zone, per zone a sidecar
and a zone egress as real Envoys under their agents, and the external services. Nothing is shared but sockets.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from shared.demo import certificates
from shared.demo.link import Link
from shared.demo.processes import Process, Processes, listening
from shared.demo.services import ServicePorts
from shared.keys.deployment import Deployment
from shared.keys.init import init
from shared.keys.ports import GlobalPorts, ZonePorts, global_ports, zone_ports
from shared.keys.tokens import TokenIssuer
from shared.nats.server import find_binary

ZONES = ("east", "west")
SERVICES_OFFSET = 10
CALL_SECONDS = 10

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


def vip_cidrs(base_port: int) -> dict[str, str]:
    """The zones' VIP ranges. Without root they lie in 127/8, where any process may listen; systems that run side by
    side have other base ports and so other ranges (Envoys would share a VIP's port and each take half of the calls).
    """
    first = 16 + base_port // 100 * len(ZONES) % 200
    return {zone: f"127.{first + number}.0.0/16" for number, zone in enumerate(ZONES)}


class System:
    """All processes of the demo. Use `async with`: leaving it stops them, last started first."""

    def __init__(self, directory: Path, base_port: int) -> None:
        self.directory = directory
        self.base_port = base_port
        self.ports: GlobalPorts = global_ports(base_port)
        self.zone_ports: dict[str, ZonePorts] = {zone: zone_ports(base_port, i) for i, zone in enumerate(ZONES)}
        self.services = ServicePorts(base_port + SERVICES_OFFSET)
        self.certificates = directory / "outside"
        self._processes = Processes(directory / "logs")
        self._links: dict[str, Link] = {}
        self._named: dict[str, Process] = {}
        self._deployment: Deployment | None = None

    async def __aenter__(self) -> Self:
        await self._processes.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._processes.__aexit__(*details)
        for link in self._links.values():
            await link.cut()

    # --- starting -----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Lay out the deployment and make the certificates of the outside world. Starts nothing."""
        ranges = vip_cidrs(self.base_port)
        self._deployment = init(self.directory, ZONES, base_port=self.base_port, vip_cidrs=ranges, relay=True)
        certificates.make(self.certificates)

    async def start_control_planes(self) -> None:
        """The NATS servers, the links, global and the zones."""
        deployment = self.deployment
        await self._nats("hub-nats", deployment.hub_config, self.ports.nats)
        for zone in ZONES:
            self._links[zone] = Link(self.zone_ports[zone].link, self.ports.nats_leaf)
            await self._links[zone].heal()
            await self._nats(f"{zone}-nats", deployment.leaf_config(zone), self.zone_ports[zone].nats)
        await self._zonal("global", "global", "--config", str(deployment.global_settings), port=self.ports.api)
        await asyncio.gather(
            *(
                self._zonal(
                    f"{zone}-zone",
                    "zone",
                    "--config",
                    str(deployment.zone_settings(zone)),
                    port=self.zone_ports[zone].api,
                )
                for zone in ZONES
            )
        )

    async def start_services(self) -> None:
        """The external services."""
        argv = [sys.executable, "-m", "shared.demo.services", "--directory", str(self.certificates)]
        argv += ["--base-port", str(self.services.base)]
        self._named["outside"] = await self._processes.start("outside", argv, ready=listening(self.services.tcp))

    async def start_proxies(self) -> None:
        """A sidecar and a zone egress per zone."""
        await asyncio.gather(*(self._egress(zone) for zone in ZONES), *(self.start_sidecar(zone) for zone in ZONES))

    async def start_sidecar(self, zone: str) -> None:
        """The sidecar of the zone's application."""
        ports = self.zone_ports[zone]
        text = _DATAPLANE.format(inbound=ports.inbound, application=ports.application, admin=ports.sidecar_admin)
        options = ["--dataplane", str(self.write(f"{zone}-dataplane.yaml", text)), "--dns-enabled"]
        options += ["--dns-port", str(ports.dns)]
        token = self._issuer().dataplane_token("default", name="app", zone=zone)
        await self._proxy(zone, "sidecar", token, options, ports.sidecar_admin)

    async def _egress(self, zone: str) -> None:
        ports = self.zone_ports[zone]
        text = _EGRESS.format(zone=zone, port=ports.egress, admin=ports.egress_admin)
        options = ["--dataplane", str(self.write(f"{zone}-egress.yaml", text))]
        await self._proxy(zone, "egress", self._issuer().egress_token(zone, name="egress"), options, ports.egress_admin)

    async def _proxy(self, zone: str, kind: str, token: str, options: list[str], admin: int) -> None:
        token_file = self.directory / "tokens" / f"{zone}-{kind}.token"
        token_file.parent.mkdir(exist_ok=True)
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        name = f"{zone}-{kind}"
        self._named[name] = await self._zonal(
            name, "proxy", kind, "--cp-address", f"https://127.0.0.1:{self.zone_ports[zone].ads}",
            "--ca-cert-file", str(self.deployment.ca_file), "--dataplane-token-file", str(token_file),
            "--workdir", str(self.directory / "proxies" / name), "--admin-port", str(admin), *options,
            port=admin,
        )  # fmt: skip

    async def _nats(self, name: str, config: Path, port: int) -> None:
        argv = [find_binary(), "-c", str(config)]
        self._named[name] = await self._processes.start(name, argv, ready=listening(port))

    async def _zonal(self, name: str, *arguments: str, port: int) -> Process:
        argv = [sys.executable, "-m", "shared.cli", *arguments]
        process = await self._processes.start(name, argv, ready=listening(port))
        self._named[name] = process
        return process

    # --- stopping -----------------------------------------------------------------------------------------

    async def kill_sidecar(self, zone: str) -> None:
        """kill -9 of the agent; the kernel ends its Envoy with it."""
        process = self._named.pop(f"{zone}-sidecar")
        await process.kill()
        await self._processes.stop(process)

    async def stop_control_planes(self) -> None:
        """Stop zones, global and every NATS server; proxies go on."""
        names = [*(f"{zone}-zone" for zone in ZONES), "global", *(f"{zone}-nats" for zone in ZONES), "hub-nats"]
        for name in names:
            await self._processes.stop(self._named.pop(name))

    # --- facts --------------------------------------------------------------------------------------------

    @property
    def deployment(self) -> Deployment:
        """Where everything is; `prepare` made it."""
        if self._deployment is None:
            raise RuntimeError("prepare() comes first")
        return self._deployment

    @property
    def hub_store(self) -> Path:
        """JetStream store directory of the hub."""
        return self.deployment.hub_store

    def dns_port(self, zone: str) -> int:
        """Where the zone's sidecar answers DNS."""
        return self.zone_ports[zone].dns

    def sidecar_admin(self, zone: str) -> int:
        """Envoy admin port of the zone's sidecar."""
        return self.zone_ports[zone].sidecar_admin

    def egress_admin(self, zone: str) -> int:
        """Envoy admin port of the zone's egress."""
        return self.zone_ports[zone].egress_admin

    def egress_proxy(self, zone: str) -> str:
        """Proxy id of the zone's egress."""
        return ".egress" if zone in ZONES else ""

    def link(self, zone: str) -> Link:
        """The link between the hub and a zone."""
        return self._links[zone]

    def write(self, name: str, text: str) -> Path:
        """Write a manifest where users can look at it."""
        path = self.directory / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def _issuer(self) -> TokenIssuer:
        return TokenIssuer.load(self.deployment.token_signing_key)

    # --- calling ------------------------------------------------------------------------------------------

    async def cli(self, *arguments: str) -> tuple[int, str, str]:
        """Run `zonal …` as a user would, in the demo's context: (exit code, stdout, stderr)."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shared.cli", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self.deployment.environment(),
        )  # fmt: skip
        out, err = await child.communicate()
        return child.returncode or 0, out.decode(), err.decode()

    async def api(self, method: str, path: str, *, zone: str | None = None) -> Any:
        """Call the HTTP API of global, or of a zone. Raises OSError on anything but success."""
        port = self.ports.api if zone is None else self.zone_ports[zone].api
        return await asyncio.to_thread(self._call, method, f"http://127.0.0.1:{port}{path}")

    def _call(self, method: str, url: str) -> Any:
        token = self.deployment.admin_token.read_text().strip()
        request = urllib.request.Request(url, method=method, headers={"authorization": f"Bearer {token}"})  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as response:  # noqa: S310 - loopback
            return json.loads(response.read())
