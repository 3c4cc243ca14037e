"""Decide: what a zone records about an event: VIP leases and hostname claims (decisions 15, 16).

Call `decide` once after each event of global's log and each resource or settings event of the zone's own, with
the state in which that event is the last one of its log, and append its result before the next event is folded
(`seen` = the g decided about). A restart folds global's log up to `own.seen` and goes on event by event: then the
leases of global-origin resources are a pure function of global's log, the CIDR and the quarantine, and every zone
with the same settings has the same VIPs (a changed CIDR keeps what fits, so that zone may differ from one that
always had it). `decide(state, None, settings)` compares everything and mends what is missing. Deciding again about
the folded result gives nothing but the ends of quarantines that the zone's own time, which moves with what it
records, has passed meanwhile.

Time is event time: of global's log for what global-origin resources hold, of the zone's log for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.cross_mesh import CLASS, cross_mesh_hosts
from shared.events.event import (
    GLOBAL,
    Change,
    Event,
    EventRef,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    HostnameReleased,
    ResourceApplied,
    ResourceDeleted,
    Unreadable,
    VipLeased,
    VipQuarantined,
    VipReleased,
    ZoneSettingsChanged,
)
from shared.events.external_hosts import external_hosts
from shared.events.fold import apply_hostname, apply_vip
from shared.events.state import LogState, Stored, ZoneState
from shared.model.external_service import ExternalService
from shared.model.gateway import MeshGateway
from shared.model.kinds import is_cross_mesh_host, is_legacy
from shared.model.resource import (
    HostnameGenerator,
    Mesh,
    MeshExternalService,
    ProtocolClass,
    ResourceKey,
    key_of,
    protocol_class,
)
from shared.model.successor import SUCCESSOR_LABEL
from shared.naming.hostname import default_generators, hostname_for, selects
from shared.naming.template import TemplateFault, parse_template
from shared.naming.vip import CidrFault, VipRange, parse_cidr, probe

__all__ = ["decide", "default_generators"]

SERVICE = "MeshExternalService"
GENERATOR = "HostnameGenerator"

_Wanted: TypeAlias = tuple[ProtocolClass, tuple[str, ...], ResourceKey]
"""Of a host: the class of its VIP, its names, and whose they are."""


def decide(state: ZoneState, event: Event | None, settings: ZoneSettingsChanged) -> tuple[Change, ...]:
    """The changes to record about `event` (None: about everything, at a restart)."""
    draft = _Draft(state, settings)
    draft.release_expired()
    match event.change if event is not None else None:
        case None | ZoneSettingsChanged():
            draft.reconcile()
        case ResourceApplied(resource=MeshExternalService() as service):
            draft.ensure(key_of(service, _zone(event)))
        case ResourceApplied(resource=ExternalService()) | ResourceDeleted(key=ResourceKey(kind="ExternalService")):
            draft.settle_hosts()
        case (
            ResourceApplied(resource=MeshGateway() | Mesh())
            | ResourceDeleted(key=ResourceKey(kind="MeshGateway" | "Mesh"))
        ):
            draft.settle_cross_mesh()
        case ResourceDeleted(key=ResourceKey(kind="MeshExternalService") as key):
            draft.retire(key)
        case ResourceApplied(resource=HostnameGenerator()) | ResourceDeleted(key=ResourceKey(kind="HostnameGenerator")):
            draft.claim_all(draft.services())
        case Unreadable(reason=reason, skippable=True) if event is not None and event.origin == GLOBAL:
            draft.skip(event.n, reason)
        case _:
            pass
    return tuple(draft.changes)


def _zone(event: Event | None) -> str:
    return "" if event is None or event.origin == GLOBAL else event.origin


class _Draft:
    """The changes so far, and the zone's own state as it will be once they are folded."""

    def __init__(self, state: ZoneState, settings: ZoneSettingsChanged) -> None:
        self.changes: list[Change] = []
        self._state = state
        self._zone = state.zone
        self._hub: LogState = state.hub
        self._own: LogState = state.own
        self._range = parse_cidr(settings.cidr)
        legacy = settings.legacy_cidr
        self._legacy = CidrFault("not set") if legacy is msgspec.UNSET else parse_cidr(legacy)
        self._quarantine = timedelta(seconds=settings.quarantine_seconds)

    # --- what is asked of it ---------------------------------------------------------------------------------

    def release_expired(self) -> None:
        """End the quarantines that are over; who waited for what they held comes first."""
        vip_freed = False
        freed: list[tuple[str, str]] = []
        for zone, second in sorted(bucket for bucket in self._own.expiring if bucket[1] <= self._now(bucket[0])):
            for place, until in sorted(self._own.expiring[zone, second].items()):
                if until > self._now(zone):
                    continue
                mesh, name = place
                if mesh:
                    self._emit(HostnameReleased(mesh=mesh, hostname=name))
                    freed.append(place)
                else:
                    self._emit(VipReleased(ip=name))
                    vip_freed = True
        hosts, abroad = external_hosts(self._hub).hosts, cross_mesh_hosts(self._state)
        if vip_freed and self._service_count() + len(hosts) + len(abroad) > len(self._own.leases):
            for stored in self.services():
                if stored.key not in self._own.leases:
                    self._lease(stored.key, _class_of(stored))
        if freed:
            self.claim_all(self._waiting(freed))
        if (vip_freed or freed) and hosts:
            self.settle_hosts()
        if (vip_freed or freed) and abroad:
            self.settle_cross_mesh()

    def ensure(self, key: ResourceKey) -> None:
        """Lease and claim what a service that exists should hold."""
        stored = self._log(key).resources.get(key)
        if stored is not None:
            self._lease(key, _class_of(stored))
            self._claim(stored)

    def settle_hosts(self) -> None:
        """Bring leases and names of all hosts of ExternalServices up to date, in the order of creation."""
        hosts = external_hosts(self._hub).hosts
        wanted = {key: (host.protocol_class, host.hostnames, host.by) for key, host in hosts.items()}
        self._settle(wanted, is_legacy)
        if any(isinstance(change, HostnameQuarantined) for change in self.changes):
            self.claim_all(stored for stored in self.services() if _succeeds(stored))

    def settle_cross_mesh(self) -> None:
        """The same of what meshes see of other ones' MeshGateways: global's first."""
        hosts = cross_mesh_hosts(self._state)
        wanted = {key: (CLASS, (host.hostname,), host.gateway) for key, host in hosts.items()}
        self._settle(wanted, is_cross_mesh_host)

    def _settle(self, wanted: Mapping[ResourceKey, _Wanted], mine: Callable[[ResourceKey], bool]) -> None:
        for key in sorted({key for key in (*self._own.leases, *self._own.names) if mine(key) and key not in wanted}):
            self.retire(key)
        for key, (spoken, _, _) in wanted.items():
            self._vacate(key, spoken)
        for key, (spoken, hostnames, by) in wanted.items():
            self._lease(key, spoken)
            self._claim_names(key, {name: [by] for name in hostnames})

    def skip(self, g: int, reason: str) -> None:
        """Say in the zone's own log that an event of global's could not be read here."""
        if (GLOBAL, g) not in self._own.skipped:
            self.changes.append(EventSkipped(g=g, reason=reason))

    def retire(self, key: ResourceKey) -> None:
        """Quarantine all that a deleted service held: names first."""
        for hostname in sorted(self._own.names.get(key, Map())):
            self._quarantine_name(key, hostname)
        lease = self._own.leases.get(key)
        if lease is not None:
            self._emit(VipQuarantined(key=key, ip=lease.ip, until=self._until(key)))

    def reconcile(self) -> None:
        """Compare all holders and all services, in the order of the logs."""
        for key in sorted({*self._own.leases, *self._own.names}):
            if not _is_host(key) and key not in self._log(key).resources:
                self.retire(key)
        services = self.services()
        # All that must go, goes first, so that what is re-leased does not depend on who is looked at first.
        for stored in services:
            self._vacate(stored.key, _class_of(stored))
        for stored in services:
            self._lease(stored.key, _class_of(stored))
        self.claim_all(services)
        self.settle_hosts()
        self.settle_cross_mesh()

    def claim_all(self, services: Iterable[Stored]) -> None:
        """Bring the names of several services up to date, in the order of the logs, global's first."""
        for stored in services:
            self._claim(stored)

    def services(self) -> tuple[Stored, ...]:
        """All MeshExternalServices of this zone in the order of decision: global's log, then the zone's own."""
        return tuple(
            stored
            for log in (self._hub, self._own)
            for stored in sorted(log.kinds.get(SERVICE, Map()).values(), key=_by_creation)
        )

    # --- VIPs --------------------------------------------------------------------------------------------------

    def _vacate(self, key: ResourceKey, wanted: ProtocolClass) -> bool:
        """Quarantine the service's VIP unless it fits; whether the service has one that does."""
        held = self._own.leases.get(key)
        if held is None:
            return False
        if self._fits(key, wanted, held.ip):
            return True
        self._emit(VipQuarantined(key=key, ip=held.ip, until=self._until(key)))
        return False

    def _lease(self, key: ResourceKey, wanted: ProtocolClass) -> None:
        """Give a service its VIP: the one it has, the one it had, or the first free one. None left: a condition."""
        vips = self._vips(key)
        if isinstance(vips, CidrFault) or self._vacate(key, wanted):
            return
        former = [lease for lease in self._own.retired.get(key, Map()).values() if self._fits(key, wanted, lease.ip)]
        if former:
            ip: str | None = max(former, key=lambda lease: (lease.until or "", lease.ip)).ip
        else:
            ip = probe(key, vips.quarter(key, wanted), self._own.vips.__contains__)
        if ip is not None:
            self._emit(VipLeased(key=key, protocol_class=wanted, ip=ip))

    def _fits(self, key: ResourceKey, wanted: ProtocolClass, ip: str) -> bool:
        vips = self._vips(key)
        return isinstance(vips, CidrFault) or vips.quarter(key, wanted).holds(ip)

    def _vips(self, key: ResourceKey) -> VipRange | CidrFault:
        return self._legacy if _is_host(key) else self._range

    # --- hostnames -----------------------------------------------------------------------------------------------

    def _claim(self, stored: Stored) -> None:
        """Give up names that no generator gives any more; claim those that are free, or were this service's."""
        self._claim_names(stored.key, self._wanted(stored), succeeds=_succeeds(stored))

    def _claim_names(
        self, key: ResourceKey, wanted: Mapping[str, list[ResourceKey]], *, succeeds: bool = False
    ) -> None:
        """The same of one that wants these names, each by any of its generators. succeeds: it need not wait for the end
        of the quarantine of what ExternalServices gave up.
        """
        mesh = key.mesh
        for hostname in sorted(self._own.names.get(key, Map())):
            if hostname not in wanted:
                self._quarantine_name(key, hostname)
        for hostname, generators in wanted.items():
            claim = self._own.claims.get((mesh, hostname))
            if claim is not None and claim.key != key and not (succeeds and claim.until and is_legacy(claim.key)):
                continue
            if claim is None or claim.until is not None or claim.generator not in generators:
                self._emit(HostnameClaimed(mesh=mesh, hostname=hostname, key=key, generator=generators[0]))

    def _wanted(self, stored: Stored) -> dict[str, list[ResourceKey]]:
        service = stored.resource
        wanted: dict[str, list[ResourceKey]] = {}
        if isinstance(service, MeshExternalService):
            for key, generator in self._generators:
                if selects(generator, service.labels):
                    hostname = hostname_for(generator, service, self._zone)
                    if isinstance(hostname, str):
                        wanted.setdefault(hostname, []).append(key)
        return wanted

    def _waiting(self, freed: list[tuple[str, str]]) -> tuple[Stored, ...]:
        """The services that may want one of the freed names; all of them if a template cannot be read backwards."""
        templates = [parse_template(generator.spec.template) for _, generator in self._generators]
        keys: set[ResourceKey] = set()
        for mesh, hostname in freed:
            for template in templates:
                if isinstance(template, TemplateFault):
                    continue
                name = template.name_in(hostname)
                if name is None:
                    return self.services()
                keys.update((ResourceKey(SERVICE, mesh, name), ResourceKey(SERVICE, mesh, name, self._zone)))
        found = (self._log(key).resources.get(key) for key in keys)
        return tuple(
            sorted((stored for stored in found if stored), key=lambda stored: (stored.key.zone != "", stored.created.n))
        )

    def _quarantine_name(self, key: ResourceKey, hostname: str) -> None:
        self._emit(HostnameQuarantined(mesh=key.mesh, hostname=hostname, key=key, until=self._until(key)))

    @cached_property
    def _generators(self) -> tuple[tuple[ResourceKey, HostnameGenerator], ...]:
        """The zone's own generators, then global's, each in the order of creation."""
        return tuple(
            (stored.key, stored.resource)
            for log in (self._own, self._hub)
            for stored in sorted(log.kinds.get(GENERATOR, Map()).values(), key=_by_creation)
            if isinstance(stored.resource, HostnameGenerator)
        )

    # --- state -----------------------------------------------------------------------------------------------------

    def _emit(self, change: Change) -> None:
        self.changes.append(change)
        reference = EventRef(self._zone, self._own.n + 1)
        match change:
            case VipLeased() | VipQuarantined() | VipReleased():
                self._own = apply_vip(self._own, change, reference)
            case HostnameClaimed() | HostnameQuarantined() | HostnameReleased():
                self._own = apply_hostname(self._own, change, reference)
            case _:
                raise AssertionError(f"a zone does not decide {type(change).__name__}")

    def _log(self, key: ResourceKey) -> LogState:
        return self._own if key.zone else self._hub

    def _service_count(self) -> int:
        return sum(len(log.kinds.get(SERVICE, Map())) for log in (self._hub, self._own))

    def _now(self, zone: str) -> str:
        return self._own.time if zone else self._hub.time

    def _until(self, key: ResourceKey) -> str:
        end = datetime.fromisoformat(self._now(key.zone)) + self._quarantine
        return end.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _is_host(key: ResourceKey) -> bool:
    """Whether it is no resource of its own: its VIP comes from the range of ExternalServices."""
    return is_legacy(key) or is_cross_mesh_host(key)


def _succeeds(stored: Stored) -> bool:
    """Whether global says that it takes the place of ExternalServices: whoever calls their names means it now."""
    service = stored.resource
    return isinstance(service, MeshExternalService) and not stored.key.zone and SUCCESSOR_LABEL in service.labels


def _by_creation(stored: Stored) -> int:
    return stored.created.n


def _class_of(stored: Stored) -> ProtocolClass:
    service = stored.resource
    if not isinstance(service, MeshExternalService):
        raise TypeError(f"{stored.key} is no MeshExternalService")
    return protocol_class(service.spec.match.protocol)
