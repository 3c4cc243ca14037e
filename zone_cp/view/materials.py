"""TLS material of a service, resolved: what its data sources name, found in a zone's state."""

from __future__ import annotations

import msgspec

from shared.events.event import EventRef
from shared.events.fault import data_sources, find_secret, inline_text
from shared.events.state import Stored, ZoneState
from shared.model.kinds import is_legacy
from shared.model.resource import DataSource, ExternalTls, ResourceKey, Secret
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, TlsMaterial


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


NOTHING = Materials()

_FIELDS = {"caCert": "ca_cert", "clientCert": "client_cert", "clientKey": "client_key"}


def materials_of(state: ZoneState, key: ResourceKey, tls: ExternalTls) -> Materials:
    """The material of a service without fault."""
    read = data_sources(tls.verification)
    return Materials(**{_FIELDS[field]: _material(state, key, field, source) for field, source in read})


def renewed(state: ZoneState, service: ExternalServiceView) -> ExternalServiceView:
    """A service of an earlier view with what the Secrets that it names hold now; what is gone stays as it was."""
    if service.parts:
        parts = tuple(renewed(state, one) for one in service.parts)
        return service if parts == service.parts else msgspec.structs.replace(service, parts=parts)
    if service.tls is None or service.failure is not None:
        return service
    before = Materials(service.ca_cert, service.client_cert, service.client_key)
    found = {
        _FIELDS[field]: _material(state, service.key, field, source)
        for field, source in data_sources(service.tls.verification)
        if source.secret is not None and _holds_something(find_secret(state, service.key, source.secret))
    }
    after = msgspec.structs.replace(before, **found)
    if after == before:
        return service
    sources = tuple(one for one in service.sources if one not in before.sources)
    return msgspec.structs.replace(service, **found, sources=joined(sources, after.sources))


def _holds_something(stored: Stored | None) -> bool:
    return stored is not None and isinstance(stored.resource, Secret) and stored.resource.sealed is not None


def secrets_named(state: ZoneState, key: ResourceKey, tls: ExternalTls) -> tuple[EventRef, ...]:
    """The events of the Secrets that a closed service names: it may be closed for what they hold."""
    named = (source.secret for _, source in data_sources(tls.verification) if source.secret is not None)
    found = (find_secret(state, key, name) for name in named)
    return tuple(stored.last for stored in found if stored is not None)


def _material(state: ZoneState, key: ResourceKey, field: str, source: DataSource) -> TlsMaterial:
    """One resolved source of a service without fault."""
    if source.secret is None:
        name = f"{'es' if is_legacy(key) else 'mes'}/{key.mesh}/{key.zone or '_'}/{key.name}/{field}"
        return TlsMaterial(name, text=None if source.sealed else inline_text(source), sealed=source.sealed)
    stored = find_secret(state, key, source.secret)
    if stored is None or not isinstance(stored.resource, Secret):
        raise LookupError(f"Secret {source.secret} of {key} was there a moment ago")
    name = f"secret/{key.mesh}/{source.secret}" + (f"@{stored.key.zone}" if stored.key.zone else "")
    return TlsMaterial(name, sealed=stored.resource.sealed, sources=(stored.last,))
