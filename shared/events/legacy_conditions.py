"""Conditions of legacy ExternalServices: the same statements as of MeshExternalServices, about all doors together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from immutables import Map

from shared.events.conditions import (
    Condition,
    Delivery,
    Ground,
    Observed,
    ServiceRow,
    Status,
    ground_of,
    reachable,
    ready,
)
from shared.events.external_hosts import Host, Hosts, external_hosts
from shared.events.fault import ca_expiry, legacy_through_egress
from shared.events.state import LogState, Stored, ZoneState
from shared.model.carried import carried_as
from shared.model.external_service import ExternalService, host_and_port
from shared.model.kinds import tls_path
from shared.model.resource import ResourceKey
from shared.naming.vip import VipRange, parse_cidr, probe


def legacy_rows(
    hub: LogState,
    own: LogState,
    zone: str,
    *,
    delivery: Mapping[ResourceKey, Delivery] | None = None,
    observed: Mapping[ResourceKey, Observed] | None = None,
    keys: Iterable[ResourceKey] | None = None,
) -> tuple[ServiceRow, ...]:
    """The status table of a zone's ExternalServices, by mesh and name; `keys`: only of these.

    delivery and observed are by door. Without `delivery` nothing is known of ACKs: Ready then says what the logs say.
    """
    ground, found = ground_of(ZoneState(zone, hub, own)), external_hosts(hub)
    members = hub.kinds.get("ExternalService", Map())
    rows = []
    for key in sorted(members if keys is None else {key for key in keys if key in members}):
        stored = members[key]
        if isinstance(stored.resource, ExternalService):
            rows.append(_row(ground, found, stored, stored.resource, (delivery, observed)))
    return tuple(rows)


def _row(
    ground: Ground,
    found: Hosts,
    stored: Stored,
    service: ExternalService,
    told: tuple[Mapping[ResourceKey, Delivery] | None, Mapping[ResourceKey, Observed] | None],
) -> ServiceRow:
    own, doors = ground.state.own, found.of.get(stored.key, ())
    hosts = [found.hosts[key] for key in dict.fromkeys(found.doors[door].host for door in doors)]
    names = sorted(name for host in hosts for name in own.names.get(host.key, Map()))
    leases = [lease.ip for host in hosts if (lease := own.leases.get(host.key)) is not None]
    _, port = host_and_port(service.networking.address) or ("", 0)
    delivery, observed = told
    vip = _vip_leased(ground, stored, hosts)
    shown = None if delivery is None else _together([delivery[door] for door in doors if door in delivery])
    facts = [
        vip,
        _hostnames(ground, stored, service, hosts),
        ready(ground, stored, vip, shown, legacy_through_egress),
    ]
    seen = [observed[door] for door in doors if door in observed] if observed is not None else []
    if seen:
        latest = max(seen, key=lambda one: (one.failing, one.at))
        field = f"{tls_path(stored.key)}.caCert"
        facts.append(reachable(latest, ca_expiry(ground.state, stored.key), field))
    return ServiceRow(
        zone=ground.state.zone,
        mesh=stored.key.mesh,
        name=stored.key.name,
        origin="global",
        protocol=carried_as(service.protocol_word),
        port=port,
        hostnames=tuple(names),
        vip=", ".join(leases),
        conditions=tuple(facts),
        kind="ExternalService",
    )


def _together(found: list[Delivery]) -> Delivery:
    """What there is to say of all doors: what is refused first, then what is not there yet."""
    refused = next((one for one in found if one.refused), None)
    if refused is not None:
        return refused
    late = next((one for one in found if not one.acked), None)
    return late or max(found, key=lambda one: one.at, default=Delivery(acked=False))


def _vip_leased(ground: Ground, stored: Stored, hosts: list[Host]) -> Condition:
    leases = {host.key: ground.state.own.leases.get(host.key) for host in hosts}
    held = [lease for lease in leases.values() if lease is not None]
    missing = [key for key, lease in leases.items() if lease is None]
    if missing:
        state = ground.state
        listed = ", ".join(key.name.rpartition(":")[0] for key in missing)
        said = state.own.settings.legacy_cidr if state.own.settings is not None else msgspec.UNSET
        vips = parse_cidr(said) if said is not msgspec.UNSET else None
        taken = state.own.vips.__contains__
        wanted = [host for host in hosts if host.key in missing]
        # A decision without result leaves no event: whether the range is exhausted is asked again.
        if isinstance(vips, VipRange) and not all(
            probe(one.key, vips.quarter(one.key, one.protocol_class), taken) for one in wanted
        ):
            message = f"no address is left for {listed} in {vips.cidr}"
            return Condition("VipLeased", "False", "Exhausted", message, stored.last.time)
        message = f"zone {state.zone} has not decided yet about {listed}"
        return Condition("VipLeased", "Unknown", "Pending", message, stored.last.time)
    said = ", ".join(f"{lease.key.name.rpartition(':')[0]} {lease.ip}" for lease in held)
    return Condition("VipLeased", "True", "Leased", said, max(lease.event.time for lease in held))


def _hostnames(ground: Ground, stored: Stored, service: ExternalService, hosts: list[Host]) -> Condition:
    state = ground.state
    faults: list[tuple[str, str]] = []
    times: list[str] = []
    for host in hosts:
        if not host.hostnames:
            faults.append(("InvalidName", f"{host.key.name.rpartition(':')[0]} is no DNS name"))
        for name in host.hostnames:
            claim = state.own.claims.get((stored.key.mesh, name))
            if claim is None:
                faults.append(("Pending", f"zone {state.zone} has not decided about {name} yet"))
            elif claim.key != host.key:
                until = f", quarantined until {claim.until}" if claim.until else ""
                said = f"{name} is held by {claim.key} through {claim.generator}{until}"
                faults.append(("Collision", said))
            else:
                times.append(claim.event.time)
    faults += [("Collision", one) for one in _outdone(state, stored, service)]
    if faults:
        reason, _ = faults[0]
        status: Status = "Unknown" if reason == "Pending" else "False"
        return Condition("HostnamesGenerated", status, reason, "; ".join(text for _, text in faults), stored.last.time)
    names = ", ".join(name for host in hosts for name in host.hostnames)
    return Condition("HostnamesGenerated", "True", "Generated", names, max(times, default=stored.last.time))


def _outdone(state: ZoneState, stored: Stored, service: ExternalService) -> Iterable[str]:
    """Where another ExternalService of the same host and port, the first by name, is reached by the real name."""
    parts = host_and_port(service.networking.address)
    if parts is None:
        return
    key = ResourceKey("ExternalService", stored.key.mesh, f"{parts[0].lower().rstrip('.')}:{parts[1]}")
    door = external_hosts(state.hub).doors.get(key)
    if door is None or service.networking.disable_host_dns_entry:
        return
    if all(member.stored.key != stored.key for member in door.members):
        yield f"{key.name} leads to {door.members[0].stored.key}, which is the first of this address by name"
