"""A door of legacy ExternalServices as a zone serves it: one service for everything downstream.

Where several ExternalServices stand behind a door, each is a part with its own endpoint and TLS; those that are at
fault are not dialled, and the door is closed when all of them are.
"""

from __future__ import annotations

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.external_hosts import Door, Host, Member, external_hosts
from shared.events.fault import service_fault
from shared.events.state import Lease, LogState, ZoneState
from shared.model.external_service import LegacyTls
from shared.model.resource import Endpoint, ExternalTls, ResourceKey
from shared.model.successor import external_tls
from shared.naming.sni import cluster_name, service_sni
from zone_cp.view.materials import NOTHING, materials_of, secrets_named
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, Failure


def door_view(state: ZoneState, key: ResourceKey) -> ExternalServiceView | None:
    """The view of one door; None while it does not exist or its host has no VIP."""
    found = external_hosts(state.hub)
    door = found.doors.get(key)
    lease = state.own.leases.get(door.host) if door is not None else None
    if door is None or lease is None:
        return None
    host = found.hosts[door.host]
    parts = tuple(_part(state, host, door, lease, member) for member in door.members)
    if len(parts) == 1:
        return parts[0]
    sound = tuple(one for one in parts if one.failure is None)
    return msgspec.structs.replace(
        (sound or parts)[0],
        name=door.service,
        endpoints=tuple(endpoint for one in sound for endpoint in one.endpoints),
        tls=None,
        ca_cert=None,
        client_cert=None,
        client_key=None,
        failure=None if sound else parts[0].failure,
        sources=joined((), *(one.sources for one in parts)),
        parts=parts,
    )


def _part(state: ZoneState, host: Host, door: Door, lease: Lease, member: Member) -> ExternalServiceView:
    own = member.stored.key
    declared = member.resource.networking.tls
    tls = _enabled(declared)
    fault = service_fault(state, own)
    pending = lease.protocol_class != host.protocol_class
    materials = materials_of(state, own, tls) if tls is not None and fault is None else NOTHING
    # The host's names stand at its first door alone, so that a door that goes takes none of them along.
    names = state.own.names.get(host.key, Map()) if door.key == host.doors[0].key else Map()
    sni = service_sni(lease.ip, door.port, own.mesh)
    failure = Failure(fault.reason, fault.message, fault.field) if fault is not None else None
    if pending:
        failure = Failure("VipPending", f"no VIP of class {host.protocol_class} is leased yet")
    read = materials.sources if fault is None or tls is None else secrets_named(state, own, tls)
    # What a door speaks follows from all doors of its host.
    others = tuple(each.stored.last for other in host.doors for each in other.members)
    named = tuple(names[name].event for name in sorted(names))
    return ExternalServiceView(
        key=door.key,
        mesh=own.mesh,
        name=own.name,
        labels=member.resource.labels,
        protocol=door.protocol,
        protocol_class=lease.protocol_class,
        port=door.port,
        vip=lease.ip,
        hostnames=tuple(sorted(names)),
        sni=sni,
        cluster=cluster_name(lease.protocol_class, own.mesh, sni),
        endpoints=(Endpoint(address=member.host, port=member.port),),
        tls=tls,
        ca_cert=materials.ca_cert,
        client_cert=materials.client_cert,
        client_key=materials.client_key,
        extension=None,
        zone_pin=None,
        failure=failure,
        sources=joined((member.stored.last,), (lease.event,), named, read, others),
        service=door.service,
    )


def _enabled(declared: LegacyTls | None) -> ExternalTls | None:
    return external_tls(declared) if declared is not None and declared.enabled else None


def legacy_of(hub: LogState, mesh: str) -> tuple[EventRef, ...]:
    """What it follows from that a mesh has ExternalServices: one of them is enough, the first by name."""
    stored = hub.kinds.get("ExternalService", Map())
    first = min((key for key in stored if key.mesh == mesh), default=None)
    return () if first is None else (stored[first].last,)
