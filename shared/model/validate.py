"""What a resource must satisfy beyond its shape: Kuma's rules, fields and sentences, and our decisions.

All violations are accumulated, in Kuma's order (`spec/1-resources.md` 1.4, 2.2, 5.2). Nothing here asks whether
something else exists; that is decided against the state, in `shared/events/decide.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import assert_never

import msgspec

from shared.model.addresses import address_fault, cidr_fault, is_dns_name, is_ip
from shared.model.external_service import ExternalService
from shared.model.external_service_rules import external_service_violations
from shared.model.gateway import MeshGateway
from shared.model.gateway_route import MeshGatewayRoute
from shared.model.gateway_route_rules import gateway_route_violations
from shared.model.gateway_rules import builtin_violations, gateway_violations
from shared.model.inbound import PROTOCOL_TAG, PROTOCOL_WORDS
from shared.model.labels import (
    CIDRS_WRITTEN,
    MES_ORIGINATION_LABEL,
    SIDECAR_ORIGINATION,
    label_faults,
    spelled_addresses,
)
from shared.model.limits import SOCKET_PATH_BYTES_MAX
from shared.model.material import base64_fault, holds_private_key, inline_bytes
from shared.model.policy import Policy
from shared.model.policy_rules import policy_violations
from shared.model.probe_rules import service_probe_violations
from shared.model.resource import (
    CaBackend,
    Dataplane,
    DataSource,
    Endpoint,
    ExternalTls,
    HostnameGenerator,
    Mesh,
    MeshExternalService,
    Outbound,
    Resource,
    Secret,
    TlsVersions,
    Zone,
    ZoneEgress,
    mesh_of,
)
from shared.model.tag_rules import tag_violations
from shared.model.traffic_permission import TrafficPermission
from shared.model.traffic_permission_rules import traffic_permission_violations
from shared.naming.template import TemplateFault, parse_template

NAME_1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
NAME_1123 = (
    "invalid characters. A lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character"
)
MESH_CHARACTERS = "invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols."
REQUIRED = "must be defined"
NOT_EMPTY = "must not be empty"

_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_MESH_NAME = re.compile(r"[0-9a-z-_.]*")
_DURATION = re.compile(r"0|\d+(?:ms|[ywdhms])")
_TLS_ORDER = {"TLS10": 0, "TLS11": 1, "TLS12": 2, "TLS13": 3}


class Violation(msgspec.Struct, frozen=True):
    """One broken rule: at `path` (canonical, Universal form), and why."""

    path: str
    reason: str


def validate(
    resource: Resource, allowed: tuple[str, ...] = (), reserved: tuple[str, ...] = ()
) -> tuple[Violation, ...]:
    """All violations. `allowed` are CIDRs that endpoints may use in spite of decision 13 (the mesh's and the
    zone's); `reserved` are the VIP ranges in use beyond Kuma's default ones.
    """
    return tuple(Violation(path, reason) for path, reason in _violations(resource, allowed, reserved))


def _violations(resource: Resource, allowed: tuple[str, ...], reserved: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield from _name(resource)
    if not isinstance(resource, Mesh | Zone | HostnameGenerator | ZoneEgress) and not (
        mesh_of(resource) and _MESH_NAME.fullmatch(mesh_of(resource))
    ):
        yield (
            "mesh",
            "invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols.",
        )
    yield from label_faults(resource.labels)
    if isinstance(resource, Policy):
        yield from policy_violations(resource)
        return
    match resource:
        case Mesh():
            yield from _mesh(resource)
        case Zone():
            pass
        case Secret():
            yield from _secret(resource)
        case HostnameGenerator():
            yield from _hostname_generator(resource)
        case MeshExternalService():
            yield from _external_service(resource, allowed, reserved)
        case ExternalService():
            yield from external_service_violations(resource, allowed, reserved, _data_source)
        case MeshGateway():
            yield from gateway_violations(resource, _data_source)
        case TrafficPermission():
            yield from traffic_permission_violations(resource)
        case MeshGatewayRoute():
            yield from gateway_route_violations(resource)
        case Dataplane():
            yield from _dataplane(resource)
        case ZoneEgress():
            if not (is_ip(resource.networking.address) or is_dns_name(resource.networking.address)):
                yield "networking.address", "address has to be valid IP address or domain name"
        case _:
            assert_never(resource)


def _name_1123(name: str) -> Iterator[tuple[str, str]]:
    if not name:
        yield "name", "cannot be empty"
    elif len(name) > 253:
        yield "name", "value length must less or equal 253"
    elif not _1123.fullmatch(name):
        yield "name", NAME_1123


def _name(resource: Resource) -> Iterator[tuple[str, str]]:
    """RFC 1035 where decision 11 says so, RFC 1123 for the rest."""
    name = resource.name
    if isinstance(resource, Policy):
        yield from _name_1123(name)
        return
    match resource:
        case MeshExternalService() | HostnameGenerator() | Mesh() | Zone():
            reasons = ["must be no more than 63 characters"] if len(name) > 63 else []
            if not _1035.fullmatch(name):
                reasons.append(NAME_1035)
            if reasons:
                yield "name", ", ".join(reasons)
        case Secret() | ExternalService() | Dataplane() | ZoneEgress() | MeshGateway() | MeshGatewayRoute():
            yield from _name_1123(name)
        case TrafficPermission():
            yield from _name_1123(name)
        case _:
            assert_never(resource)


# --- Mesh -----------------------------------------------------------------------------------------------------


def _mesh(mesh: Mesh) -> Iterator[tuple[str, str]]:
    mtls = mesh.mtls
    backends = mtls.backends if mtls else ()
    if len(backends) > 1:
        yield "mtls.backends", "cannot have more than 1 backends"
    names = set()
    for index, backend in enumerate(backends):
        if backend.name in names:
            yield f"mtls.backends[{index}].name", f'"{backend.name}" name is already used for another backend'
        names.add(backend.name)
        yield from _backend(backend, f"mtls.backends[{index}]")
    if mtls and mtls.enabled_backend and mtls.enabled_backend not in names:
        yield "mtls.enabledBackend", "has to be set to one of the backends in the mesh"
    if mesh.routing.zone_egress and not (mtls and mtls.enabled_backend):
        yield "mtls", "has to be set when zoneEgress enabled"
    origination = mesh.labels.get(MES_ORIGINATION_LABEL)
    if origination not in (None, SIDECAR_ORIGINATION, "egress"):
        yield f'labels["{MES_ORIGINATION_LABEL}"]', f"must be {SIDECAR_ORIGINATION} or egress"
    for key, cidr in spelled_addresses(mesh.labels):
        if reason := cidr_fault(cidr):
            yield f'labels["{key}"]', f"{reason}: ranges are written {CIDRS_WRITTEN}"


def _backend(backend: CaBackend, path: str) -> Iterator[tuple[str, str]]:
    if not _1123.fullmatch(backend.name) or len(backend.name) > 63:
        yield f"{path}.name", NAME_1123 if backend.name else "cannot be empty"
    if backend.type == "provided":
        yield f"{path}.type", "provided is not supported yet: only builtin is"
    elif backend.type != "builtin":
        yield f"{path}.type", "could not find installed plugin for this type"
    if not _DURATION.fullmatch(backend.dp_cert.rotation.expiration):
        # Kuma names this field without its index.
        yield "mtls.dpcert.rotation.expiration", "has to be a valid format"


# --- Secret, HostnameGenerator --------------------------------------------------------------------------------


def _secret(secret: Secret) -> Iterator[tuple[str, str]]:
    if secret.data is None and secret.sealed is None:
        yield "data", REQUIRED
    elif secret.data is not None and (reason := base64_fault(secret.data)):
        yield "data", reason


def _hostname_generator(generator: HostnameGenerator) -> Iterator[tuple[str, str]]:
    selector = generator.spec.selector
    present = (selector.mesh_service, selector.mesh_external_service, selector.mesh_multi_zone_service)
    if sum(one is not None for one in present) != 1:
        yield "spec.selector", "exact one selector (meshService, meshExternalService) must be defined"
    template = parse_template(generator.spec.template)
    if isinstance(template, TemplateFault):
        yield "spec.template", template.message
    if generator.spec.extension is not None and not generator.spec.extension.type:
        yield "spec.extension.type", NOT_EMPTY


# --- MeshExternalService --------------------------------------------------------------------------------------


def _external_service(
    service: MeshExternalService, allowed: tuple[str, ...], reserved: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    spec = service.spec
    if spec.extension is None:
        if not spec.endpoints:
            yield "spec.endpoints", "must not be empty unless extension is set"
        for index, endpoint in enumerate(spec.endpoints):
            yield from _endpoint(endpoint, f"spec.endpoints[{index}]", allowed, reserved)
        if spec.tls is not None:
            yield from _tls(spec.tls)
    elif spec.tls is not None:
        # Kuma leaves endpoints and TLS to the extension, but not the shape of the data sources.
        yield from _data_sources(spec.tls)
    if spec.extension is not None and not spec.extension.type:
        yield "spec.extension.type", NOT_EMPTY


def _endpoint(
    endpoint: Endpoint, path: str, allowed: tuple[str, ...], reserved: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    address = endpoint.address
    if address.startswith("unix:"):
        socket = address.removeprefix("unix://")
        if not address.startswith("unix:///") or len(socket) < 2:
            yield f"{path}.address", "address has to be a valid IP or hostname or a unix path (unix:///path)"
        elif not socket.isprintable() or {"", ".", ".."} & set(socket.split("/")[1:]):
            # One socket has one path: what is allowed or guarded by it would not hold for another spelling.
            yield f"{path}.address", "a unix path must be printable and without ., .. or empty parts"
        elif len(socket.encode()) > SOCKET_PATH_BYTES_MAX:
            yield f"{path}.address", f"a unix path must be no more than {SOCKET_PATH_BYTES_MAX} bytes"
        if endpoint.port is not None:
            yield f"{path}.port", "must not be defined when endpoint is a unix path"
        return
    ip = is_ip(address)
    if not ip and not is_dns_name(address):
        yield f"{path}.address", "address has to be a valid IP or hostname or a unix path"
        return
    if reason := address_fault(address, allowed, reserved):
        yield f"{path}.address", reason
    if endpoint.port is None:
        yield f"{path}.port", f"must be defined when endpoint is {'an IP' if ip else 'a hostname'}"


def _tls(tls: ExternalTls) -> Iterator[tuple[str, str]]:
    yield from _versions(tls.version)
    verification = tls.verification
    if verification.server_name is not None and not is_dns_name(verification.server_name):
        yield "spec.tls.verification.serverName", "must be a valid DNS name"
    for index, name in enumerate(verification.subject_alt_names):
        if not name.value:
            yield f"spec.tls.verification.subjectAltNames[{index}].value", NOT_EMPTY
    yield from _data_sources(tls)


def _versions(version: TlsVersions) -> Iterator[tuple[str, str]]:
    low, high = _TLS_ORDER.get(version.min), _TLS_ORDER.get(version.max)
    if low is not None and high is not None and low > high:
        yield "spec.tls.version.min", "min version must be lower than max"


def _data_sources(tls: ExternalTls) -> Iterator[tuple[str, str]]:
    verification = tls.verification
    path = "spec.tls.verification"
    if verification.client_cert is not None and verification.client_key is None:
        yield f"{path}.clientKey", "must be defined when clientCert is defined"
    if verification.client_key is not None and verification.client_cert is None:
        yield f"{path}.clientCert", "must be defined when clientKey is defined"
    for name, source in (
        ("caCert", verification.ca_cert),
        ("clientCert", verification.client_cert),
        ("clientKey", verification.client_key),
    ):
        if source is not None:
            yield from _data_source(source, f"{path}.{name}")


def _data_source(source: DataSource, path: str) -> Iterator[tuple[str, str]]:
    given = [
        name
        for name, value in (
            ("secret", source.secret),
            ("inline", source.inline),
            ("inlineString", source.inline_string),
            ("sealed", source.sealed),
        )
        if value is not None
    ]
    if len(given) != 1:
        yield path, "exactly one of secret, inline, inlineString must be defined"
    if source.sealed is not None and not path.endswith((".clientKey", "]")):
        yield f"{path}.sealed", "unknown field"
    if source.secret == "":
        yield f"{path}.secret", REQUIRED
    elif source.secret is not None and not _1123.fullmatch(source.secret):
        yield f"{path}.secret", NAME_1123
    if source.inline_string == "":
        yield f"{path}.inlineString", REQUIRED
    if source.inline is not None and (reason := base64_fault(source.inline)):
        yield f"{path}.inline", reason
    elif not path.endswith(".clientKey") and holds_private_key(inline_bytes(source) or b""):
        # Files that hold a certificate and its key are common; what is here stands in clear in the log.
        yield path, "holds a private key, which would stand in clear: give it as clientKey, or by a Secret"


# --- Dataplane ------------------------------------------------------------------------------------------------


def _dataplane(dataplane: Dataplane) -> Iterator[tuple[str, str]]:
    networking = dataplane.networking
    for field, address in (("address", networking.address), ("advertisedAddress", networking.advertised_address)):
        if address is not None and not (is_ip(address) or is_dns_name(address)):
            yield f"networking.{field}", "address has to be valid IP address or domain name"
    yield from builtin_violations(networking)
    for index, inbound in enumerate(networking.inbound):
        path = f"networking.inbound[{index}]"
        if not inbound.tags.get("kuma.io/service"):
            yield f'{path}.tags["kuma.io/service"]', "tag has to exist"
        yield from tag_violations(f"{path}.tags", inbound.tags)
        if (protocol := inbound.tags.get(PROTOCOL_TAG, "tcp")) not in PROTOCOL_WORDS:
            allowed = ", ".join(PROTOCOL_WORDS)
            yield f'{path}.tags["{PROTOCOL_TAG}"]', f'tag has an invalid value "{protocol}". Allowed values: {allowed}'
        for field, address in (("address", inbound.address), ("serviceAddress", inbound.service_address)):
            if address is not None and not is_ip(address):
                yield f"{path}.{field}", f"{field} has to be valid IP address"
        if inbound.service_probe is not None:
            yield from service_probe_violations(inbound.service_probe, f"{path}.serviceProbe")
    for index, outbound in enumerate(networking.outbound):
        yield from _outbound(outbound, f"networking.outbound[{index}]")


def _outbound(outbound: Outbound, path: str) -> Iterator[tuple[str, str]]:
    if not is_ip(outbound.address):
        yield f"{path}.address", "address has to be valid IP address"
    reference = outbound.backend_ref
    if reference is None:
        if not outbound.tags.get("kuma.io/service"):
            yield f"{path}.backendRef", REQUIRED
    elif outbound.tags:
        yield path, "both backendRef and tags cannot be defined at the same time"
    elif (reference.name is not None) == bool(reference.labels):
        yield f"{path}.backendRef", "either 'name' or 'labels' should be specified"
    elif reference.name == "":
        yield f"{path}.backendRef.name", REQUIRED
