"""What a service's TLS needs, found or found missing: SDS references, the secrets behind them, or a Failure."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeAlias

import msgspec

from shared.model.kinds import tls_path
from shared.model.remembering import keep
from zone_cp.view.sources import Sources, joined
from zone_cp.view.zone_view import ExternalServiceView, Failure, TlsMaterial
from zone_cp.xds import secrets as sds
from zone_cp.xds.clusters import Found, endpoint_failure, service_cluster
from zone_cp.xds.extended import Extended, ExtraRoutes, extend
from zone_cp.xds.secrets import MaterialMissing, SecretSource
from zone_cp.xds.snapshot import CLUSTER, Encoded
from zone_cp.xds.upstream_tls import References, verifies

REMEMBERED = 65536
"""Services whose compiled form is kept between compilations."""


class Served(msgspec.Struct, frozen=True):
    """A service, compiled: its cluster, the secrets that it names, why it is closed if it is, routes of its own."""

    cluster: Encoded
    secrets: tuple[Encoded, ...] = ()
    failure: Failure | None = None
    extra: ExtraRoutes = ExtraRoutes()


class _Found(msgspec.Struct, frozen=True):
    references: References
    secrets: tuple[Encoded, ...] = ()


_PLAIN = (References(),)

_Key: TypeAlias = tuple[int, int, str | tuple[References | None, ...]]
_remembered: OrderedDict[_Key, tuple[ExternalServiceView, Sources, Served | Encoded]] = OrderedDict()
# By identity, since an unchanged service is the same object in the next view; the entry keeps it alive, so
# its id cannot be another's. Services with sealed material are asked anew, since their bytes may come or go;
# of these the cluster alone is kept, for what was found.


def serve(service: ExternalServiceView, mesh_sources: Sources, system_ca_path: str, source: SecretSource) -> Served:
    """Compile one service for a proxy with this system CA."""
    if _reads(service):
        return _serve(service, mesh_sources, system_ca_path, source)
    key = (id(service), id(mesh_sources), system_ca_path)
    known = _remembered.get(key)
    if known is not None and isinstance(known[2], Served):
        return known[2]
    served = _serve(service, mesh_sources, system_ca_path, source)
    keep(_remembered, REMEMBERED, key, (service, mesh_sources, served))
    return served


def brings_a_cluster(service: ExternalServiceView) -> bool:
    """Whether a service brings a cluster of its own and nothing else, whatever it is found to be."""
    return service.extension is None and not _reads(service)


def outlined(service: ExternalServiceView) -> Encoded:
    """What stands for the cluster of such a service where it is the same before and after."""
    return Encoded(service.cluster, CLUSTER, "", b"", b"")


def _reads(service: ExternalServiceView) -> bool:
    if service.parts:
        return any(_reads(one) for one in service.parts)
    return bool(service.ca_cert or service.client_cert or service.client_key)


def _cluster(service: ExternalServiceView, references: Found, mesh_sources: Sources) -> Encoded:
    key = (id(service), id(mesh_sources), references)
    known = _remembered.get(key)
    if known is not None and isinstance(known[2], Encoded):
        return known[2]
    made = service_cluster(service, references, None, mesh_sources)
    keep(_remembered, REMEMBERED, key, (service, mesh_sources, made))
    return made


def _serve(service: ExternalServiceView, mesh_sources: Sources, system_ca_path: str, source: SecretSource) -> Served:
    extended = extend(service, mesh_sources) if service.failure is None else None
    if isinstance(extended, Extended):
        return Served(extended.cluster, extra=extended.extra)
    failure = service.failure or extended or endpoint_failure(service)
    if failure is None and service.tls is None and not service.parts:
        return Served(service_cluster(service, _PLAIN, None, mesh_sources))  # most are this: nothing to be looked for
    outcomes: list[_Found | Failure] = []
    if failure is None:
        outcomes = [one.failure or resolve(one, system_ca_path, source) for one in service.dialled]
        if all(isinstance(one, Failure) for one in outcomes):
            failure = next(one for one in outcomes if isinstance(one, Failure))
    if failure is not None:
        return Served(service_cluster(service, (), failure, mesh_sources), failure=failure)
    references = tuple(one.references if isinstance(one, _Found) else None for one in outcomes)
    secrets = tuple(each for one in outcomes if isinstance(one, _Found) for each in one.secrets)
    if _reads(service):
        return Served(_cluster(service, references, mesh_sources), tuple(dict.fromkeys(secrets)))
    return Served(service_cluster(service, references, None, mesh_sources))


def resolve(service: ExternalServiceView, system_ca_path: str, source: SecretSource) -> _Found | Failure:
    """References and secrets of `spec.tls`; a Failure instead of anything less verified than was asked for."""
    if service.tls is None or not service.tls.enabled:
        return _Found(References())
    authority = _authority(service, system_ca_path, source) if verifies(service.tls) else _Found(References())
    if isinstance(authority, Failure):
        return authority
    client = _client(service, source)
    if isinstance(client, Failure):
        return client
    references = msgspec.structs.replace(authority.references, client_secret=client.references.client_secret)
    return _Found(references, authority.secrets + client.secrets)


def _sources(service: ExternalServiceView, *materials: TlsMaterial) -> Sources:
    return joined((), *(one.sources for one in materials)) or service.sources


def _authority(service: ExternalServiceView, system_ca_path: str, source: SecretSource) -> _Found | Failure:
    field = f"{tls_path(service.key)}.caCert"
    material = service.ca_cert
    if material is None:
        if system_ca_path:
            return _Found(References(ca_path=system_ca_path))
        return Failure(
            "NoCertificateAuthority", "the proxy that dials it knows no system CA and caCert is not set", field
        )
    try:
        pem = source.text(material)
    except MaterialMissing as missing:
        return Failure("MaterialMissing", f"{material.name}: {missing.reason}", field)
    if fault := sds.authority_fault(pem):
        return Failure("InvalidMaterial", f"{material.name}: {fault}", field)
    secret = sds.trust(material.name, pem, _sources(service, material))
    return _Found(References(ca_secret=material.name), (secret,))


def _client(service: ExternalServiceView, source: SecretSource) -> _Found | Failure:
    certificate, key = service.client_cert, service.client_key
    if certificate is None and key is None:
        return _Found(References())
    where = tls_path(service.key)
    if certificate is None or key is None:
        missing = "clientKey" if key is None else "clientCert"
        return Failure("InvalidMaterial", "clientCert and clientKey go together", f"{where}.{missing}")
    found: list[bytes] = []
    for field, material in (("clientCert", certificate), ("clientKey", key)):
        try:
            found.append(source.text(material))
        except MaterialMissing as absent:
            return Failure("MaterialMissing", f"{material.name}: {absent.reason}", f"{where}.{field}")
    chain, private = found
    if fault := sds.authority_fault(chain):
        return Failure("InvalidMaterial", f"{certificate.name}: {fault}", f"{where}.clientCert")
    if fault := sds.key_pair_fault(chain, private):
        return Failure("InvalidMaterial", f"{key.name}: {fault}", f"{where}.clientKey")
    name = f"{certificate.name}+{key.name}"
    secret = sds.key_pair(name, chain, private, _sources(service, certificate, key))
    return _Found(References(client_secret=name), (secret,))
