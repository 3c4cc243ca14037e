"""A MeshExternalService as a zone serves it: VIP, names, TLS material, or why it is closed."""

from __future__ import annotations

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.fault import data_sources, find_secret, inline_text, pinned_zone, service_fault
from shared.events.state import ZoneState
from shared.model.resource import ORIGIN_LABEL, DataSource, ExternalTls, MeshExternalService, ResourceKey, Secret
from shared.naming.sni import cluster_name, service_sni
from zone_cp.view.zone_view import ExternalServiceView, Failure, Reading, TlsMaterial, joined


class Materials(msgspec.Struct, frozen=True):
    """TLS material of one service, resolved; empty while the service is closed."""

    ca_cert: TlsMaterial | None = None
    client_cert: TlsMaterial | None = None
    client_key: TlsMaterial | None = None

    @property
    def sources(self) -> tuple[EventRef, ...]:
        """The events that the material follows from."""
        given = (self.ca_cert, self.client_cert, self.client_key)
        return tuple(ref for material in given if material is not None for ref in material.sources)


def service_view(state: ZoneState, key: ResourceKey) -> ExternalServiceView | None:
    """The view of one service; None while it does not exist or has no VIP."""
    stored, lease = state.resource(key), state.own.leases.get(key)
    if stored is None or lease is None or not isinstance(stored.resource, MeshExternalService):
        return None
    service = stored.resource
    match, spec = service.spec.match, service.spec
    claims = state.own.names.get(key, Map())
    tls = spec.tls if spec.tls is not None and spec.tls.enabled and spec.extension is None else None
    fault = service_fault(state, key)
    materials = _materials(state, key, tls) if tls is not None and fault is None else Materials()
    sni = service_sni(lease.ip, match.port, service.mesh)
    hostnames = tuple(sorted(claims))
    read = materials.sources if fault is None or tls is None else _secrets(state, key, tls)
    refs = (*(claims[name].event for name in hostnames), *read)
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
        hostnames=hostnames,
        sni=sni,
        cluster=cluster_name(lease.protocol_class, service.mesh, sni),
        endpoints=spec.endpoints,
        tls=tls,
        ca_cert=materials.ca_cert,
        client_cert=materials.client_cert,
        client_key=materials.client_key,
        extension=spec.extension,
        zone_pin=pinned_zone(stored),
        failure=Failure(fault.reason, fault.message, fault.field) if fault is not None else None,
        sources=joined((stored.last,), (lease.event, *refs)),
    )


def readings(service: ExternalServiceView | None) -> frozenset[Reading]:
    """What a service reads that may change without it: Secrets by name, there or not, and data keys."""
    if service is None or service.tls is None:
        return frozenset()
    sources = [source for _, source in data_sources(service.tls.verification)]
    materials = (service.ca_cert, service.client_cert, service.client_key)
    sealed = [one.sealed for one in materials if one is not None and one.sealed is not None]
    secrets: set[Reading] = {("secret", source.secret) for source in sources if source.secret is not None}
    keys: set[Reading] = {("key", one.kid) for one in sealed}
    return frozenset(secrets | keys)


def _secrets(state: ZoneState, key: ResourceKey, tls: ExternalTls) -> tuple[EventRef, ...]:
    """The events of the Secrets that a closed service names: it may be closed for what they hold."""
    named = (source.secret for _, source in data_sources(tls.verification) if source.secret is not None)
    found = (find_secret(state, key, name) for name in named)
    return tuple(stored.last for stored in found if stored is not None)


def _materials(state: ZoneState, key: ResourceKey, tls: ExternalTls) -> Materials:
    found = {field: _material(state, key, field, source) for field, source in data_sources(tls.verification)}
    return Materials(found.get("caCert"), found.get("clientCert"), found.get("clientKey"))


def _material(state: ZoneState, key: ResourceKey, field: str, source: DataSource) -> TlsMaterial:
    """One resolved source of a service without fault."""
    if source.secret is None:
        name = f"mes/{key.mesh}/{key.zone or '_'}/{key.name}/{field}"
        return TlsMaterial(name, text=None if source.sealed else inline_text(source), sealed=source.sealed)
    stored = find_secret(state, key, source.secret)
    if stored is None or not isinstance(stored.resource, Secret):
        raise LookupError(f"Secret {source.secret} of {key} was there a moment ago")
    name = f"secret/{key.mesh}/{source.secret}" + (f"@{stored.key.zone}" if stored.key.zone else "")
    return TlsMaterial(name, sealed=stored.resource.sealed, sources=(stored.last,))
