"""Why a zone keeps a service closed: told from the state alone, for the proxies' answer and for conditions alike.

A closed service keeps its name and VIP and answers 503 with the fault's message (decisions 2, 7, 19, 28).
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from shared.events.state import Stored, ZoneState
from shared.model.material import last_expiry
from shared.model.resource import (
    ZONE_LABEL,
    DataSource,
    MeshExternalService,
    ResourceKey,
    Secret,
    Verification,
    protocol_class,
)

CHAIN_MODES = ("Secured", "SkipSAN")
"""Verification modes in which the external server's chain is verified, so that `caCert` is read."""


CA_FIELD = "spec.tls.verification.caCert"


class ServiceFault(msgspec.Struct, frozen=True):
    """A reason (CamelCase), a sentence, and the field to mend ("" when none would help)."""

    reason: str
    message: str
    field: str = ""


def service_fault(state: ZoneState, key: ResourceKey) -> ServiceFault | None:
    """Why the zone keeps the MeshExternalService `key` closed; None when it is open, or not there at all."""
    stored = state.resource(key)
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
    stored = state.resource(key)
    if stored is None or not isinstance(stored.resource, MeshExternalService):
        return ""
    spec = stored.resource.spec
    if spec.extension is not None or spec.tls is None or not spec.tls.enabled:
        return ""
    source = dict(data_sources(spec.tls.verification)).get("caCert")
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
        return ServiceFault("CaExpired", message, CA_FIELD)
    if (verification.client_cert is None) != (verification.client_key is None):
        missing = "clientKey" if verification.client_key is None else "clientCert"
        return ServiceFault(
            "ClientCertificateIncomplete",
            "clientCert and clientKey must be given together",
            f"spec.tls.verification.{missing}",
        )
    return None


def _source_fault(state: ZoneState, key: ResourceKey, field: str, source: DataSource) -> ServiceFault | None:
    path = f"spec.tls.verification.{field}"
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
