"""What a zone says of a MeshGateway's cross-mesh listeners: their addresses and names in other meshes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shared.events.conditions import Condition, Status
from shared.events.cross_mesh import CLASS, CrossMeshHost, cross_mesh_hosts, is_abroad, port_meant
from shared.events.state import Stored, ZoneState
from shared.model.resource import MESH_LABEL, Dataplane
from shared.naming.vip import VipRange, parse_cidr, probe


def cross_mesh_conditions(state: ZoneState, stored: Stored) -> tuple[Condition, ...]:
    """VipLeased and HostnamesGenerated over all meshes that see the MeshGateway; nothing where none does."""
    hosts = [host for host in cross_mesh_hosts(state).values() if host.gateway == stored.key]
    return (_vips(state, stored, hosts), _names(state, stored, hosts)) if hosts else ()


def _vips(state: ZoneState, stored: Stored, hosts: list[CrossMeshHost]) -> Condition:
    leases = state.own.leases
    missing = [host for host in hosts if host.key not in leases]
    if not missing:
        said = ", ".join(f"{host.hostname} {leases[host.key].ip} in {host.key.mesh}" for host in hosts)
        return Condition("VipLeased", "True", "Leased", said, max(leases[host.key].event.time for host in hosts))
    listed = ", ".join(f"{host.hostname} in {host.key.mesh}" for host in missing)
    cidr = state.own.settings.legacy_cidr if state.own.settings is not None else msgspec.UNSET
    vips = parse_cidr(cidr) if cidr is not msgspec.UNSET else None
    # A decision without result leaves no event: whether the range is exhausted is asked again.
    if isinstance(vips, VipRange) and not all(
        probe(host.key, vips.quarter(host.key, CLASS), state.own.vips.__contains__) for host in missing
    ):
        message = f"no address is left for {listed} in {vips.cidr}"
        return Condition("VipLeased", "False", "Exhausted", message, stored.last.time)
    message = f"zone {state.zone} has not decided yet about {listed}"
    return Condition("VipLeased", "Unknown", "Pending", message, stored.last.time)


def _names(state: ZoneState, stored: Stored, hosts: list[CrossMeshHost]) -> Condition:
    faults: list[tuple[str, str]] = []
    times = [stored.last.time]
    for host in hosts:
        where = f"{host.hostname} in {host.key.mesh}"
        claim = state.own.claims.get((host.key.mesh, host.hostname))
        if claim is None:
            faults.append(("Pending", f"zone {state.zone} has not decided about {where} yet"))
        elif claim.key != host.key:
            until = f", quarantined until {claim.until}" if claim.until else ""
            faults.append(("Collision", f"{where} is held by {claim.key} through {claim.generator}{until}"))
        else:
            times.append(claim.event.time)
    if faults:
        reason, _ = faults[0]
        status: Status = "Unknown" if reason == "Pending" else "False"
        return Condition("HostnamesGenerated", status, reason, "; ".join(text for _, text in faults), stored.last.time)
    names = ", ".join(dict.fromkeys(host.hostname for host in hosts))
    return Condition("HostnamesGenerated", "True", "Generated", names, max(times))


def unmet_outbounds(state: ZoneState, dataplane: Dataplane) -> Iterator[str]:
    """Of outbounds that lead to other meshes by their tags, those that no cross-mesh listener is meant by."""
    hosts = cross_mesh_hosts(state).values()
    for one in dataplane.networking.outbound:
        if not is_abroad(one, dataplane.mesh):
            continue
        seen = (host for host in hosts if host.key.mesh == dataplane.mesh)
        if all(port_meant(host.gateway, host.listeners, one) is None for host in seen):
            tags = ", ".join(f"{tag}={value}" for tag, value in sorted(one.tags.items()) if tag != MESH_LABEL)
            mesh = one.tags[MESH_LABEL]
            yield f"outbound {one.address}:{one.port}: no cross-mesh listener of mesh {mesh} carries {tags}"
