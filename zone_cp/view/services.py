"""A MeshExternalService as a zone serves it: VIP, names, material, or why it is closed (decisions 2, 7, 19, 28)."""

from __future__ import annotations

import base64
import binascii

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.state import Stored, ZoneState
from shared.model.resource import (
    ORIGIN_LABEL,
    ZONE_LABEL,
    DataSource,
    MeshExternalService,
    ResourceKey,
    Secret,
    Verification,
    protocol_class,
)
from shared.naming.sni import cluster_name, service_sni
from zone_cp.view.zone_view import ExternalServiceView, Failure, Sources, TlsMaterial

KNOWN_EXTENSIONS: frozenset[str] = frozenset()
"""Types of `spec.extension` that a compiler is installed for."""

VERIFIES_CHAIN = ("Secured", "SkipSAN")


class Materials(msgspec.Struct, frozen=True):
    """TLS material of one service, resolved; `failure` names the first source that could not be."""

    ca_cert: TlsMaterial | None = None
    client_cert: TlsMaterial | None = None
    client_key: TlsMaterial | None = None
    failure: Failure | None = None


def service_view(state: ZoneState, key: ResourceKey) -> ExternalServiceView | None:
    """The view of one service; None while it does not exist or has no VIP."""
    stored, lease = state.resource(key), state.own.leases.get(key)
    if stored is None or lease is None or not isinstance(stored.resource, MeshExternalService):
        return None
    service = stored.resource
    match, spec = service.spec.match, service.spec
    claims = state.own.names.get(key, Map())
    tls = spec.tls if spec.tls is not None and spec.tls.enabled else None
    materials = _materials(state, key, tls.verification) if tls is not None else Materials()
    pin = service.labels.get(ZONE_LABEL) if not key.zone else None
    sni = service_sni(lease.ip, match.port, service.mesh)
    found = (
        material.sources for material in (materials.ca_cert, materials.client_cert, materials.client_key) if material
    )
    return ExternalServiceView(
        key=key,
        mesh=service.mesh,
        name=service.name,
        labels=service.labels.set(ORIGIN_LABEL, "zone" if key.zone else "global"),
        protocol=match.protocol,
        # The lease's class, not the resource's: until the zone has leased anew, the VIP stands in that range.
        protocol_class=lease.protocol_class,
        port=match.port,
        vip=lease.ip,
        hostnames=tuple(sorted(claims)),
        sni=sni,
        cluster=cluster_name(lease.protocol_class, service.mesh, sni),
        endpoints=spec.endpoints,
        tls=tls,
        ca_cert=materials.ca_cert,
        client_cert=materials.client_cert,
        client_key=materials.client_key,
        extension=spec.extension,
        zone_pin=pin,
        failure=_failure(state, stored, service, pin) or materials.failure,
        sources=_sources(
            stored.last,
            lease.event,
            *(claims[name].event for name in sorted(claims)),
            *(ref for refs in found for ref in refs),
        ),
    )


def secrets_of(service: MeshExternalService) -> frozenset[str]:
    """Names of the Secrets that a service refers to."""
    if service.spec.tls is None:
        return frozenset()
    verification = service.spec.tls.verification
    sources = (verification.ca_cert, verification.client_cert, verification.client_key)
    return frozenset(source.secret for source in sources if source is not None and source.secret is not None)


def _failure(state: ZoneState, stored: Stored, service: MeshExternalService, pin: str | None) -> Failure | None:
    spec = service.spec
    if pin is not None and pin != state.zone:
        return Failure(
            "ZonePinned",
            f"{service.name} leaves the mesh through zone {pin} only, and cross-zone egress is not configured",
            f'labels["{ZONE_LABEL}"]',
        )
    if spec.extension is not None and spec.extension.type not in KNOWN_EXTENSIONS:
        return Failure(
            "UnknownExtension", f"no extension of type {spec.extension.type} is installed", "spec.extension.type"
        )
    if not spec.endpoints and spec.extension is None:
        return Failure("NoEndpoints", "at least one endpoint is required", "spec.endpoints")
    lease = state.own.leases[stored.key]
    if lease.protocol_class != protocol_class(spec.match.protocol):
        return Failure(
            "VipPending", f"no VIP of class {protocol_class(spec.match.protocol)} is leased yet", "spec.match"
        )
    return None


def _materials(state: ZoneState, key: ResourceKey, verification: Verification) -> Materials:
    found: list[TlsMaterial | None] = []
    for field, source in (
        ("caCert", verification.ca_cert if verification.mode in VERIFIES_CHAIN else None),
        ("clientCert", verification.client_cert),
        ("clientKey", verification.client_key),
    ):
        material = _material(state, key, field, source) if source is not None else None
        if isinstance(material, Failure):
            return Materials(failure=material)
        found.append(material)
    ca_cert, client_cert, client_key = found
    if (client_cert is None) != (client_key is None):
        missing = "clientKey" if client_key is None else "clientCert"
        return Materials(
            failure=Failure(
                "ClientCertificateIncomplete",
                "clientCert and clientKey must be given together",
                f"spec.tls.verification.{missing}",
            )
        )
    return Materials(ca_cert, client_cert, client_key)


def _material(state: ZoneState, key: ResourceKey, field: str, source: DataSource) -> TlsMaterial | Failure:
    path = f"spec.tls.verification.{field}"
    name = f"mes/{key.mesh}/{key.zone or '_'}/{key.name}/{field}"
    if source.secret is not None:
        return _secret(state, key, source.secret, f"{path}.secret")
    if source.sealed is not None:
        return TlsMaterial(name, sealed=source.sealed)
    if field == "clientKey":
        return Failure("PrivateKeyInClear", "a private key must not stand in the log in clear", path)
    if source.inline is not None:
        try:
            text = base64.b64decode(source.inline, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return Failure("InvalidDataSource", "inline is not base64 of text", f"{path}.inline")
        return TlsMaterial(name, text=text)
    if source.inline_string is not None:
        return TlsMaterial(name, text=source.inline_string)
    return Failure("InvalidDataSource", "one of secret, inline, inlineString is required", path)


def _secret(state: ZoneState, key: ResourceKey, name: str, path: str) -> TlsMaterial | Failure:
    """A Secret of the service's mesh: of the service's own origin first, then of the other."""
    for zone in (key.zone, "" if key.zone else state.zone):
        stored = state.resource(ResourceKey("Secret", key.mesh, name, zone))
        if stored is None or not isinstance(stored.resource, Secret):
            continue
        if stored.resource.sealed is None:
            return Failure("InvalidSecret", f"Secret {name} of mesh {key.mesh} holds nothing", path)
        sds = f"secret/{key.mesh}/{name}" + (f"@{zone}" if zone else "")
        return TlsMaterial(sds, sealed=stored.resource.sealed, sources=(stored.last,))
    return Failure("SecretMissing", f"mesh {key.mesh} has no Secret {name}", path)


def _sources(*refs: EventRef) -> Sources:
    return tuple(dict.fromkeys(refs))
