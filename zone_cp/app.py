"""`zonal zone`: builds everything that does IO, in order, and lets it run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from shared import VERSION
from shared.api.app import build_api
from shared.events.conditions import Observed
from shared.events.event import GLOBAL, Change, Event, ResourceApplied, ZoneSettingsChanged, decode_event
from shared.events.log import EventLog
from shared.events.state import ZoneState
from shared.history.plane import PlaneHistory, Recorded
from shared.history.recordings import Recordings
from shared.history.works import Works
from shared.keys.directory import KeysDirectory
from shared.keys.files import read_private, read_public
from shared.keys.tokens import ADMIN
from shared.model.labels import computed
from shared.model.resource import ZoneEgress, key_of
from shared.naming.hostname import default_generators
from shared.nats import topology
from shared.nats.connection import NatsSettings, connect
from shared.nats.copy import Copier
from shared.nats.log import JetStreamLog
from shared.nats.outbox import Outbox, StatusOutbox
from shared.nats.pull import RawEvent
from shared.nats.status import StatusStream
from shared.pb.agent_pb2 import ListenerLost, Observation
from shared.process import lifecycle, logs
from shared.process.exit_code import ExitCode
from shared.process.held import AlreadyHeld, held
from shared.process.metrics import render
from shared.process.settings import ZoneSettings
from shared.process.web import serve_api
from shared.process.writer import event_time
from zone_cp.addresses import Addresses
from zone_cp.ads.delta import Acked, Nacked
from zone_cp.ads.server import Admitted, AdsServer, NodeInfo, Refused, Status, TlsFiles
from zone_cp.checks import ZoneChecker
from zone_cp.follow import SYSTEM, ZoneOwner
from zone_cp.gauges import zone_registry
from zone_cp.identity.material import ZoneSecrets
from zone_cp.identity.rotation import Rotation
from zone_cp.inspection import ZoneInspector
from zone_cp.join import Joining, NotAdmitted, connected, disconnected, end_of, join, join_agent, replaces, stale
from zone_cp.keeping import Keeping, past_of
from zone_cp.probes import Probes
from zone_cp.progress import ZoneProgress
from zone_cp.publish import EgressWatch, Publisher
from zone_cp.record import Recorder
from zone_cp.refusals import RefusedServices
from zone_cp.safety import Safety
from zone_cp.status import StatusBoard
from zone_cp.store import ZoneStore
from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.fleet import Turn

COMPILER = "1"
"""Version of what `view` and `xds` make of a state; recorded, because it changes what proxies are served."""
DRAIN_SECONDS = 3.0
RETURN_SECONDS = 30.0
"""How long proxies that were online when the last process ended may take to come back before they count as offline:
they serve all the while, and Envoy waits longer before each further attempt to connect."""

log = structlog.get_logger(__name__)


def run(settings: ZoneSettings) -> int:
    """Run until told to stop; returns the exit code."""
    logs.configure(settings.log_level, component=f"zone-{settings.name}")

    async def start(life: lifecycle.Lifecycle) -> None:
        await _Zone(settings, life).start()

    try:
        # A second control plane of the zone would take the first one's proxies for lost, and record it.
        with held(Path(settings.data_dir), f"zone-{settings.name}"):
            return lifecycle.run(start)
    except AlreadyHeld as reason:
        log.error("cannot start", reason=str(reason))  # noqa: TRY400 - the reason says it all
        return ExitCode.FAILED


class _Zone:
    """The parts of one zone control plane and the wires between them."""

    def __init__(self, settings: ZoneSettings, life: lifecycle.Lifecycle) -> None:
        self._settings = settings
        self._life = life
        self._ready = False
        self._keys = KeysDirectory(Path(settings.keys_dir), settings.name)
        self._verifier = self._keys.token_verifier()
        self._joining: dict[str, Joining] = {}
        self._life_id = f"{event_time()}/"
        self._decoded: tuple[Sequence[RawEvent], list[Event]] | None = None
        self._taken: tuple[int, int] | None = None

    async def start(self) -> None:
        settings, life = self._settings, self._life
        connection = await connect(
            NatsSettings(
                url=settings.nats_url,
                nkey_seed_file=settings.nats_credentials or None,
                ca_file=settings.nats_ca or None,
                name=f"zonal-zone-{settings.name}",
            )
        )
        life.on_stop("nats", connection.close)
        await topology.ensure_zone(connection, settings.name)
        own, copy = topology.own_log(connection, settings.name), topology.copied_log(connection)
        status = topology.own_status(connection, settings.name)
        target = topology.outbox_target(connection, settings.name)
        delivery = topology.own_delivery(connection, settings.name)
        records = topology.records(connection, settings.name)
        self._build(own, status, delivery, records)
        await self._safety.recover(own, copy, target)
        self._progress.recall(self._safety.marks_then)
        await self._board.recall()
        if not self._owner.is_behind():
            await self._create_defaults()
        life.start("publish", self._publisher.run())
        life.start("regain the own log", self._safety.regain())
        life.start("record marks", self._safety.marks.run())
        life.on_stop("marks recorded", self._safety.marks.settle)
        life.start("record status", self._board.run())
        life.start("try addresses", self._addresses.run())
        life.start("say progress", self._progress.run())
        source = topology.hub_log_from_zone(connection, settings.name)
        self._copier = Copier(source, copy, on_fault=self._halted("copy of global's log"), ahead=self._look_ahead)
        life.start("follow global", self._follow(self._copier))
        self._outbox = Outbox(own, target, on_fault=self._halted("outbox"), pause=self._pause)
        self._safety.halting |= {"copy of global's log": self._copier, "outbox": self._outbox}
        life.start("outbox", self._outbox.run())
        life.start("status outbox", StatusOutbox(status, topology.status_target(connection, settings.name)).run())
        life.start("record outbox", StatusOutbox(records, topology.records_target(connection, settings.name)).run())
        life.start("record proxies", self._recorder.run())
        life.on_stop("proxies recorded", self._recorder.settle)
        await self._ads.start()
        asyncio.get_running_loop().call_later(RETURN_SECONDS, self._end_return)
        life.on_stop("xDS", partial(self._ads.stop, DRAIN_SECONDS), stop_seconds=DRAIN_SECONDS + 5)
        await self._serve({settings.name: own, GLOBAL: copy}, Recordings(records, delivery).read)
        self._ready = True
        log.info("serving", position=str(self._owner.state.position), ads_port=settings.ads_port)

    # --- parts ---------------------------------------------------------------------------------------------

    def _build(self, own: EventLog, status: StatusStream, delivery: StatusStream, records: StatusStream) -> None:
        self._owner = ZoneOwner(
            self._settings.name, own, self._recorded_settings(), self._changed, self._keys.signing_key()
        )
        self._rotation = Rotation(
            loop=asyncio.get_running_loop(),
            jitter=random.random,
            on_rotated=lambda mesh, spiffe_id: self._publisher.refresh(mesh, spiffe_id),  # noqa: PLW0108 - made below
        )
        self._secrets = ZoneSecrets(self._keys.keyring(), lambda: self._owner.state, self._rotation)
        self._recorder = Recorder(self._owner.write_many)
        self._probes = Probes(self._recorder.record)
        self._ads = self._ads_server()
        self._safety = Safety(
            self._owner,
            self._ads,
            delivery,
            records,
            share_percent=self._settings.shrink_guard_percent,
            present=lambda: self._publisher.state or self._owner.state,
            record=self._recorder.record,
        )
        self._addresses = Addresses(self._safety.guard, self._ads.hub, status, self._present, self._recorder.record)
        self._keeping = Keeping(self._safety.guard, self._secrets)
        self._publisher = Publisher(
            self._secrets,
            self._addresses,
            self._authorities,
            self._published,
            offered=self._offered,
            keeping=self._keeping,
            compare=self._settings.compare_with_recomputed,
        )
        name, plan, state = self._settings.name, self._publisher, lambda: self._owner.state
        self._progress = ZoneProgress(name, self._ads.hub, status, state=state, plan=plan, kept=self._safety)
        self._pause = self._progress.lull.over
        self._board = StatusBoard(
            name, status, self._present, plan.failures, plan.closed, impaired=plan.impaired, pause=self._pause
        )
        self._refusals = RefusedServices(plan, self._board.nacked, self._safety.quarantines.reasons)
        self._watch = EgressWatch(self._ads, self._delivered)

    def _recorded_settings(self) -> ZoneSettingsChanged:
        settings = self._settings
        return ZoneSettingsChanged(
            cidr=settings.mesh_external_service_cidr,
            quarantine_seconds=settings.vip_quarantine_seconds,
            compiler=COMPILER,
            allowed_addresses=settings.allowed_addresses,
            egress_on_demand_above=settings.egress_on_demand_above,
            legacy_cidr=settings.legacy_cidr,
        )

    def _ads_server(self) -> AdsServer:
        certificate, key = self._keys.ads_files
        return AdsServer(
            self._settings.ads_host,
            self._settings.ads_port,
            TlsFiles(certificate=read_public(certificate), key=read_private(key)),
            admit=self._admit,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            on_ack=self._on_ack,
            on_nack=self._on_nack,
            on_observation=self._on_observation,
            on_probed=self._probes.told,
            on_lost=self._on_lost,
            connection_prefix=self._life_id,
            may_inspect=self._may_inspect,
            jitter=random.random,
        )

    async def _serve(self, sources: Mapping[str, JetStreamLog], recorded: Recorded) -> None:
        settings = self._settings
        store = ZoneStore(
            self._owner,
            self._publisher,
            self._keys.sealer().seal,
            logs=sources,
            statuses=self._board.statuses,
            addresses=self._addresses.conditions,
            acked=self._acked,
            waits=self._safety.reason,
            allowed=settings.allowed_addresses,
            reserved=(settings.mesh_external_service_cidr, settings.legacy_cidr),
        )
        directory, checks = Path(settings.data_dir) / "history", self._keys.log_checks()
        past = PlaneHistory(sources, directory, {settings.name: recorded}, checks=checks)
        self._keeping.past = past_of(past, settings.name)
        registry = zone_registry(self._owner, self._copier, self._outbox, self._ads, self._safety.guard)
        api = build_api(
            store,
            authenticator=self._verifier,
            role="zone",
            zone=settings.name,
            version=VERSION,
            ready=lambda: self._ready,
            metrics=partial(render, registry),
            checker=ZoneChecker(self._ads.agents, self._secrets, self._present),
            inspector=ZoneInspector(settings.name, self._ads.hub, self._ads.agents, self._safety.reason),
            releaser=self._safety,
            reads=self._safety,
            past=past,
            works=Works.of(settings, settings.name),
            tracer=self._progress,
        )
        await serve_api(self._life, api, settings.api_host, settings.api_port)

    async def _create_defaults(self) -> None:
        generators = default_generators(self._settings.name)

        def missing(state: ZoneState) -> Sequence[Change]:
            if state.own.n > 1 and state.own.kinds.get("HostnameGenerator"):
                return ()
            labelled = (computed(one, state.zone) for one in generators)
            return [
                ResourceApplied(resource=one) for one in labelled if key_of(one, state.zone) not in state.own.resources
            ]

        await self._owner.write(missing, actor=SYSTEM)

    async def _follow(self, copier: Copier) -> None:
        async for batch in copier.batches():
            self._taken = batch[-1].sequence, time.monotonic_ns()
            self._progress.saw(batch[0].sequence, batch[-1].sequence)
            decoded, self._decoded = self._decoded, None
            if decoded is None or decoded[0] is not batch:
                decoded = batch, [decode_event(raw.data) for raw in batch]
            await self._owner.hub_events(decoded[1])

    def _look_ahead(self, batch: Sequence[RawEvent]) -> None:
        """The copy writes these events: work out meanwhile what follows from them."""
        events = [decode_event(raw.data) for raw in batch]
        self._decoded = batch, events
        ahead = self._owner.look_ahead(events)
        if ahead is not None:
            self._publisher.look_ahead(ahead.state, ahead.events)

    # --- state moves ---------------------------------------------------------------------------------------

    def _changed(self, state: ZoneState, events: Sequence[Event] | None) -> None:
        self._publisher.changed(state, events)
        self._probes.moved(events)

    def _authorities(self, view: ZoneView) -> Collection[str]:
        seconds = {mesh.name: float(mesh.certificate_seconds) for mesh in view.meshes.values() if mesh.mtls}
        refreshed = self._secrets.refresh(seconds)
        for mesh, reason in refreshed.failures.items():
            log.warning("no certificates for a mesh", mesh=mesh, reason=reason)
        return refreshed.changed

    def _offered(self, turn: Turn) -> None:
        self._progress.offered(turn)

    def _published(self, turn: Turn) -> None:
        if turn.regrouped:
            self._secrets.keep(turn.fleet.workloads())
        self._watch.expect(turn.fleet.view, turn.fleet.egresses())
        self._refusals.tell()
        self._board.changed(turn.difference)

    def _present(self) -> tuple[ZoneState, ZoneView] | None:
        publisher = self._publisher
        return None if publisher.state is None or publisher.view is None else (publisher.state, publisher.view)

    def _delivered(self, proxy: str, view: ZoneView, waiting: tuple[str, ...]) -> None:
        moment, taken, self._taken = time.monotonic_ns(), self._taken, None
        if taken is not None:  # told now: nothing is to stand between a change and its ACK
            log.debug("taken", g=taken[0], monotonic_ns=taken[1])
        log.debug("delivered", proxy=proxy, g=view.position.g, z=view.position.z, monotonic_ns=moment)
        self._publisher.acked(proxy, view.position)
        if not waiting:
            self._board.delivered(view, waiting, event_time())

    def _acked(self, proxy: str) -> str:
        return str(self._ads.hub.delivered(proxy) or "")

    # --- proxies -------------------------------------------------------------------------------------------

    async def _admit(self, node: NodeInfo, token: str | None) -> Admitted | Refused:
        principal = self._verifier.authenticate(token) if token else None
        judged: Joining | str | NotAdmitted
        if not node.metadata:
            # An agent's own stream: it says who it is by its token and its proxy's id alone.
            judged = join_agent(node.id, principal, self._owner.state)
        else:
            judged = join(node.id, node.metadata, principal, self._owner.state)
        if isinstance(judged, NotAdmitted):
            log.info("proxy refused", proxy=node.id, status=judged.status, reason=judged.reason)
            return Refused(Status[judged.status], judged.reason)
        if isinstance(judged, Joining):
            if replaces(judged, self._owner.state):
                self._addresses.forget(judged.proxy)
            self._joining[judged.proxy] = judged
            return Admitted(judged.proxy, first=isinstance(judged.resource, ZoneEgress))
        return Admitted(judged)

    def _may_inspect(self, token: str | None) -> bool:
        principal = self._verifier.authenticate(token) if token else None
        return principal is not None and principal.kind == "user" and ADMIN in principal.roles

    def _on_connected(self, proxy: str, connection: str, node: NodeInfo) -> None:
        joining = self._joining[proxy]
        log.info("proxy connected", proxy=proxy, connection=connection)
        self._recorder.record(lambda state: connected(joining, state, connection), f"proxy:{proxy}")

    def _on_disconnected(self, proxy: str, connection: str, reason: str) -> None:
        log.info("proxy disconnected", proxy=proxy, connection=connection, reason=reason)
        self._recorder.record(partial(disconnected, proxy, connection, end_of(reason)), f"proxy:{proxy}")
        self._refusals.disconnected(proxy)
        self._addresses.gone(proxy)

    def _end_return(self) -> None:
        self._progress.lost()
        self._recorder.record(lambda state: stale(state, self._life_id), SYSTEM)

    def _on_nack(self, proxy: str, nack: Nacked) -> None:
        if self._addresses.refused(proxy, nack):
            return
        what = {"type_url": nack.type_url, "names": [name for name, _ in nack.rejected]}
        log.warning("proxy refused configuration", proxy=proxy, **what, reason=nack.message)
        self._safety.guard.refused(proxy, nack)
        self._refusals.nacked(proxy, nack)

    def _on_ack(self, proxy: str, ack: Acked) -> None:
        self._refusals.acked(proxy, ack)
        self._addresses.accepted(proxy, ack)

    def _on_lost(self, proxy: str, lost: ListenerLost) -> None:
        self._addresses.lost(proxy, lost)

    def _halted(self, what: str) -> Callable[[Exception], None]:
        def tell(fault: Exception) -> None:
            # Serving goes on with what the zone has; an operator decides (decision 33).
            log.error("halted", what=what, reason=str(fault))
            self._progress.halted()

        return tell

    def _on_observation(self, proxy: str, seen: Observation) -> None:
        self._board.observed(proxy, seen.cluster, Observed(seen.failing, seen.reason, proxy, seen.time))
