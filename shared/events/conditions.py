"""Conditions: what there is to say about a service in a zone. Derived from the logs, or observed and handed in.

Pure, and the same on global, in a zone and in a replay. `at` is event time: of the event a condition follows
from, or of the observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, TypeAlias

import msgspec
from immutables import Map

from shared.events.fault import CA_FIELD, ca_expiry, has_mtls, service_fault
from shared.events.state import LogState, Stored, ZoneState
from shared.model.resource import (
    HostnameGenerator,
    Mesh,
    MeshExternalService,
    ResourceKey,
    protocol_class,
)
from shared.naming.hostname import hostname_for, selects
from shared.naming.vip import VipRange, parse_cidr, probe

Status: TypeAlias = Literal["True", "False", "Unknown"]
ORIGINATION_LABEL = "zonal.io/mes-origination"
"""Mesh label: `sidecar` chooses direct mode, TLS originated by the sidecar (decision 2)."""


class Condition(msgspec.Struct, frozen=True):
    """One statement: type and reason in CamelCase, a sentence, and since when (RFC 3339)."""

    type: str
    status: Status
    reason: str
    message: str
    at: str


class Delivery(msgspec.Struct, frozen=True):
    """How far the zone's proxies are: whether those that must have ACKed the service's cluster, and who has not.

    refused is why a proxy cannot have it, if it cannot: a NACK, or what the compiler found (a missing CA);
    reason is the CamelCase word for it.
    """

    acked: bool
    waiting: tuple[str, ...] = ()
    refused: str = ""
    at: str = ""
    reason: str = "Rejected"


class Observed(msgspec.Struct, frozen=True):
    """The last transition that a proxy saw of a destination (agent.proto, Observation)."""

    failing: bool
    reason: str = ""
    proxy: str = ""
    at: str = ""


class ServiceRow(msgspec.Struct, frozen=True):
    """One line of the status table."""

    zone: str
    mesh: str
    name: str
    origin: str
    protocol: str
    port: int
    hostnames: tuple[str, ...]
    vip: str
    conditions: tuple[Condition, ...]
    kind: str = "MeshExternalService"


def service_conditions(
    key: ResourceKey,
    hub: LogState,
    own: LogState,
    zone: str,
    *,
    delivery: Delivery | None = None,
    observed: Observed | None = None,
) -> tuple[Condition, ...]:
    """VipLeased, HostnamesGenerated, Ready; Degraded and Reachable where there is something to say.

    `delivery` None means that nothing is known of ACKs here: Ready then says what the logs say.
    """
    return _conditions(ground_of(ZoneState(zone, hub, own)), key, delivery, observed)


class Ground(msgspec.Struct, frozen=True):
    """What the conditions of all services of a zone have in common."""

    state: ZoneState
    generators: tuple[HostnameGenerator, ...]
    egress_online: bool


def ground_of(state: ZoneState) -> Ground:
    """What is the same for all services of a state."""
    generators = tuple(
        stored.resource
        for log in (state.own, state.hub)
        for _, stored in sorted(log.kinds.get("HostnameGenerator", Map()).items())
        if isinstance(stored.resource, HostnameGenerator)
    )
    online = any(status.online and status.key.kind == "ZoneEgress" for status in state.own.proxies.values())
    return Ground(state, generators, online)


def _conditions(
    ground: Ground, key: ResourceKey, delivery: Delivery | None, observed: Observed | None
) -> tuple[Condition, ...]:
    state = ground.state
    stored = state.resource(key)
    if stored is None or not isinstance(stored.resource, MeshExternalService):
        return ()
    vip = _vip_leased(state, stored, stored.resource)
    conditions = [
        vip,
        _hostnames(ground, stored, stored.resource),
        ready(ground, stored, vip, delivery, through_egress),
    ]
    degraded = _degraded(stored, stored.resource)
    if degraded is not None:
        conditions.append(degraded)
    if observed is not None:
        conditions.append(reachable(observed, ca_expiry(state, key)))
    return tuple(conditions)


def service_rows(
    hub: LogState,
    own: LogState,
    zone: str,
    *,
    delivery: Mapping[ResourceKey, Delivery] | None = None,
    observed: Mapping[ResourceKey, Observed] | None = None,
    keys: Iterable[ResourceKey] | None = None,
) -> tuple[ServiceRow, ...]:
    """The status table of a zone: global's services and the zone's own, by mesh and name; `keys`: only of these."""
    rows: list[ServiceRow] = []
    ground = ground_of(ZoneState(zone, hub, own))
    found = (*_services(hub), *_services(own)) if keys is None else _chosen(ground.state, keys)
    for key, stored in sorted(found, key=lambda item: (item[0].mesh, item[0].name, item[0])):
        service = stored.resource
        if not isinstance(service, MeshExternalService):
            continue
        lease = own.leases.get(key)
        facts = _conditions(
            ground,
            key,
            delivery.get(key) if delivery is not None else None,
            observed.get(key) if observed is not None else None,
        )
        rows.append(
            ServiceRow(
                zone=zone,
                mesh=key.mesh,
                name=key.name,
                origin="zone" if key.zone else "global",
                protocol=service.spec.match.protocol,
                port=service.spec.match.port,
                hostnames=tuple(sorted(own.names.get(key, Map()))),
                vip=lease.ip if lease is not None else "",
                conditions=facts,
            )
        )
    return tuple(rows)


def _chosen(state: ZoneState, keys: Iterable[ResourceKey]) -> Iterator[tuple[ResourceKey, Stored]]:
    for key in keys:
        stored = state.resource(key)
        if stored is not None:
            yield key, stored


def _services(log: LogState) -> Iterator[tuple[ResourceKey, Stored]]:
    yield from log.kinds.get("MeshExternalService", Map()).items()


def _vip_leased(state: ZoneState, stored: Stored, service: MeshExternalService) -> Condition:
    lease = state.own.leases.get(stored.key)
    if lease is not None:
        return Condition("VipLeased", "True", "Leased", lease.ip, lease.event.time)
    settings = state.own.settings
    vips = parse_cidr(settings.cidr) if settings is not None else None
    wanted = protocol_class(service.spec.match.protocol)
    # A decision without result leaves no event: whether the range is exhausted is asked again.
    if isinstance(vips, VipRange) and not probe(
        stored.key, vips.quarter(stored.key, wanted), state.own.vips.__contains__
    ):
        message = f"no address of class {wanted} is left in {vips.cidr}"
        return Condition("VipLeased", "False", "Exhausted", message, stored.last.time)
    message = f"zone {state.zone} has not decided about {stored.created} yet"
    return Condition("VipLeased", "Unknown", "Pending", message, stored.last.time)


def _hostnames(ground: Ground, stored: Stored, service: MeshExternalService) -> Condition:
    """Every generator that selects the service, or the first reason why one gives it no name."""
    key, mesh, state = stored.key, stored.key.mesh, ground.state
    held = state.own.names.get(key, Map())
    faults: list[tuple[str, str]] = []
    selected = False
    for generator in ground.generators:
        if not selects(generator, service.labels):
            continue
        selected = True
        hostname = hostname_for(generator, service, state.zone)
        if not isinstance(hostname, str):
            faults.append(("TemplateError", f"{generator.name}: {hostname.message}"))
            continue
        claim = state.own.claims.get((mesh, hostname))
        if claim is None:
            faults.append(("Pending", f"zone {state.zone} has not decided about {hostname} yet"))
        elif claim.key != key:
            until = f", quarantined until {claim.until}" if claim.until else ""
            faults.append(
                ("Collision", f"{hostname} is held by {claim.key} through generator {claim.generator}{until}")
            )
    if faults:
        reason, _ = faults[0]
        status: Status = "Unknown" if reason == "Pending" else "False"
        message = "; ".join(text for _, text in faults)
        return Condition("HostnamesGenerated", status, reason, message, stored.last.time)
    if not selected:
        message = "no HostnameGenerator selects this service"
        return Condition("HostnamesGenerated", "False", "NotSelected", message, stored.last.time)
    at = max((claim.event.time for claim in held.values()), default=stored.last.time)
    return Condition("HostnamesGenerated", "True", "Generated", ", ".join(sorted(held)), at)


def ready(
    ground: Ground,
    stored: Stored,
    vip: Condition,
    delivery: Delivery | None,
    by_egress: Callable[[Mesh], bool],
) -> Condition:
    """Whether the zone serves the service: nothing about the outside itself, that is Reachable."""
    state = ground.state
    mesh = _mesh(state, stored.key.mesh)
    fault = service_fault(state, stored.key)
    at = max(stored.last.time, vip.at)
    if mesh is None:
        return Condition("Ready", "False", "MeshMissing", f"mesh {stored.key.mesh} does not exist", at)
    if vip.status != "True":
        return Condition("Ready", vip.status, vip.reason, vip.message, at)
    if fault is not None:
        message = f"{fault.field}: {fault.message}" if fault.field else fault.message
        return Condition("Ready", "False", fault.reason, message, at)
    if by_egress(mesh) and not ground.egress_online:
        message = f"no zone egress is online in zone {state.zone}: {stored.key.name} answers 503"
        return Condition("Ready", "False", "NoZoneEgress", message, at)
    if delivery is not None and delivery.refused:
        return Condition("Ready", "False", delivery.reason, delivery.refused, delivery.at or at)
    if delivery is not None and not delivery.acked:
        message = f"not acknowledged yet by {', '.join(delivery.waiting) or 'its proxies'}"
        return Condition("Ready", "Unknown", "Delivering", message, delivery.at or at)
    return Condition("Ready", "True", "Served", "", (delivery.at if delivery is not None else "") or at)


def through_egress(mesh: Mesh) -> bool:
    """Whether external traffic of a mesh leaves through the zone egress (decision 2)."""
    return has_mtls(mesh) and mesh.labels.get(ORIGINATION_LABEL) != "sidecar"


def _mesh(state: ZoneState, name: str) -> Mesh | None:
    for zone in ("", state.zone):
        stored = state.resource(ResourceKey("Mesh", "", name, zone))
        if stored is not None and isinstance(stored.resource, Mesh):
            return stored.resource
    return None


def _degraded(stored: Stored, service: MeshExternalService) -> Condition | None:
    tls = service.spec.tls
    if tls is None or not tls.enabled or tls.verification.mode != "SkipCA":
        return None
    message = "SkipCA: Envoy cannot match SANs without a CA, so the server's certificate is not verified at all"
    return Condition("Degraded", "True", "SubjectAltNameNotChecked", message, stored.last.time)


def reachable(observed: Observed, ca_expires: str, ca_field: str = CA_FIELD) -> Condition:
    """What proxies saw of the outside; `ca_field` is where the CA is declared that may have expired."""
    if not observed.failing:
        return Condition("Reachable", "True", "Reachable", "", observed.at)
    # Until the next event of the log, the handshake alone can tell.
    expired = "certificate_has_expired" in observed.reason.lower().replace(" ", "_")
    if expired and ca_expires and ca_expires <= observed.at:
        message = f"{ca_field}: the last of the CA certificates expired at {ca_expires[:19]}Z ({observed.reason})"
        return Condition("Reachable", "False", "CaExpired", message, observed.at)
    return Condition("Reachable", "False", "UpstreamFailure", observed.reason, observed.at)
