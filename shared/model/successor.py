"""What a legacy ExternalService is in the words of a MeshExternalService, and what else changes for its clients."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from immutables import Map
from msgspec.structs import replace

from shared.model.carried import carried_as, in_common
from shared.model.external_service import ExternalService, LegacyTls, host_and_port
from shared.model.resource import (
    DataSource,
    Endpoint,
    ExternalTls,
    HostnameGenerator,
    HostnameGeneratorSpec,
    HostnameSelector,
    LabelSelector,
    Match,
    MeshExternalService,
    MeshExternalServiceSpec,
    Verification,
)

SUCCESSOR_LABEL = "zonal.io/successor-of"
"""Label of a MeshExternalService that replaces ExternalServices. Its generator selects it by this, and it has those of
their names that it wants as soon as they are deleted, without waiting for the end of a quarantine.
"""
NAME_MAX = 63
SERVICE_PORT = 80

_strange = re.compile(r"[^a-z0-9]+")


class Succession(msgspec.Struct, frozen=True):
    """What replaces ExternalServices, and sentences for who runs their clients."""

    services: tuple[MeshExternalService, ...]
    generators: tuple[HostnameGenerator, ...]
    notes: tuple[str, ...]


def external_tls(tls: LegacyTls) -> ExternalTls:
    """The same TLS origination: the host name is verified unless that is to be skipped (decision 21)."""
    return ExternalTls(
        enabled=tls.enabled,
        allow_renegotiation=tls.allow_renegotiation,
        verification=Verification(
            mode="SkipSAN" if tls.skip_hostname_verification else "Secured",
            server_name=tls.server_name,
            ca_cert=tls.ca_cert,
            client_cert=tls.client_cert,
            client_key=tls.client_key,
        ),
    )


def succession(members: Iterable[ExternalService]) -> Succession:
    """What replaces the ExternalServices of one `kuma.io/service`, all of them.

    One MeshExternalService stands for the service at port 80, and one for each real name and port; a
    HostnameGenerator gives each its name.
    """
    found = sorted(members, key=lambda one: one.name)
    service, first = found[0].service, found[0]
    notes: list[str] = []
    tls = [_tls(one, notes) for one in found]
    alike = [one for one, its in zip(found, tls, strict=True) if its == tls[0]]
    if len(alike) < len(found):
        others = ", ".join(one.name for one in found if one not in alike)
        notes.append(f"a MeshExternalService has one TLS for all endpoints: {others} differ in it and are left out")
    made = [_made(_label(service), alike, tls[0], SERVICE_PORT)]
    names = [_generator(made[0], f"{service}.mesh")]
    for one, its in zip(found, tls, strict=True):
        _, port = host_and_port(one.networking.address) or ("", 0)
        if not one.real_name:
            continue
        name = _label(f"{one.real_name}-{port}")
        if all(other.name != name for other in made):
            made.append(_made(name, [one], its, port))
            names.append(_generator(made[-1], one.real_name))
    ports = sorted({port for _, port in (host_and_port(one.networking.address) or ("", 0) for one in found)})
    own = ", ".join(str(port) for port in ports if port != SERVICE_PORT)
    if own:
        notes.append(f"{service}.mesh is served at port {SERVICE_PORT} only, no more at {own}: a VIP has one port each")
    notes.append(
        f"outbounds with the tag kuma.io/service: {service} need backendRef: {{kind: MeshExternalService, "
        f"labels: {{{SUCCESSOR_LABEL}: {made[0].name}}}}} instead"
    )
    notes.append(f"the names stay with {', '.join(one.name for one in found)} until deleted, and move with that")
    notes.append(
        f"in a mesh with mTLS they leave through the zone egress, whatever routing.zoneEgress says; "
        f"defaultForbidMeshExternalServiceAccess of mesh {first.mesh} counts for them"
    )
    return Succession(tuple(made), tuple(names), tuple(notes))


def _tls(one: ExternalService, notes: list[str]) -> ExternalTls | None:
    declared = one.networking.tls
    if declared is None or not declared.enabled:
        return None
    key = declared.client_key
    if key is not None and key.secret is None:
        secret = _label(f"{one.name}-client-key")
        notes.append(f"the inline clientKey of {one.name} is not shown: put it into a Secret {secret}")
        declared = replace(declared, client_key=DataSource(secret=secret))
    return external_tls(declared)


def _made(name: str, members: list[ExternalService], tls: ExternalTls | None, port: int) -> MeshExternalService:
    parts = [host_and_port(one.networking.address) for one in members]
    return MeshExternalService(
        name=name,
        mesh=members[0].mesh,
        labels=Map({SUCCESSOR_LABEL: name}),
        spec=MeshExternalServiceSpec(
            match=Match(port=port, protocol=in_common(carried_as(one.protocol_word) for one in members)),
            endpoints=tuple(Endpoint(address=part[0], port=part[1]) for part in parts if part is not None),
            tls=tls,
        ),
    )


def _generator(service: MeshExternalService, hostname: str) -> HostnameGenerator:
    selector = HostnameSelector(mesh_external_service=LabelSelector(match_labels=service.labels))
    return HostnameGenerator(
        name=_label(f"{service.name}-name"), spec=HostnameGeneratorSpec(selector=selector, template=hostname)
    )


def _label(text: str) -> str:
    """An RFC 1035 label that tells where it comes from."""
    flat = _strange.sub("-", text.lower()).strip("-")
    flat = flat if flat[:1].isalpha() else f"es-{flat}"
    return flat[:NAME_MAX].rstrip("-")
