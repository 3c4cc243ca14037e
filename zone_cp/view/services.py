"""A MeshExternalService as a zone serves it: VIP, names, TLS material, or why it is closed."""

from __future__ import annotations

from immutables import Map

from shared.events.fault import data_sources, pinned_zone, service_fault
from shared.events.state import ZoneState
from shared.model.kinds import is_door
from shared.model.resource import ORIGIN_LABEL, MeshExternalService, ResourceKey
from shared.naming.sni import cluster_name, service_sni
from zone_cp.view.legacy import door_view
from zone_cp.view.materials import NOTHING, materials_of, secrets_named
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, Failure, Reading


def service_view(state: ZoneState, key: ResourceKey) -> ExternalServiceView | None:
    """The view of one service; None while it does not exist or has no VIP."""
    if is_door(key):
        return door_view(state, key)
    stored, lease = state.resource(key), state.own.leases.get(key)
    if stored is None or lease is None or not isinstance(stored.resource, MeshExternalService):
        return None
    service = stored.resource
    match, spec = service.spec.match, service.spec
    claims = state.own.names.get(key, Map())
    tls = spec.tls if spec.tls is not None and spec.tls.enabled and spec.extension is None else None
    fault = service_fault(state, key)
    materials = materials_of(state, key, tls) if tls is not None and fault is None else NOTHING
    sni = service_sni(lease.ip, match.port, service.mesh)
    hostnames = tuple(sorted(claims))
    read = materials.sources if fault is None or tls is None else secrets_named(state, key, tls)
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
    if service is not None and service.parts:
        return frozenset[Reading]().union(*(readings(one) for one in service.parts))
    if service is None or service.tls is None:
        return frozenset()
    sources = [source for _, source in data_sources(service.tls.verification)]
    materials = (service.ca_cert, service.client_cert, service.client_key)
    sealed = [one.sealed for one in materials if one is not None and one.sealed is not None]
    secrets: set[Reading] = {("secret", source.secret) for source in sources if source.secret is not None}
    keys: set[Reading] = {("key", one.kid) for one in sealed}
    return frozenset(secrets | keys)
