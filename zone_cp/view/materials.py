"""TLS material of a service, resolved: what its data sources name, found in a zone's state."""

from __future__ import annotations

import msgspec

from shared.events.event import EventRef
from shared.events.fault import data_sources, find_secret, inline_text
from shared.events.state import ZoneState
from shared.model.kinds import is_legacy
from shared.model.resource import DataSource, ExternalTls, ResourceKey, Secret
from zone_cp.view.zone_view import TlsMaterial


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


def materials_of(state: ZoneState, key: ResourceKey, tls: ExternalTls) -> Materials:
    """The material of a service without fault."""
    found = {field: _material(state, key, field, source) for field, source in data_sources(tls.verification)}
    return Materials(found.get("caCert"), found.get("clientCert"), found.get("clientKey"))


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
