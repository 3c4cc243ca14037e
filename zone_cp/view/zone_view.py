"""ZoneView: what a zone's proxies must be told, in the mesh's own words, before any Envoy word is used.

A pure value, projected from a ZoneState by `project.py` and compiled to xDS by `zone_cp/xds`. Every part
names the events it follows from (`sources`), which is what `zonal explain` prints.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

import msgspec
from immutables import Map

from shared.events.cross_mesh import CrossMeshListener
from shared.events.event import EventRef
from shared.events.state import Narrowed, Position, Stored
from shared.model.resource import (
    Dataplane,
    Endpoint,
    Extension,
    ExternalTls,
    Labels,
    Protocol,
    ProtocolClass,
    ResourceKey,
    Sealed,
    ZoneEgress,
)
from zone_cp.view.expiries import NO_EXPIRIES, Expiries
from zone_cp.view.policies import NO_POLICIES, NOTHING_SAID, Effective, MeshPolicies, Permission
from zone_cp.view.sources import Sources
from zone_cp.view.workloads import NO_WORKLOADS, Instance, Workloads

Origination: TypeAlias = Literal["egress", "sidecar"]
EXCLUSIVE = "exclusive-ports"
Reading: TypeAlias = tuple[Literal["secret", "key"], str]
"""A Secret by its name, or a data key by its id."""


class Failure(msgspec.Struct, frozen=True):
    """Why a destination is closed: a condition reason (CamelCase), a sentence, the field to mend."""

    reason: str
    message: str
    field: str = ""


class TlsMaterial(msgspec.Struct, frozen=True):
    """Resolved bytes of one data source: clear PEM (inline CA or certificate) or sealed (Secret, keys).

    `name` is the SDS name; it is stable while the bytes' origin is (`secret/<mesh>/<name>` for Secrets,
    `mes/<mesh>/<origin zone or _>/<mes>/<field>` for inline material).
    """

    name: str
    text: str | None = None
    sealed: Sealed | None = None
    sources: Sources = ()


class ExternalServiceView(msgspec.Struct, frozen=True):
    """A MeshExternalService as this zone serves it, or a door of legacy ExternalServices (`view/legacy.py`).

    cluster is the egress's cluster name `mes/<class>/<mesh>/<sni>`; sni is what a sidecar sends (decision
    25). failure set means: keep the name and VIP, answer 503 with the failure's message (TCP: close).
    zone_pin is the zone whose egress alone may serve it (decision 19), None when any may.
    outside is what policies for all clients say where the outside is dialled; permission is who may use it.
    Of a door: service is its `kuma.io/service`, parts are the ExternalServices behind it where they are several, of
    which those with a failure are not dialled.
    """

    key: ResourceKey
    mesh: str
    name: str
    labels: Labels
    protocol: Protocol
    protocol_class: ProtocolClass
    port: int
    vip: str
    hostnames: tuple[str, ...]
    sni: str
    cluster: str
    endpoints: tuple[Endpoint, ...]
    tls: ExternalTls | None
    ca_cert: TlsMaterial | None
    client_cert: TlsMaterial | None
    client_key: TlsMaterial | None
    extension: Extension | None
    zone_pin: str | None
    failure: Failure | None
    sources: Sources
    outside: Effective = NOTHING_SAID
    permission: Permission | None = None
    service: str = ""
    parts: tuple[ExternalServiceView, ...] = ()

    @property
    def dialled(self) -> tuple[ExternalServiceView, ...]:
        """What endpoints and TLS stand in: the service itself, or its parts."""
        return self.parts or (self,)

    @property
    def judged_sources(self) -> Sources:
        """The events of the service, and of who may use it."""
        return self.sources if self.permission is None else (*self.sources, *self.permission.sources)


class DeclaredGateway(msgspec.Struct, frozen=True):
    """A MeshGateway that this zone knows, and by number of the listener its certificates: the material of each, or why
    there is none.
    """

    stored: Stored
    certificates: tuple[tuple[TlsMaterial | Failure, ...], ...] = ()


class AbroadView(msgspec.Struct, frozen=True):
    """What a mesh sees of a MeshGateway of another one under one name: its cross-mesh listeners (A12).

    gateway is its key, services are the `kuma.io/service` of which its Dataplanes have to prove one, and fronts those
    that are bound to it in this zone (port 0: the listeners' are to be dialled), whose events are not among `sources`.
    failure set: closed, and why.
    """

    key: ResourceKey
    gateway: ResourceKey
    vip: str
    hostnames: tuple[str, ...]
    listeners: tuple[CrossMeshListener, ...]
    services: tuple[str, ...]
    fronts: tuple[Instance, ...]
    failure: Failure | None
    sources: Sources


class MeshView(msgspec.Struct, frozen=True):
    """A mesh in this zone. `services` holds those MES that have a VIP, by key.

    permissive: inbound listeners accept plaintext beside mutual TLS (the backend's mode). workloads is what the zone's
    own Dataplanes serve to each other. narrowed: who lost access to external services, and the newest event of each log
    that took it.
    legacy: the event of the first ExternalService, () where there are none; legacy_egress: whether they are reached
    through the zone egress.
    readers: the services that have to be looked at again when a Secret or a data key changes.
    gateways, gateway_routes: the MeshGateways that gateway Dataplanes may be bound to, and the MeshGatewayRoutes; which
    of them concern a Dataplane follows from tags (`view/gateways.py`).
    fronts: by name the zone's own builtin gateways, where they are and who is connected. abroad: what the mesh sees of
    MeshGateways of other meshes (`view/abroad.py`).
    """

    name: str
    mtls: bool
    backend: str
    certificate_seconds: int
    origination: Origination
    forbid_external: bool
    passthrough: bool
    services: Map[ResourceKey, ExternalServiceView]
    sources: Sources
    permissive: bool = False
    policies: MeshPolicies = NO_POLICIES
    workloads: Workloads = NO_WORKLOADS
    narrowed: tuple[tuple[Narrowed, EventRef], ...] = ()
    legacy: Sources = ()
    legacy_egress: bool = False
    readers: Map[Reading, Map[ResourceKey, None]] = Map()
    gateways: Map[ResourceKey, DeclaredGateway] = Map()
    gateway_routes: Map[ResourceKey, Stored] = Map()
    fronts: Map[str, Instance] = Map()
    abroad: Map[ResourceKey, AbroadView] = Map()

    def lost_by(self, spiffe_id: str) -> Sources:
        """The newest events, one per log, that took access to external services from a workload."""
        found = {ref.origin: ref for who, ref in self.narrowed if who.covers(spiffe_id)}
        return tuple(found[origin] for origin in sorted(found))


class EgressView(msgspec.Struct, frozen=True):
    """One online zone egress: where sidecars reach it."""

    name: str
    address: str
    port: int
    sources: Sources


class ZoneView(msgspec.Struct, frozen=True):
    """All of a zone at one moment. `vip_ranges` is, per class, the CIDRs its VIPs lie in.

    With more than `on_demand_above` services at the zone egresses, those load each service when it is first used.
    expiries is when services will close by themselves. legacy_ranges: the CIDRs of legacy ExternalServices' VIPs.
    """

    zone: str
    position: Position
    meshes: Map[str, MeshView]
    egresses: tuple[EgressView, ...]
    vip_ranges: Map[ProtocolClass, tuple[str, ...]]
    on_demand_above: int = sys.maxsize
    expiries: Expiries = NO_EXPIRIES
    legacy_ranges: Map[ProtocolClass, tuple[str, ...]] = Map()


class Difference(msgspec.Struct, frozen=True):
    """How a view differs from the one before.

    services are, by mesh, those that differ, came, went, or whose sealed material may be readable now or no more;
    meshes are, by name, the other fields that differ (all of them for a mesh that came or went); proxies and
    resources are those that events are about: proxies by id, Dataplanes and ZoneEgresses by key; declared are the
    services that events are about, in the view or not. generators, settings, material: whether any of them were
    touched, of material Secrets and data keys.
    """

    services: Mapping[str, Collection[ResourceKey]] = Map()
    meshes: Mapping[str, frozenset[str]] = Map()
    egresses: bool = False
    vip_ranges: bool = False
    on_demand_above: bool = False
    proxies: frozenset[str] = frozenset()
    resources: frozenset[ResourceKey] = frozenset()
    declared: frozenset[ResourceKey] = frozenset()
    generators: bool = False
    settings: bool = False
    material: bool = False


class ProxyView(msgspec.Struct, frozen=True, cache_hash=True):
    """One proxy: its resource and what its node metadata said (as recorded in ProxyConnected).

    features known to the compiler: `redirect` (all outbound traffic arrives at one original-destination
    listener), `bind-vips` (one listener per VIP:port; the default without redirect), `proxyless` (no Envoy but a gRPC
    client's own resolver), `exclusive-ports` (explicit listeners share their ports with no other process).
    """

    proxy: str
    resource: Dataplane | ZoneEgress
    features: tuple[str, ...]
    system_ca_path: str
    sources: Sources

    @property
    def exclusive(self) -> bool:
        """Whether its Envoy was made for exclusive listeners: one cannot be made exclusive while it listens."""
        return EXCLUSIVE in self.features
