"""`zonal global`: builds everything that does IO, in order, and lets it run."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import structlog

from global_cp.authorities import Authorities
from global_cp.follow import GlobalOwner
from global_cp.gauges import global_registry
from global_cp.progress import ZonesProgress
from global_cp.store import GlobalStore
from shared import VERSION
from shared.api.app import build_api
from shared.api.store import Put, ServiceStatus
from shared.events.event import GLOBAL
from shared.events.log import EventLog, LogBroken, LogUnavailable
from shared.events.progress import PROGRESS_KEY
from shared.history.plane import PlaneHistory
from shared.history.recordings import Recordings
from shared.history.works import Works
from shared.keys.directory import KeysDirectory
from shared.model.resource import Mesh, ResourceKey, Zone
from shared.naming.hostname import default_generators
from shared.nats import topology
from shared.nats.connection import NatsSettings, connect
from shared.nats.log import JetStreamLog
from shared.nats.status import StatusStream
from shared.process import lifecycle, logs
from shared.process.metrics import render
from shared.process.settings import GlobalSettings
from shared.process.web import serve_api

SYSTEM = "system:global"
OWED_RETRY_SECONDS = 1.0
RENEWAL_SECONDS = 3600.0
"""How often certificate authorities are looked at; they live for weeks and are renewed with a third of it left."""

log = structlog.get_logger(__name__)

_status_decoder = msgspec.json.Decoder(ServiceStatus)


def run(settings: GlobalSettings) -> int:
    """Run until told to stop; returns the exit code."""
    logs.configure(settings.log_level, component="global")

    async def start(life: lifecycle.Lifecycle) -> None:
        await _Global(settings, life).start()

    return lifecycle.run(start)


class _Global:
    def __init__(self, settings: GlobalSettings, life: lifecycle.Lifecycle) -> None:
        self._settings = settings
        self._life = life
        self._statuses: dict[str, dict[str, ServiceStatus]] = {zone: {} for zone in settings.zones}
        self._progress = ZonesProgress(settings.zones)
        self._ready = False

    async def start(self) -> None:
        settings, life = self._settings, self._life
        keys = KeysDirectory(Path(settings.keys_dir), GLOBAL)
        sealer = keys.sealer()
        connection = await connect(
            nats_settings(settings.nats_url, settings.nats_credentials, settings.nats_ca, "global")
        )
        life.on_stop("nats", connection.close)
        await topology.ensure_hub(connection)
        for zone in settings.zones:
            await topology.ensure_zone_on_hub(connection, zone)
        own = topology.global_log(connection)
        zone_logs = {zone: topology.zone_log_on_hub(connection, zone) for zone in settings.zones}
        authorities = Authorities(keys.keyring(), sealer, lambda: datetime.now(UTC))
        owner = GlobalOwner(own, settings.zones, authorities, lambda: None, keys.signing_key())
        await owner.recover()
        for zone, zone_log in zone_logs.items():
            await recover_zone(owner, zone, zone_log)
        logs = {GLOBAL: own, **zone_logs}
        store = GlobalStore(owner, sealer.seal, logs, self._statuses)
        if owner.is_readable:
            await self._create_defaults(store)
        life.start("follow own log", self._follow_own(owner, own))
        for zone, zone_log in zone_logs.items():
            life.start(f"follow zone {zone}", follow_zone(owner, zone, zone_log))
            life.start(f"follow status of {zone}", self._follow_status(zone, topology.status_on_hub(connection, zone)))
        life.start("renew certificate authorities", self._renew(owner))
        recorded = {zone: Recordings(topology.records(connection, zone)).read for zone in zone_logs}
        api = build_api(
            store,
            authenticator=keys.token_verifier(),
            role="global",
            ready=lambda: self._ready,
            version=VERSION,
            metrics=partial(render, global_registry(owner)),
            past=PlaneHistory(logs, Path(settings.data_dir) / "history", recorded, checks=keys.log_checks()),
            works=Works.of(settings),
            tracer=self._progress,
            reads=owner,
        )
        await serve_api(life, api, settings.api_host, settings.api_port)
        self._ready = True
        log.info("serving", api=f"http://{settings.api_host}:{settings.api_port}", sequence=owner.state.hub.n)

    async def _create_defaults(self, store: GlobalStore) -> None:
        """What Kuma creates at a first start: mesh `default`, the global generators; and the zones of the settings."""
        wanted: list[Put] = []
        if not await store.list("Mesh") and not await store.list("HostnameGenerator"):
            wanted.append(Put(Mesh(name="default"), 0))
            wanted += [Put(generator, 0) for generator in default_generators("")]
        for zone in self._settings.zones:
            if await store.get(ResourceKey("Zone", "", zone)) is None:
                wanted.append(Put(Zone(name=zone), 0))
        if wanted:
            await store.write(wanted, SYSTEM)

    async def _follow_own(self, owner: GlobalOwner, own: JetStreamLog) -> None:
        try:
            async for events in own.follow(owner.state.hub.n):
                await owner.follow_own(events)
        except LogBroken as fault:
            # Without what stands there nothing may be written; what was read before it is shown.
            owner.break_off(GLOBAL, fault)
            await asyncio.Event().wait()

    async def _follow_status(self, zone: str, stream: StatusStream) -> None:
        rows = self._statuses[zone]
        async for batch in stream.follow():
            for status in batch:
                if status.key == PROGRESS_KEY:
                    self._progress.take(zone, status.data)
                    continue
                if not status.data:
                    rows.pop(status.key, None)
                    continue
                try:
                    rows[status.key] = _status_decoder.decode(status.data)
                except msgspec.DecodeError as error:
                    # A zone of another version; its word is not worth a crash.
                    log.warning("unreadable status", zone=zone, status_name=status.key, error=str(error))

    async def _renew(self, owner: GlobalOwner) -> None:
        while True:
            seconds = RENEWAL_SECONDS * (0.9 + 0.2 * random.random())  # noqa: S311 - only spreads load
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await owner.owed()
            try:
                await owner.renew()
            except LogUnavailable as error:
                log.warning("cannot renew now", error=str(error))
                owner.owe()
                await asyncio.sleep(OWED_RETRY_SECONDS)


async def recover_zone(owner: GlobalOwner, zone: str, zone_log: EventLog) -> None:
    """Fold what a zone's outbox has delivered, up to what cannot be its log."""
    owner.reads(zone, zone_log)
    try:
        async for event in zone_log.read():
            await owner.zone_events(zone, (event,))
    except (LogBroken, ValueError) as fault:
        owner.break_off(zone, fault)


async def follow_zone(owner: GlobalOwner, zone: str, zone_log: EventLog) -> None:
    """Fold what comes from a zone, for ever. What cannot be its log halts this zone's view, and nothing else:
    a zone writes there itself, and must not be able to end global for the others.
    """
    try:
        async for events in zone_log.follow(owner.state.zones[zone].n):
            await owner.zone_events(zone, events)
    except (LogBroken, ValueError) as fault:
        owner.break_off(zone, fault)
        await asyncio.Event().wait()


def nats_settings(url: str, credentials: str, ca: str, name: str) -> NatsSettings:
    """How this process reaches its nats-server."""
    return NatsSettings(url=url, nkey_seed_file=credentials or None, ca_file=ca or None, name=f"zonal-{name}")
