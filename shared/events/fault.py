"""Why a zone keeps a service closed: told from the state alone, for the proxies' answer and for conditions alike.

A closed service keeps its name and VIP and answers 503 with the fault's message (decisions 2, 7, 19, 28).
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from shared.events.external_hosts import external_hosts
from shared.events.state import Stored, ZoneState
from shared.model.external_service import ExternalService
from shared.model.kinds import is_door, tls_path
from shared.model.material import last_expiry
from shared.model.resource import (
    ZONE_LABEL,
    DataSource,
    ExternalTls,
    Mesh,
    MeshExternalService,
    Resource,
    ResourceKey,
    Secret,
    Verification,
    protocol_class,
)
from shared.model.successor import external_tls

CHAIN_MODES = ("Secured", "SkipSAN")
"""Verification modes in which the external server's chain is verified, so that `caCert` is read."""


CA_FIELD = "spec.tls.verification.caCert"


class ServiceFault(msgspec.Struct, frozen=True):
    """A reason (CamelCase), a sentence, and the field to mend ("" when none would help)."""

    reason: str
    message: str
    field: str = ""


def service_fault(state: ZoneState, key: ResourceKey) -> ServiceFault | None:
    """Why the zone keeps the service `key` closed; None when it is open, or not there at all."""
    stored = state.resource(key)
    if stored is not None and isinstance(stored.resource, ExternalService):
        return _legacy_fault(state, stored.key, stored.resource)
    if stored is None or not isinstance(stored.resource, MeshExternalService):
        return None
    spec = stored.resource.spec
    pin = pinned_zone(stored)
    if pin is not None and pin != state.zone:
        return ServiceFault(
            "ZonePinned",
            f"{stored.resource.name} leaves the mesh through zone {pin} only, and cross-zone egress is not configured",
            f'labels["{ZONE_LABEL}"]',
        )
    if not spec.endpoints and spec.extension is None:
        return ServiceFault("NoEndpoints", "at least one endpoint is required", "spec.endpoints")
    lease, wanted = state.own.leases.get(key), protocol_class(spec.match.protocol)
    if lease is not None and lease.protocol_class != wanted:
        return ServiceFault("VipPending", f"no VIP of class {wanted} is leased yet", "spec.match.protocol")
    if spec.extension is not None or spec.tls is None or not spec.tls.enabled:
        return None  # endpoints and TLS are the extension's own affair, and its compiler judges it
    return _tls_fault(state, key, spec.tls.verification)


def _legacy_fault(state: ZoneState, key: ResourceKey, one: ExternalService) -> ServiceFault | None:
    """The same of one ExternalService. Its zone counts where it leaves through an egress: else it is a locality."""
    pin = one.tags.get(ZONE_LABEL)
    mesh = state.resource(ResourceKey("Mesh", "", key.mesh))
    through = mesh is not None and isinstance(mesh.resource, Mesh) and legacy_through_egress(mesh.resource)
    if pin is not None and pin != state.zone and through:
        message = f"{one.name} leaves the mesh through zone {pin} only, and cross-zone egress is not configured"
        return ServiceFault("ZonePinned", message, f'tags["{ZONE_LABEL}"]')
    tls = _tls_of(one)
    return _tls_fault(state, key, tls.verification) if tls is not None and tls.enabled else None


def legacy_through_egress(mesh: Mesh) -> bool:
    """Whether traffic to legacy ExternalServices of a mesh leaves through the zone egress (decision 2)."""
    return mesh.routing.zone_egress and has_mtls(mesh)


def has_mtls(mesh: Mesh) -> bool:
    """Whether a mesh's workloads have identities."""
    return mesh.mtls is not None and any(one.name == mesh.mtls.enabled_backend for one in mesh.mtls.backends)


def pinned_zone(stored: Stored) -> str | None:
    """The zone whose egress alone may serve a global-origin service (decision 19); None when any may."""
    return stored.resource.labels.get(ZONE_LABEL) if not stored.key.zone else None


def find_secret(state: ZoneState, key: ResourceKey, name: str) -> Stored | None:
    """The Secret that service `key` means by `name`: of the service's own origin first, then of the other."""
    for zone in (key.zone, "" if key.zone else state.zone):
        stored = state.resource(ResourceKey("Secret", key.mesh, name, zone))
        if stored is not None:
            return stored
    return None


def inline_text(source: DataSource) -> str | None:
    """Clear text of an inline data source; None when there is none or it is not base64 of text."""
    if source.inline is None:
        return source.inline_string
    try:
        return base64.b64decode(source.inline, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def data_sources(verification: Verification) -> tuple[tuple[str, DataSource], ...]:
    """The data sources that are read in this mode, by field."""
    ca_cert = verification.ca_cert if verification.mode in CHAIN_MODES else None
    given = (
        ("caCert", ca_cert),
        ("clientCert", verification.client_cert),
        ("clientKey", verification.client_key),
    )
    return tuple((field, source) for field, source in given if source is not None)


def moment(state: ZoneState) -> str:
    """The time of the newest event: the only time there is in a state."""
    return max(state.hub.time, state.own.time)


def ca_expiry(state: ZoneState, key: ResourceKey) -> str:
    """When the last CA certificate that a service is to trust expires, as event time; "" where that is not known."""
    if is_door(key):
        door = external_hosts(state.hub).doors.get(key)
        found = [ca_expiry(state, one.stored.key) for one in door.members] if door is not None else []
        return min((one for one in found if one > moment(state)), default="")
    stored = state.resource(key)
    tls = _tls_of(stored.resource) if stored is not None else None
    return _authority_expiry(state, key, tls.verification) if tls is not None and tls.enabled else ""


def _tls_of(resource: Resource) -> ExternalTls | None:
    match resource:
        case MeshExternalService(spec=spec):
            return spec.tls if spec.extension is None else None
        case ExternalService(networking=networking):
            return external_tls(networking.tls) if networking.tls is not None else None
        case _:
            return None


def _authority_expiry(state: ZoneState, key: ResourceKey, verification: Verification) -> str:
    source = dict(data_sources(verification)).get("caCert")
    if source is None:
        return ""
    if source.secret is None:
        return last_expiry((inline_text(source) or "").encode())
    found = find_secret(state, key, source.secret)
    sealed = found.resource.sealed if found is not None and isinstance(found.resource, Secret) else None
    return sealed.expires if sealed is not None else ""


def _tls_fault(state: ZoneState, key: ResourceKey, verification: Verification) -> ServiceFault | None:
    for field, source in data_sources(verification):
        fault = _source_fault(state, key, field, source)
        if fault is not None:
            return fault
    expires = ca_expiry(state, key)
    if expires and expires <= moment(state):
        message = f"the last of the CA certificates expired at {expires[:19]}Z"
        return ServiceFault("CaExpired", message, f"{tls_path(key)}.caCert")
    if (verification.client_cert is None) != (verification.client_key is None):
        missing = "clientKey" if verification.client_key is None else "clientCert"
        return ServiceFault(
            "ClientCertificateIncomplete",
            "clientCert and clientKey must be given together",
            f"{tls_path(key)}.{missing}",
        )
    return None


def _source_fault(state: ZoneState, key: ResourceKey, field: str, source: DataSource) -> ServiceFault | None:
    path = f"{tls_path(key)}.{field}"
    if source.secret is not None:
        stored = find_secret(state, key, source.secret)
        if stored is None:
            return ServiceFault("SecretMissing", f"mesh {key.mesh} has no Secret {source.secret}", f"{path}.secret")
        if not isinstance(stored.resource, Secret) or stored.resource.sealed is None:
            return ServiceFault("InvalidSecret", f"Secret {source.secret} holds nothing", f"{path}.secret")
        return None
    if source.sealed is not None:
        return None
    if field == "clientKey":
        return ServiceFault("PrivateKeyInClear", "a private key must not stand in the log in clear", path)
    if inline_text(source) is not None:
        return None
    if source.inline is not None:
        return ServiceFault("InvalidDataSource", "inline is not base64 of text", f"{path}.inline")
    return ServiceFault("InvalidDataSource", "one of secret, inline, inlineString is required", path)
