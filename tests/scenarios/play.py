"""Play a scenario: a folder's `events.yaml`, step by step, through the production fold, decide, project and compile.

A step happens `at` seconds (default: as before), `where` is global or a zone, and does one of: `apply` (canonical
resources; labels are computed), `delete` (kind/mesh/name), `connect`, `disconnect`, `cut`, `heal`, `restart`.
Zones that are not cut off follow global after every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from immutables import Map

from shared.events.conditions import Condition, service_rows
from shared.events.cross_mesh_conditions import cross_mesh_conditions
from shared.events.event import (
    GLOBAL,
    Event,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    HostnameReleased,
    ProxyConnected,
    ProxyDisconnected,
    ResourceApplied,
    ResourceDeleted,
    VipLeased,
    VipQuarantined,
    VipReleased,
    ZoneSettingsChanged,
)
from shared.events.fold import fold_all
from shared.events.legacy_conditions import legacy_rows
from shared.events.proxy_conditions import proxy_condition_rows, served_in
from shared.events.state import LogState
from shared.model import codec
from shared.model.resource import Resource, ResourceKey, key_of
from tests.builders import EPOCH, LogBuilder, ZoneBuilder, applied
from zone_cp.decide import decide
from zone_cp.replay import RedactedSecrets
from zone_cp.view.project import dns_table, project, proxy_view
from zone_cp.view.zone_view import ExternalServiceView, MeshView, TlsMaterial, ZoneView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.inspect import short_type


class Scenario:
    """A played scenario: `hub` and `zones` at its end."""

    def __init__(self, folder: Path) -> None:
        script = yaml.safe_load((folder / "events.yaml").read_text())
        self.hub = LogBuilder()
        self.zones = {
            name: ZoneBuilder(name, one["cidr"], quarantine_seconds=one.get("quarantine_seconds", 600))
            for name, one in script["zones"].items()
        }
        self._cut: set[str] = set()
        self._seconds = 0.0
        for step in script["steps"]:
            self._step(step)
            for name, zone in self.zones.items():
                if name not in self._cut:
                    zone.follow(self.hub)

    def golden(self) -> dict[str, str]:
        """File name to text: each zone's view, and what each of its online proxies is told."""
        files: dict[str, str] = {}
        for name, zone in self.zones.items():
            view = project(zone.state)
            served = {other: served_in(one.own.state) for other, one in self.zones.items()}
            files[f"{name}.view.yaml"] = _yaml(_describe(zone, view, served))
            for status in zone.own.state.proxies.values():
                known = proxy_view(zone.state, status.proxy) if status.online else None
                if known is not None:
                    snapshot = compile_proxy(view, known, RedactedSecrets())
                    told = {
                        short_type(type_url): {
                            one.name: ", ".join(map(str, one.sources)) for _, one in sorted(resources.items())
                        }
                        for type_url, resources in snapshot.resources.items()
                        if resources
                    }
                    files[f"{name}.{status.proxy}.xds.yaml"] = _yaml(dict(sorted(told.items())))
        return files

    def _step(self, step: dict[str, Any]) -> None:
        self._seconds = step.get("at", self._seconds)
        where = step["where"]
        match step:
            case {"cut": True}:
                self._cut.add(where)
            case {"heal": True}:
                self._cut.discard(where)
            case {"restart": True}:
                self._restart(self.zones[where])
            case {"apply": [*documents]}:
                for document in documents:
                    resource: Resource = codec.convert(document, Resource)
                    self._record(where, applied(resource, "" if where == GLOBAL else where))
            case {"delete": str(path)}:
                self._record(where, ResourceDeleted(key=_key(path, "" if where == GLOBAL else where)))
            case {"connect": {"proxy": str(proxy), "key": str(path), **rest}}:
                features: tuple[str, ...] = tuple(rest.get("features") or ())  # type: ignore[arg-type]
                key = _key(path, where)
                self._record(where, ProxyConnected(proxy=proxy, key=key, connection="1", features=features))
            case {"disconnect": str(proxy)}:
                self._record(where, ProxyDisconnected(proxy=proxy, connection="1"))
            case _:
                raise ValueError(f"no such step: {step}")

    def _record(self, where: str, change: Any) -> None:
        if where == GLOBAL:
            self.hub.append(change, seconds=self._seconds)
        else:
            self.zones[where].write(change, seconds=self._seconds)

    def _restart(self, zone: ZoneBuilder) -> None:
        """Drop what is in memory and read the logs again: nothing may move and nothing be decided anew."""
        kept = zone.hub.n
        zone.own.state = fold_all(LogState(zone.zone), zone.own.events)
        zone.hub = fold_all(LogState(GLOBAL), self.hub.events[:kept])
        changes = decide(zone.state, None, zone.settings)
        if changes:
            raise AssertionError(f"a restart of {zone.zone} decided {changes}")


def _key(path: str, zone: str) -> ResourceKey:
    kind, mesh, name = path.split("/")
    return ResourceKey(kind, mesh, name, zone)


def _describe(zone: ZoneBuilder, view: ZoneView, served: Mapping[str, frozenset[tuple[str, str]]]) -> dict[str, Any]:
    logs = (zone.hub, zone.own.state, zone.zone)
    rows = {(row.mesh, row.name, row.origin): row for row in (*service_rows(*logs), *legacy_rows(*logs))}
    return {
        "position": str(view.position),
        "vip_ranges": {name: list(cidrs) for name, cidrs in sorted(view.vip_ranges.items())},
        "egresses": [f"{egress.name} {egress.address}:{egress.port}" for egress in view.egresses],
        "meshes": {
            name: {
                "origination": mesh.origination,
                "mtls": mesh.mtls,
                "forbid_external": mesh.forbid_external,
                "names": dict(sorted(dns_table(view, name).items())),
                **({"workloads": found} if (found := _workloads(mesh)) else {}),
                **({"lost access": lost} if (lost := _lost(mesh)) else {}),
                "services": {str(key): _service(service) for key, service in sorted(mesh.services.items())},
                **({"other meshes": seen} if (seen := _abroad(mesh)) else {}),
            }
            for name, mesh in sorted(view.meshes.items())
        },
        "conditions": {
            f"{mesh}/{name} ({origin})": [_condition(one) for one in row.conditions]
            for (mesh, name, origin), row in sorted(rows.items())
        },
        **({"cross-mesh listeners": found} if (found := _cross_mesh(zone)) else {}),
        "proxies as global sees them": {
            f"{row.kind} {row.mesh}/{row.name}": [_condition(one) for one in row.conditions]
            for row in proxy_condition_rows(*logs, elsewhere=served)
        },
        "log": [_line(event) for event in zone.own.events],
    }


def _condition(one: Condition) -> str:
    return f"{one.type}={one.status} {one.reason}" + (f": {one.message}" if one.message else "")


def _workloads(mesh: MeshView) -> dict[str, Any]:
    return {
        f"{name} ({service.protocol})": {
            f"{one.dataplane} at {one.address}:{one.port}": one.idle or "ready"
            for _, one in sorted(service.instances.items())
        }
        for name, service in sorted(mesh.workloads.services.items())
    }


def _lost(mesh: MeshView) -> dict[str, str]:
    return {
        " ".join((f"{who.who.type} {who.who.value}", *(f"but {one.type} {one.value}" for one in who.spared))): str(ref)
        for who, ref in mesh.narrowed
    }


def _abroad(mesh: MeshView) -> dict[str, Any]:
    return {
        str(key): {
            "vip": one.vip,
            "hostnames": list(one.hostnames),
            "ports": [each.port for each in one.listeners],
            "proves": list(one.services),
            "gateways": {f"{each.dataplane} at {each.address}": each.idle or "ready" for each in one.fronts},
            **({"failure": f"{one.failure.reason}: {one.failure.message}"} if one.failure is not None else {}),
            "sources": ", ".join(map(str, one.sources)),
        }
        for key, one in sorted(mesh.abroad.items())
    }


def _cross_mesh(zone: ZoneBuilder) -> dict[str, list[str]]:
    stored = (one for log in (zone.hub, zone.own.state) for one in log.kinds.get("MeshGateway", Map()).values())
    found = {str(one.key): cross_mesh_conditions(zone.state, one) for one in stored}
    return {key: [_condition(one) for one in said] for key, said in sorted(found.items()) if said}


def _service(service: ExternalServiceView) -> dict[str, Any]:
    told: dict[str, Any] = {
        "vip": service.vip,
        "port": f"{service.port}/{service.protocol}",
        "cluster": service.cluster,
        "hostnames": list(service.hostnames),
        "endpoints": [f"{one.address}:{one.port}" if one.port else one.address for one in service.endpoints],
        "sources": ", ".join(map(str, service.sources)),
    }
    materials: dict[str, TlsMaterial | None] = {
        "ca_cert": service.ca_cert,
        "client_cert": service.client_cert,
        "client_key": service.client_key,
    }
    told |= {field: material.name for field, material in materials.items() if material is not None}
    if service.permission is not None:
        lists = {"deny": service.permission.deny, "allow": service.permission.allow}
        told["permission"] = {
            name: [f"{one.type} {one.value}" for one in found] for name, found in lists.items() if found
        }
    if service.zone_pin is not None:
        told["zone_pin"] = service.zone_pin
    if service.failure is not None:
        told["failure"] = f"{service.failure.reason} {service.failure.field}: {service.failure.message}"
    return told


def _line(event: Event) -> str:
    seconds = event.time.removeprefix(EPOCH.strftime("%Y-%m-%dT")).removesuffix(".000000Z")
    return f"{event.n} after g{event.seen} at {seconds}: {_what(event)}"


def _what(event: Event) -> str:
    change = event.change
    match change:
        case ResourceApplied(resource=resource):
            return f"applied {key_of(resource, event.origin)}"
        case ResourceDeleted(key=key):
            return f"deleted {key}"
        case ZoneSettingsChanged():
            return f"settings {change.cidr}, quarantine {change.quarantine_seconds} s"
        case VipLeased():
            return f"leased {change.ip} to {change.key}"
        case VipQuarantined():
            return f"quarantined {change.ip} of {change.key} until {change.until[11:19]}"
        case VipReleased():
            return f"released {change.ip}"
        case HostnameClaimed():
            return f"claimed {change.hostname} in {change.mesh} for {change.key} through {change.generator}"
        case HostnameQuarantined():
            return f"quarantined {change.hostname} in {change.mesh} of {change.key} until {change.until[11:19]}"
        case HostnameReleased():
            return f"released {change.hostname} in {change.mesh}"
        case ProxyConnected():
            return f"connected {change.proxy}"
        case ProxyDisconnected():
            return f"disconnected {change.proxy}"
        case EventSkipped():
            return f"skipped g{change.g}: {change.reason}"
        case _:
            return type(change).__name__


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=160)
