"""The kinds of resource: their paths, scope, and which plane may write them. String comparison on kinds stays here."""

from __future__ import annotations

import re

import msgspec

from shared.model.endpoint_policy import MeshHealthCheck, MeshLoadBalancingStrategy
from shared.model.external_service import ExternalService
from shared.model.gateway import MeshGateway
from shared.model.gateway_route import MeshGatewayRoute
from shared.model.log_policy import MeshAccessLog
from shared.model.passthrough_policy import MeshPassthrough
from shared.model.policy import MeshCircuitBreaker, MeshRetry, MeshTimeout, MeshTrafficPermission, Policy
from shared.model.resource import (
    Dataplane,
    HostnameGenerator,
    Mesh,
    MeshExternalService,
    Resource,
    ResourceKey,
    Secret,
    Zone,
    ZoneEgress,
)
from shared.model.route_policy import MeshHTTPRoute, MeshTCPRoute
from shared.model.traffic_permission import TrafficPermission

KUBERNETES_API = "kuma.io/v1alpha1"
SECRET_TYPE = "system.kuma.io/secret"  # noqa: S105 - the type of a Kubernetes Secret, no credential


class Kind(msgspec.Struct, frozen=True):
    """One kind. `path` is its collection in the HTTP API; `plugin` kinds keep their fields under `spec`."""

    name: str
    path: str
    type: type[Resource]
    mesh_scoped: bool
    plugin: bool
    on_global: bool
    on_zone: bool


def _policy(path: str, made: type[Policy]) -> Kind:
    # A policy of global origin holds in every zone, one of zone origin in its own (B1).
    return Kind(made.__name__, path, made, mesh_scoped=True, plugin=True, on_global=True, on_zone=True)


KINDS: tuple[Kind, ...] = (
    Kind("Dataplane", "dataplanes", Dataplane, mesh_scoped=True, plugin=False, on_global=False, on_zone=True),
    Kind(
        "ExternalService",
        "externalservices",
        ExternalService,
        mesh_scoped=True,
        plugin=False,
        on_global=True,
        on_zone=False,
    ),
    Kind(
        "HostnameGenerator",
        "hostnamegenerators",
        HostnameGenerator,
        mesh_scoped=False,
        plugin=True,
        on_global=True,
        on_zone=True,
    ),
    Kind("Mesh", "meshes", Mesh, mesh_scoped=False, plugin=False, on_global=True, on_zone=False),
    Kind(
        "MeshExternalService",
        "meshexternalservices",
        MeshExternalService,
        mesh_scoped=True,
        plugin=True,
        on_global=True,
        on_zone=True,
    ),
    _policy("meshaccesslogs", MeshAccessLog),
    _policy("meshcircuitbreakers", MeshCircuitBreaker),
    Kind("MeshGateway", "meshgateways", MeshGateway, mesh_scoped=True, plugin=False, on_global=True, on_zone=True),
    Kind(
        "MeshGatewayRoute",
        "meshgatewayroutes",
        MeshGatewayRoute,
        mesh_scoped=True,
        plugin=False,
        on_global=True,
        on_zone=False,
    ),
    _policy("meshhealthchecks", MeshHealthCheck),
    _policy("meshhttproutes", MeshHTTPRoute),
    _policy("meshloadbalancingstrategies", MeshLoadBalancingStrategy),
    _policy("meshpassthroughs", MeshPassthrough),
    _policy("meshretries", MeshRetry),
    _policy("meshtcproutes", MeshTCPRoute),
    _policy("meshtimeouts", MeshTimeout),
    _policy("meshtrafficpermissions", MeshTrafficPermission),
    Kind("Secret", "secrets", Secret, mesh_scoped=True, plugin=False, on_global=True, on_zone=False),
    Kind(
        "TrafficPermission",
        "traffic-permissions",
        TrafficPermission,
        mesh_scoped=True,
        plugin=False,
        on_global=True,
        on_zone=False,
    ),
    Kind("Zone", "zones", Zone, mesh_scoped=False, plugin=False, on_global=True, on_zone=False),
    Kind("ZoneEgress", "zoneegresses", ZoneEgress, mesh_scoped=False, plugin=False, on_global=False, on_zone=True),
)

_BY_NAME = {kind.name: kind for kind in KINDS}
_BY_PATH = {kind.path: kind for kind in KINDS}

_INSTEAD = {
    "MeshGatewayInstance": "it makes Deployments on Kubernetes. Run `zonal proxy gateway` with a Dataplane whose "
    "networking.gateway has its tags and type BUILTIN",
    "TrafficRoute": "use MeshHTTPRoute or MeshTCPRoute",
    "Timeout": "use MeshTimeout",
    "Retry": "use MeshRetry",
    "CircuitBreaker": "use MeshCircuitBreaker",
    "HealthCheck": "use MeshHealthCheck",
    "TrafficLog": "use MeshAccessLog",
    "VirtualOutbound": "use HostnameGenerator",
}
"""Kinds of Kuma that are not here, and what does their work."""

READ_ONLY_ON_GLOBAL = (
    "On global control plane you can not modify {kind} resources with 'kumactl apply' or via the HTTP API. "
    "You can still use 'kumactl' or the HTTP API to modify them on the zone control plane."
)
READ_ONLY_ON_ZONE = (
    "On zone control plane you can only modify zone resources with 'kumactl apply' or via the HTTP API. "
    "You can still use 'kumactl' or the HTTP API to modify the rest of the resource on the global control plane."
)


def by_name(name: str) -> Kind | None:
    """The kind called `name` (`MeshExternalService`), or None."""
    return _BY_NAME.get(name)


def unknown(name: str) -> str:
    """Why there is nothing called `name`, and what to use instead where Kuma has it."""
    if name in _INSTEAD:
        return f"{name} is not supported: {_INSTEAD[name]}"
    return "unknown type, known are " + ", ".join(_BY_NAME)


def by_path(path: str) -> Kind | None:
    """The kind whose collection is `path` (`meshexternalservices`), or None."""
    return _BY_PATH.get(path)


def kind_of(resource: Resource) -> Kind:
    """The kind of a resource."""
    return _BY_NAME[type(resource).__name__]


def lookup(word: str) -> Kind | None:
    """The kind a person means by `mes`, `meshexternalservice`, `MeshExternalServices`, …; None when none fits."""
    flat = re.sub(r"[-_+ ]", "", word).lower()
    short = {
        "mes": "MeshExternalService",
        "es": "ExternalService",
        "extsvc": "MeshExternalService",
        "hg": "HostnameGenerator",
        "dp": "Dataplane",
        "ze": "ZoneEgress",
        "m": "Mesh",
        "mgw": "MeshGateway",
        "z": "Zone",
    }
    if flat in short:
        return _BY_NAME[short[flat]]
    for kind in KINDS:
        if flat in (kind.name.lower(), kind.path):
            return kind
    return None


def read_only_reason(kind: Kind, *, zone: str) -> str | None:
    """Why resources of `kind` cannot be written on this plane (`zone` is "" on global), or None when they can."""
    if zone:
        return None if kind.on_zone else READ_ONLY_ON_ZONE
    return None if kind.on_global else READ_ONLY_ON_GLOBAL.format(kind=kind.name.lower())


def is_legacy(key: ResourceKey) -> bool:
    """Whether it is an ExternalService, or a host or door of some (`shared/events/external_hosts.py`)."""
    return key.kind == "ExternalService"


def is_door(key: ResourceKey) -> bool:
    """Whether it is a host or door of legacy ExternalServices: no resource, whose names hold no colon."""
    return is_legacy(key) and ":" in key.name


def is_cross_mesh_host(key: ResourceKey) -> bool:
    """Whether it is what a mesh sees of another one's MeshGateway (`shared/events/cross_mesh.py`), and no resource."""
    return key.kind == "MeshGateway" and ":" in key.name


def service_key(mesh: str, name: str, zone: str) -> ResourceKey:
    """The key that a zone serves a service under, back from its parts."""
    return ResourceKey("ExternalService" if ":" in name else "MeshExternalService", mesh, name, zone)


def tls_path(key: ResourceKey) -> str:
    """Where the TLS material of a service is declared."""
    return "networking.tls" if is_legacy(key) else "spec.tls.verification"


def item_path(key: ResourceKey) -> str:
    """Path of one resource in the HTTP API, without the zone of its origin."""
    path = _BY_NAME[key.kind].path
    return f"/meshes/{key.mesh}/{path}/{key.name}" if key.mesh else f"/{path}/{key.name}"
