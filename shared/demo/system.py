"""The whole system on one machine, as separate processes: what `zonal demo` tells about and `zonal up` leaves running.

A hub nats-server and a leaf nats-server per zone, `zonal global`, a `zonal zone` per zone, per zone a sidecar
and a zone egress as real Envoys under their agents, and the external services. Nothing is shared but sockets.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from msgspec.structs import asdict

from shared.demo import application, certificates
from shared.demo.placement import OUTSIDE, ZONES, Cuttable, Loopback, Placement, User
from shared.demo.processes import NotReady, Process, Processes, check_free, listening
from shared.demo.services import SERVICES, ServicePorts
from shared.events.event import GLOBAL
from shared.keys.deployment import LOOPBACK, Deployment
from shared.keys.files import write_private, write_public
from shared.keys.init import init
from shared.keys.ports import GlobalPorts, ZonePorts, global_ports, zone_ports
from shared.keys.tokens import TokenIssuer
from shared.nats.server import find_binary

SERVICES_OFFSET = 10
GATEWAY_OFFSET = 19
"""Where the gateways listen, above the base port."""
CALL_SECONDS = 10
REDIRECT_PORT = 15001
"""The sidecar's original-destination listener, where connections are redirected to it."""

_DATAPLANE = """\
type: Dataplane
name: app
mesh: default
networking:
  address: {host}
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
    redirectPortOutbound: {port}
"""

_EGRESS = """\
type: ZoneEgress
name: egress
zone: {zone}
networking:
  address: {host}
  port: {port}
  admin:
    port: {admin}
"""


_GATEWAY = """\
type: Dataplane
name: edge
mesh: default
networking:
  address: {host}
  gateway:
    type: BUILTIN
    tags:
      kuma.io/service: edge
"""


class System:
    """All processes of the demo. Use `async with`: leaving it stops them, last started first."""

    def __init__(self, directory: Path, base_port: int, placement: Placement | None = None) -> None:
        self.directory = directory
        self.base_port = base_port
        self.placement = placement or Loopback(base_port)
        self.ports: GlobalPorts = global_ports(base_port)
        self.zone_ports: dict[str, ZonePorts] = {zone: zone_ports(base_port, i) for i, zone in enumerate(ZONES)}
        self.services = ServicePorts(base_port + SERVICES_OFFSET, self.placement.outside_host)
        self.certificates = directory / "outside"
        self._processes = Processes(directory / "logs")
        self._links: dict[str, Cuttable] = {}
        self._named: dict[str, Process] = {}
        self._deployment: Deployment | None = None

    async def __aenter__(self) -> Self:
        self.placement.open()
        try:
            await self._processes.__aenter__()
        except BaseException:
            self.placement.close()
            raise
        return self

    async def __aexit__(self, *details: object) -> None:
        try:
            await self._processes.__aexit__(*details)
            for link in self._links.values():
                await link.cut()
        finally:
            self.placement.close()

    # --- starting -----------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Lay out the deployment and make the certificates of the outside world. Starts nothing."""
        placement = self.placement
        self._deployment = init(
            self.directory,
            ZONES,
            base_port=self.base_port,
            vip_cidrs={zone: f"{placement.vip_range(zone)},{placement.legacy_range(zone)}" for zone in ZONES},
            relay=not placement.hosts,
            hosts=placement.hosts,
        )
        certificates.make(self.certificates)

    async def start_control_planes(self) -> None:
        """The NATS servers, the links, global and the zones. Raises NotReady, before anything is started if a port of
        any process is another's.
        """
        deployment = self.deployment
        if not self.placement.hosts:
            await check_free(self._plan())
        await self._nats("hub-nats", deployment.hub_config, self.ports.nats, place=GLOBAL)
        for zone in ZONES:
            self._links[zone] = self.placement.link(zone)
            await self._links[zone].heal()
            await self._nats(f"{zone}-nats", deployment.leaf_config(zone), self.zone_ports[zone].nats, place=zone)
        settings = str(deployment.global_settings)
        await self._zonal("global", "global", "--config", settings, port=self.ports.api, place=GLOBAL)
        await asyncio.gather(*(self._zone(zone) for zone in ZONES))

    def _plan(self) -> dict[str, tuple[str, int]]:
        """What every port is for, where all processes share one host."""
        plan = {f"global {name}": port for name, port in asdict(self.ports).items()}
        plan |= {f"external services {name}": getattr(self.services, name) for name in SERVICES}
        for zone, ports in self.zone_ports.items():
            plan |= {f"{zone} {name}": port for name, port in asdict(ports).items() if not name.endswith("_status")}
        gateways = {f"{zone} gateway": (self.gateway_host(zone), self.gateway_port) for zone in ZONES}
        return {name.replace("_", " "): (LOOPBACK, port) for name, port in plan.items()} | gateways

    async def _zone(self, zone: str) -> None:
        settings, port = str(self.deployment.zone_settings(zone)), self.zone_ports[zone].api
        await self._zonal(f"{zone}-zone", "zone", "--config", settings, port=port, place=zone)

    async def start_services(self) -> None:
        """The external services."""
        argv = [sys.executable, "-m", "shared.demo.services", "--directory", str(self.certificates)]
        argv += ["--base-port", str(self.services.base), "--host", self.services.host]
        await self._start(OUTSIDE, "outside", argv, (self.services.host, self.services.tcp))

    async def start_proxies(self) -> None:
        """A sidecar and a zone egress per zone, and the redirect to the sidecar where there is one."""
        if self.placement.transparent:
            await asyncio.gather(*(self._redirect(zone, "install", *self._redirected(zone)) for zone in ZONES))
        await asyncio.gather(*(self._egress(zone) for zone in ZONES), *(self.start_sidecar(zone) for zone in ZONES))

    async def start_sidecar(self, zone: str) -> None:
        """The sidecar of the zone's application."""
        ports = self.zone_ports[zone]
        text = _DATAPLANE.format(
            host=self.deployment.host(zone),
            inbound=ports.inbound,
            application=ports.application,
            admin=ports.sidecar_admin,
        )
        if self.placement.transparent:
            text += _REDIRECT.format(port=REDIRECT_PORT)
        options = ["--dataplane", str(self.write(f"{zone}-dataplane.yaml", text, public=True)), "--dns-enabled"]
        options += ["--dns-port", str(ports.dns)]
        token = self._issuer().dataplane_token("default", name="app", zone=zone)
        await self._proxy(zone, "sidecar", token, options, ports.sidecar_admin)

    async def start_gateway(self, zone: str) -> None:
        """A builtin gateway of the zone."""
        text = _GATEWAY.format(host=self.gateway_host(zone))
        options = ["--dataplane", str(self.write(f"{zone}-gateway.yaml", text, public=True))]
        token = self._issuer().dataplane_token("default", name="edge", zone=zone)
        await self._proxy(zone, "gateway", token, options, self.zone_ports[zone].gateway_admin)

    async def _egress(self, zone: str) -> None:
        ports = self.zone_ports[zone]
        host = self.deployment.host(zone)
        text = _EGRESS.format(zone=zone, host=host, port=ports.egress, admin=ports.egress_admin)
        options = ["--dataplane", str(self.write(f"{zone}-egress.yaml", text, public=True))]
        await self._proxy(zone, "egress", self._issuer().egress_token(zone, name="egress"), options, ports.egress_admin)

    async def _proxy(
        self, zone: str, kind: User, token: str, options: list[str], admin: int, *, called: str = ""
    ) -> None:
        name = f"{zone}-{called or kind}"
        token_file = self.directory / "tokens" / f"{name}.token"
        token_file.parent.mkdir(exist_ok=True)
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        workdir = self.directory / "proxies" / name
        workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (token_file, workdir):
            self.placement.own(str(path), kind)
        await self._zonal(
            name, "proxy", kind, "--cp-address", f"https://{self.deployment.host(zone)}:{self.zone_ports[zone].ads}",
            "--ca-cert-file", str(self.deployment.ca_file), "--dataplane-token-file", str(token_file),
            "--workdir", str(workdir), "--admin-port", str(admin), *options,
            port=admin, place=zone, user=kind,
        )  # fmt: skip

    def _redirected(self, zone: str) -> list[str]:
        ranges = f"{self.placement.vip_range(zone)},{self.placement.legacy_range(zone)}"
        return ["--port", str(REDIRECT_PORT), "--dns-port", str(self.dns_port(zone)),
                "--cidr", ranges, "--user", self.placement.uid("sidecar")]  # fmt: skip

    async def _redirect(self, zone: str, *arguments: str) -> None:
        code, out, err = await self.cli("proxy", "redirect", *arguments, at=zone)
        if code != 0:
            raise NotReady(f"zonal proxy redirect in {zone}: {out}{err}")

    async def _nats(self, name: str, config: Path, port: int, *, place: str) -> None:
        argv = [find_binary(), "-c", str(config)]
        await self._start(place, name, argv, (self.deployment.host(place), port))

    async def _zonal(self, name: str, *arguments: str, port: int, place: str, user: User | None = None) -> Process:
        argv = [sys.executable, "-m", "shared.cli", *arguments]
        host = LOOPBACK if user else self.deployment.host(place)  # a proxy is ready with its admin interface
        return await self._start(place, name, argv, (host, port), user=user)

    async def _start(
        self, place: str, name: str, argv: Sequence[str], address: tuple[str, int], *, user: User | None = None
    ) -> Process:
        host, port = address
        ready = listening(port, host, lambda: self.placement.socket(place))
        process = await self._processes.start(name, self.placement.argv(place, argv, user=user), ready=ready)
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

    @property
    def gateway_port(self) -> int:
        """Where gateways listen, the same in every zone."""
        return self.base_port + GATEWAY_OFFSET

    def gateway_host(self, zone: str) -> str:
        """The zone's own address; on one host every gateway has another, since all listen on one port."""
        return self.deployment.host(zone) if self.placement.hosts else f"127.0.0.{2 + ZONES.index(zone)}"

    def link(self, zone: str) -> Cuttable:
        """The link between the hub and a zone."""
        return self._links[zone]

    def write(self, name: str, text: str, *, public: bool = False) -> Path:
        """Write a manifest where the user can look at it, and nobody else unless it is `public`: some hold Secrets."""
        path = self.directory / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_public if public else write_private)(path, text)
        return path

    def _issuer(self) -> TokenIssuer:
        return TokenIssuer.load(self.deployment.token_signing_key)

    # --- calling ------------------------------------------------------------------------------------------

    async def cli(self, *arguments: str, at: str = GLOBAL) -> tuple[int, str, str]:
        """Run `zonal …` as a user would, in the demo's context, at a place: (exit code, stdout, stderr)."""
        argv = [sys.executable, "-m", "shared.cli", *arguments]
        return await self.run(at, argv, environment=self.deployment.environment())

    async def run(
        self, place: str, argv: Sequence[str], *, user: User | None = None, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run a command to its end at a place: (exit code, stdout, stderr)."""
        child = await asyncio.create_subprocess_exec(
            *self.placement.argv(place, argv, user=user),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment,
        )  # fmt: skip
        out, err = await child.communicate()
        return child.returncode or 0, out.decode(), err.decode()

    async def resolve(self, zone: str, hostname: str) -> str:
        """The address that the zone's sidecar gives. Raises application.Unresolved."""
        return await application.resolve(hostname, self.dns_port(zone), make=partial(self.placement.socket, zone))

    async def get(self, zone: str, ip: str, port: int, hostname: str, path: str = "/") -> application.Answer:
        """GET as an application of the zone. Raises OSError, TimeoutError."""
        return await application.get(ip, port, hostname, path, partial(self.placement.socket, zone))

    async def admin(self, zone: str, port: int, path: str) -> application.Answer:
        """GET from the admin interface of one of the zone's Envoys. Raises OSError, TimeoutError."""
        return await self.get(zone, LOOPBACK, port, "admin", path)

    async def echo(self, zone: str, ip: str, port: int, line: str) -> str:
        """What comes back over TCP, as an application of the zone sees it. Raises OSError, TimeoutError."""
        return await application.echo(ip, port, line, partial(self.placement.socket, zone))

    async def api(self, method: str, path: str, *, zone: str | None = None) -> Any:
        """Call the HTTP API of global, or of a zone. Raises OSError on anything but success."""
        port = self.ports.api if zone is None else self.zone_ports[zone].api
        return await asyncio.to_thread(self._call, method, zone or GLOBAL, port, path)

    def _call(self, method: str, place: str, port: int, path: str) -> Any:
        token = self.deployment.admin_token.read_text().strip()
        connection = http.client.HTTPConnection(self.deployment.host(place), port)
        with self.placement.socket(place) as client:
            client.settimeout(CALL_SECONDS)
            client.connect((connection.host, port))
            connection.sock = client
            try:
                connection.request(method, path, headers={"authorization": f"Bearer {token}", "connection": "close"})
                response = connection.getresponse()
                body = response.read()
            except http.client.HTTPException as error:
                raise ConnectionError(f"{method} {path}: {error!r}") from error
        if response.status >= http.client.BAD_REQUEST:
            raise OSError(f"{method} {path}: {response.status} {response.reason}")
        return json.loads(body)
