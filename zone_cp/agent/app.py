"""`zonal proxy sidecar|egress|gateway`: one Envoy, the DNS responder beside it, and the line to the control plane."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from shared.model.resource import Dataplane
from shared.pb import agent_pb2 as pb
from shared.process import lifecycle
from shared.process.exit_code import ExitCode
from shared.process.settings import ProxySettings
from zone_cp.agent import bootstrap as boot
from zone_cp.agent import check_tls
from zone_cp.agent.access_log import AccessLog
from zone_cp.agent.admin import AdminUnreachable
from zone_cp.agent.channel import Channel
from zone_cp.agent.dns_server import Address, DnsServer, parse_address
from zone_cp.agent.dns_table import DEFAULT_TTL_SECONDS, NameTable, store
from zone_cp.agent.envoy import STOP_SECONDS, Envoy, EnvoyNotFound, find_envoy
from zone_cp.agent.observe import Outcomes
from zone_cp.agent.place import InputRefused, Token, Workplace, find_system_ca, read_resource
from zone_cp.agent.probe import Prober

MAX_CHECKS = 8
"""TLS checks at a time; a further one is not answered, and whoever asked is told so after a while."""
STORE_SECONDS = 0.2
"""How much older the table on disk may be than the one that answers. The whole table is written each time, and whoever
waits for a name asks just when it is there."""

log = structlog.get_logger()


def run(settings: ProxySettings) -> int:
    """Run one proxy until SIGTERM or SIGINT; the exit code of the process.

    When the proxy serves, one JSON line with `"ready": true` goes to stdout, and the same to `ready.json` in the
    work directory. A first signal drains, a second one stops at once.
    """
    place = Workplace(Path(settings.workdir))
    try:
        place.open()
    except (InputRefused, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.REFUSED
    try:
        return lifecycle.run(Agent(settings, place).start)
    except (InputRefused, boot.InvalidControlPlane, EnvoyNotFound) as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.REFUSED
    finally:
        place.close()


class Agent:
    """The parts of one agent, started and stopped in order."""

    def __init__(self, settings: ProxySettings, place: Workplace) -> None:
        """Check what was given. Raises InputRefused, InvalidControlPlane, EnvoyNotFound."""
        if not settings.ca_cert_file or not settings.dataplane_token_file:
            raise InputRefused("give --ca-cert-file and --dataplane-token-file: the control plane speaks TLS only")
        self._settings = settings
        self._resource = read_resource(settings.kind, settings.dataplane, settings.dataplane_file)
        self._plane = boot.control_plane(settings.cp_address, str(Path(settings.ca_cert_file).absolute()))
        self._place = place
        self._outcomes = Outcomes()
        self._token = Token(settings.dataplane_token_file, place.token_secret)
        self._dns = Names(place.dns_table, _upstreams(settings.dns_upstream))
        self._dns_enabled = settings.dns_enabled and settings.kind == "sidecar"
        self._envoy = Envoy(find_envoy(settings.envoy or None), self._arguments(), place.admin_address, self._tell_lost)
        self._prober = Prober(self._resource, self._tell_probed)
        self._channel = Channel(
            self._plane,
            proxy=boot.node_id(self._resource),
            token=self._token.refresh,
            dns_version=lambda: self._dns.table.version,
            failing=self._outcomes.failing,
            probed=self._prober.outcomes,
            lost=lambda: self._envoy.lost,
            on_control=self._on_control,
        )
        self._checks: set[asyncio.Task[None]] = set()
        self._token.refresh()

    async def start(self, life: lifecycle.Lifecycle) -> None:
        """Start everything; what was started first stops last."""
        if self._dns_enabled:
            self._dns.load()
            await self._dns.server.start(self._settings.dns_host, self._settings.dns_port)
            life.on_stop("dns", self._dns.stop)
        access_log = AccessLog(self._place.access_log, self._outcomes, self._channel.report)
        access_log.start()
        life.on_stop("access log", access_log.stop)
        self._write_bootstrap()
        life.start("channel", self._channel.run())
        life.start("envoy", self._envoy.run())
        if self._prober:
            life.start("service probes", self._prober.run())
        grace = self._settings.drain_seconds + STOP_SECONDS + 1
        life.on_stop("drain", self._drain, stop_seconds=grace)
        await self._announce()

    async def _drain(self) -> None:
        await self._envoy.stop(self._settings.drain_seconds)

    def _on_control(self, message: pb.ControlMessage) -> None:
        match message.WhichOneof("message"):
            case "dns" if self._dns_enabled:
                self._dns.apply(message.dns)
                self._channel.acknowledge(message.dns.version)
            case "check_tls" if self._settings.kind == "egress" and len(self._checks) < MAX_CHECKS:
                task = asyncio.create_task(self._check(message.check_tls))
                self._checks.add(task)
                task.add_done_callback(self._checks.discard)
            case "config_dump" if len(self._checks) < MAX_CHECKS:
                task = asyncio.create_task(self._dump(message.config_dump.id))
                self._checks.add(task)
                task.add_done_callback(self._checks.discard)
            case _:
                pass

    async def _dump(self, request_id: str) -> None:
        dump = pb.ConfigDumped(id=request_id)
        try:
            status, body = await self._envoy.admin.get("/config_dump?include_eds")
            if status == 200:
                dump.gzip_json = await asyncio.to_thread(gzip.compress, body.encode(), 1)
            else:
                dump.error = f"Envoy's admin interface answered {status}"
        except AdminUnreachable as error:
            dump.error = str(error)
        self._channel.dumped(dump)

    async def _check(self, asked: pb.CheckTls) -> None:
        # Whom to and when; never the request itself, which may hold a key.
        log.info("checking tls", address=asked.address, port=asked.port, sni=asked.sni)
        self._channel.answer(await asyncio.to_thread(check_tls.run, asked))

    async def _announce(self) -> None:
        await self._envoy.ready()
        said: dict[str, Any] = {
            "ready": True,
            "proxy": boot.node_id(self._resource),
            "pid": os.getpid(),
            "envoy_pid": self._envoy.pid,
            "admin": self._envoy.admin.address,
        }
        if self._dns_enabled:
            said["dns"] = "{}:{}".format(*self._dns.server.address)
        line = json.dumps(said)
        await asyncio.to_thread(store, self._place.ready, line.encode())
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def _write_bootstrap(self) -> None:
        proxy = boot.Proxy(
            resource=self._resource,
            features=(*self._way_out(), *self._probing(), boot.ACCESS_LOG_FEATURE + str(self._place.access_log)),
            system_ca_path=find_system_ca(self._settings.system_ca_path),
            admin=self._admin(),
            workdir=str(self._place.directory),
            version=version("zonal"),
            dns_port=self._dns.server.address[1] if self._dns_enabled else 0,
        )
        store(self._place.bootstrap, boot.bootstrap(proxy, self._plane, str(self._place.token_secret)))

    def _way_out(self) -> tuple[str, ...]:
        """How an application's connections reach the proxy; nothing for a gateway, which has no application."""
        if self._settings.kind == "gateway":
            return ()
        redirect = isinstance(self._resource, Dataplane) and self._resource.networking.transparent_proxying is not None
        return (boot.REDIRECT_FEATURE if redirect else boot.BIND_VIPS_FEATURE, boot.EXCLUSIVE_FEATURE)

    def _tell_lost(self, name: str, reason: str) -> None:
        self._channel.lost(name, reason)

    def _tell_probed(self) -> None:
        self._channel.probed()

    def _probing(self) -> tuple[str, ...]:
        return (boot.SERVICE_PROBES_FEATURE,) if self._prober else ()

    def _admin(self) -> str:
        if self._settings.admin_host.startswith("/"):
            return self._settings.admin_host
        declared = self._resource.networking.admin
        return f"{self._settings.admin_host}:{declared.port if declared else self._settings.admin_port}"

    def _arguments(self) -> list[str]:
        return boot.envoy_arguments(
            str(self._place.bootstrap),
            admin_address_path=str(self._place.admin_address),
            concurrency=self._settings.concurrency,
            log_level=self._settings.envoy_log_level,
        )


class Names:
    """The DNS table, the server that answers from it, and its copy on disk."""

    def __init__(self, path: Path, upstreams: list[Address] | None) -> None:
        self.table = NameTable()
        self.server = DnsServer(self.table, upstreams)
        self._path = path
        self._storing: asyncio.Task[None] | None = None
        self._stale = False
        self._stopping = asyncio.Event()

    def load(self) -> None:
        """Take over what an earlier run stored; a damaged copy is worth a warning, not a failure."""
        try:
            self.table.load(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("dns table unreadable", path=str(self._path), error=str(error))
            return
        log.info("dns table loaded", names=len(self.table), version=self.table.version)

    def apply(self, update: pb.DnsUpdate) -> None:
        """Answer by the new table from now on, and store it a moment later (STORE_SECONDS)."""
        upsert = {item.name: item.ip for item in update.upsert}
        ttl = update.ttl_seconds or DEFAULT_TTL_SECONDS
        if update.full:
            faults = self.table.replace(update.version, upsert, ttl)
        else:
            faults = self.table.update(update.version, upsert, update.remove, ttl)
        for fault in faults:
            log.warning("dns name left out", reason=fault)
        self._stale = True
        if self._storing is None or self._storing.done():
            self._storing = asyncio.create_task(self._store())

    async def stop(self) -> None:
        """Stop answering; the newest table is on disk afterwards."""
        await self.server.stop()
        self._stopping.set()
        if self._storing is not None:
            await self._storing

    async def _store(self) -> None:
        while self._stale:  # changes that arrive meanwhile are stored together
            with suppress(TimeoutError):
                async with asyncio.timeout(STORE_SECONDS):
                    await self._stopping.wait()
            self._stale = False
            try:
                await asyncio.to_thread(store, self._path, self.table.dump())
            except OSError as error:
                log.warning("dns table not stored", path=str(self._path), error=str(error))


def _upstreams(text: str) -> list[Address] | None:
    """`address:port`, several with commas; empty: the system's resolvers. Raises InputRefused."""
    try:
        return [parse_address(word.strip()) for word in text.split(",")] if text else None
    except ValueError as error:
        raise InputRefused(f"--dns-upstream {text}: {error}") from None
