"""Nouns: the resources people declare (Kuma 2.14's model, `spec/1-resources.md`).

Every resource is one member of the tagged union `Resource`. In YAML and JSON the tag is `type`, field
names are camelCase and unknown fields are refused (decision 14). Structs carry no behaviour beyond small
derived properties; meaning of fields is Kuma's unless a decision says otherwise.

Universal form is the canonical one: `type, mesh, name, labels` and then either `spec` or, for the older
kinds (Mesh, Zone, Secret, Dataplane, ZoneEgress), top-level fields. `manifest.py` turns the Kubernetes form
into it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from immutables import Map

from shared.model import carried, part, source
from shared.model.external_service import ExternalService
from shared.model.gateway import MeshGateway
from shared.model.gateway_route import MeshGatewayRoute
from shared.model.inbound import Inbound
from shared.model.policy import Policy
from shared.model.traffic_permission import TrafficPermission

Labels: TypeAlias = part.Labels
NO_LABELS: Labels = part.NO_LABELS
Json: TypeAlias = Map[str, Any]
"""A free JSON object, frozen through and through: Map for objects, tuple for lists."""

ORIGIN_LABEL = "kuma.io/origin"
ZONE_LABEL = "kuma.io/zone"
MESH_LABEL = "kuma.io/mesh"
DISPLAY_NAME_LABEL = "kuma.io/display-name"
ENV_LABEL = "kuma.io/env"

Protocol: TypeAlias = carried.Protocol
ProtocolClass: TypeAlias = Literal["http", "tcp"]
"""http covers http, http2 and grpc: VIP ranges and filter chains are split by it (decisions 15, 25)."""

TlsVersion: TypeAlias = Literal["TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"]
VerificationMode: TypeAlias = Literal["Secured", "SkipSAN", "SkipCA", "SkipAll"]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ResourceKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Identity of a resource. `mesh` is "" for global-scoped kinds; `zone` is "" for global origin.

    A global-origin and a zone-origin resource of the same kind, mesh and name are two resources.
    """

    kind: str
    mesh: str
    name: str
    zone: str = ""

    def __str__(self) -> str:
        path = "/".join(part for part in (self.kind, self.mesh, self.name) if part)
        return f"{path}@{self.zone}" if self.zone else path


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of every part of a resource: immutable, keyword-only, strict, camelCase on the wire."""


# --- data sources -----------------------------------------------------------------------------------------


Sealed: TypeAlias = source.Sealed
DataSource: TypeAlias = source.DataSource


# --- Mesh ---------------------------------------------------------------------------------------------------


class Rotation(_Model, frozen=True, kw_only=True):
    """`expiration` is Kuma's duration text such as `24h` or `1d`: lifetime of a workload certificate."""

    expiration: str = "24h"


class DpCert(_Model, frozen=True, kw_only=True):
    """Workload certificates of one mTLS backend. `request_timeout` is accepted for Kuma's sake and unused."""

    rotation: Rotation = Rotation()
    request_timeout: str | None = None


class CaBackend(_Model, frozen=True, kw_only=True):
    """One certificate authority of a mesh. Only `builtin` is implemented; `provided` is refused at admission."""

    name: str
    type: str
    dp_cert: DpCert = DpCert()
    mode: Literal["STRICT", "PERMISSIVE"] = "STRICT"
    conf: Json | None = None


class Mtls(_Model, frozen=True, kw_only=True):
    """Mutual TLS of a mesh: on exactly when `enabled_backend` names one of `backends`."""

    enabled_backend: str = ""
    backends: tuple[CaBackend, ...] = ()
    skip_validation: bool = False


class Routing(_Model, frozen=True, kw_only=True):
    """Where traffic to the outside may go. `zone_egress` concerns legacy ExternalService only (decision 2)."""

    locality_aware_load_balancing: bool = False
    zone_egress: bool = False
    default_forbid_mesh_external_service_access: bool = False


class OutboundNetworking(_Model, frozen=True, kw_only=True):
    """`passthrough: false` blocks destinations that nobody declared."""

    passthrough: bool = True


class Networking(_Model, frozen=True, kw_only=True):
    """Mesh-wide networking."""

    outbound: OutboundNetworking = OutboundNetworking()


class MeshServices(_Model, frozen=True, kw_only=True):
    """Accepted and stored; MeshExternalService does not depend on it."""

    mode: Literal["Disabled", "Everywhere", "ReachableBackends", "Exclusive"] = "Disabled"


class Mesh(_Model, frozen=True, kw_only=True, tag_field="type", tag="Mesh"):
    """A mesh. The label `zonal.io/mes-origination: sidecar` chooses direct mode (decision 2); the label
    `zonal.io/allow-addresses` lists CIDRs that endpoints may use although decision 13 refuses them.
    """

    name: str
    labels: Labels = NO_LABELS
    mtls: Mtls | None = None
    routing: Routing = Routing()
    networking: Networking = Networking()
    mesh_services: MeshServices = MeshServices()
    skip_creating_initial_policies: tuple[str, ...] = ()


# --- Zone, Secret --------------------------------------------------------------------------------------------


class Zone(_Model, frozen=True, kw_only=True, tag_field="type", tag="Zone"):
    """A zone. `enabled: false` withholds cross-zone resources of it from others."""

    name: str
    labels: Labels = NO_LABELS
    enabled: bool = True


class Secret(_Model, frozen=True, kw_only=True, tag_field="type", tag="Secret"):
    """A secret of a mesh. `data` (base64) exists only on its way in; the log and every view hold `sealed`."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    data: str | None = None
    sealed: Sealed | None = None


# --- HostnameGenerator -----------------------------------------------------------------------------------------


class LabelSelector(_Model, frozen=True, kw_only=True):
    """Selects by equality of every listed label; empty selects all of the kind."""

    match_labels: Labels = NO_LABELS


class HostnameSelector(_Model, frozen=True, kw_only=True):
    """Exactly one of the three is set."""

    mesh_service: LabelSelector | None = None
    mesh_external_service: LabelSelector | None = None
    mesh_multi_zone_service: LabelSelector | None = None


class Extension(_Model, frozen=True, kw_only=True):
    """Plug-in configuration: `type` names the extension, `config` is passed to it unread."""

    type: str
    config: Json | None = None


class HostnameGeneratorSpec(_Model, frozen=True, kw_only=True):
    """`template` is the grammar of decision 17."""

    selector: HostnameSelector
    template: str
    extension: Extension | None = None


class HostnameGenerator(_Model, frozen=True, kw_only=True, tag_field="type", tag="HostnameGenerator"):
    """Gives hostnames to the services it selects, in every mesh. Global-scoped."""

    name: str
    labels: Labels = NO_LABELS
    spec: HostnameGeneratorSpec


# --- MeshExternalService -----------------------------------------------------------------------------------------


class Match(_Model, frozen=True, kw_only=True):
    """What the application connects to: VIP and hostname at `port`, speaking `protocol`."""

    port: Port
    type: Literal["HostnameGenerator"] = "HostnameGenerator"
    protocol: Protocol = "tcp"


class Endpoint(_Model, frozen=True, kw_only=True):
    """An external address: IP, DNS name or `unix:///path` (decision 1: then `port` is absent)."""

    address: str
    port: Port | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=128)] | None = None


class TlsVersions(_Model, frozen=True, kw_only=True):
    """Limits of the TLS version towards the outside (decision 6)."""

    min: TlsVersion = "TLSAuto"
    max: TlsVersion = "TLSAuto"


class SubjectAltName(_Model, frozen=True, kw_only=True):
    """One SAN to accept: matched as DNS, IP and, where it contains `://`, URI (decision 4)."""

    value: str
    type: Literal["Exact", "Prefix"] = "Exact"


class Verification(_Model, frozen=True, kw_only=True):
    """How the external server's certificate is verified and what client certificate is shown."""

    mode: VerificationMode = "Secured"
    server_name: str | None = None
    subject_alt_names: tuple[SubjectAltName, ...] = ()
    ca_cert: DataSource | None = None
    client_cert: DataSource | None = None
    client_key: DataSource | None = None


class ExternalTls(_Model, frozen=True, kw_only=True):
    """TLS origination towards the outside; everything else is ignored while `enabled` is false."""

    enabled: bool = False
    version: TlsVersions = TlsVersions()
    allow_renegotiation: bool = False
    verification: Verification = Verification()


class MeshExternalServiceSpec(_Model, frozen=True, kw_only=True):
    """See seed 000 for the fields."""

    match: Match
    endpoints: tuple[Endpoint, ...] = ()
    tls: ExternalTls | None = None
    extension: Extension | None = None


class MeshExternalService(_Model, frozen=True, kw_only=True, tag_field="type", tag="MeshExternalService"):
    """A destination outside the mesh, with hostnames and a VIP inside it."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    spec: MeshExternalServiceSpec


# --- Dataplane, ZoneEgress -----------------------------------------------------------------------------------------


class BackendRef(_Model, frozen=True, kw_only=True):
    """Exactly one of `name` and `labels`; a name resolves in the zone first, then among global ones."""

    kind: Literal["MeshExternalService", "MeshService", "MeshMultiZoneService"]
    name: str | None = None
    labels: Labels = NO_LABELS
    port: Port | None = None


class Outbound(_Model, frozen=True, kw_only=True):
    """A listener on `address:port` of the sidecar's host that leads to `backend_ref` (or legacy `tags`)."""

    port: Port
    address: str = "127.0.0.1"
    backend_ref: BackendRef | None = None
    tags: Labels = NO_LABELS


class TransparentProxying(_Model, frozen=True, kw_only=True):
    """Present when the host redirects traffic to the sidecar (`zonal proxy redirect`)."""

    redirect_port_outbound: Port = 15001
    redirect_port_inbound: Port = 15006
    reachable_services: tuple[str, ...] = ()
    ip_family_mode: Literal["UnSpecified", "DualStack", "IPv4", "IPv6"] = "IPv4"


class GatewayNetworking(_Model, frozen=True, kw_only=True):
    """A gateway: BUILTIN is bound to a MeshGateway by `tags`, DELEGATED is somebody else's behind a sidecar."""

    tags: Labels
    type: Literal["BUILTIN", "DELEGATED"] = "DELEGATED"


class AdminNetworking(_Model, frozen=True, kw_only=True):
    """Port of Envoy's admin interface on the proxy's host."""

    port: Port


class DataplaneNetworking(_Model, frozen=True, kw_only=True):
    """Addresses and ports of one workload."""

    address: str
    advertised_address: str | None = None
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    gateway: GatewayNetworking | None = None
    transparent_proxying: TransparentProxying | None = None
    admin: AdminNetworking | None = None


class Dataplane(_Model, frozen=True, kw_only=True, tag_field="type", tag="Dataplane"):
    """One workload with a sidecar. Always of zone origin."""

    name: str
    mesh: str = "default"
    labels: Labels = NO_LABELS
    networking: DataplaneNetworking


class ZoneEgressNetworking(_Model, frozen=True, kw_only=True):
    """Where sidecars reach the egress."""

    address: str
    port: Port
    admin: AdminNetworking | None = None


class ZoneEgress(_Model, frozen=True, kw_only=True, tag_field="type", tag="ZoneEgress"):
    """One zone egress instance. Global-scoped, always of zone origin."""

    name: str
    zone: str = ""
    labels: Labels = NO_LABELS
    networking: ZoneEgressNetworking


Resource: TypeAlias = (
    Mesh
    | Zone
    | Secret
    | HostnameGenerator
    | ExternalService
    | MeshExternalService
    | Dataplane
    | ZoneEgress
    | MeshGateway
    | MeshGatewayRoute
    | TrafficPermission
    | Policy
)


def mesh_of(resource: Resource) -> str:
    """Mesh a resource belongs to, or "" for global-scoped kinds."""
    mesh: str = getattr(resource, "mesh", "")  # it is asked of each event of a replay
    return mesh


def key_of(resource: Resource, zone: str = "") -> ResourceKey:
    """Identity of a resource that originates in `zone` ("" = global)."""
    return ResourceKey(type(resource).__name__, mesh_of(resource), resource.name, zone)


def protocol_class(protocol: Protocol) -> ProtocolClass:
    """The class of a protocol: what VIP ranges, chains and cluster names are split by."""
    return "tcp" if protocol == "tcp" else "http"
