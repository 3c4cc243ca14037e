"""What an egress must do to try the TLS of a service by hand: read back from what Envoy is given.

The compiled transport socket is the source, so a check can never use other settings than the proxy does. Pure.
The result may hold a private key: it goes to the agent of a zone egress over its TLS stream, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls

from shared.model.resource import Endpoint
from shared.pb.agent_pb2 import CheckTls, NameMatch
from zone_cp.view.zone_view import ExternalServiceView, Failure
from zone_cp.xds import defaults
from zone_cp.xds.clusters import endpoint_failure
from zone_cp.xds.material import resolve
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.upstream_tls import References, external_socket

_PROTOCOLS = {1: "TLS10", 2: "TLS11", 3: "TLS12", 4: "TLS13"}
_ALPN = {"http": ("http/1.1",), "http2": ("h2",), "grpc": ("h2",), "tcp": ()}
"""What Envoy's pools offer by themselves."""
_KINDS = {
    tls.SubjectAltNameMatcherSanType.DNS: "DNS",
    tls.SubjectAltNameMatcherSanType.IP_ADDRESS: "IP",
    tls.SubjectAltNameMatcherSanType.URI: "URI",
}


def tls_checks(
    service: ExternalServiceView, system_ca_path: str, source: SecretSource, check_id: str
) -> tuple[CheckTls, ...] | Failure:
    """One check per endpoint, ids made of `check_id`; a Failure where Envoy would not be let out either."""
    failure = service.failure or _by_extension(service) or endpoint_failure(service)
    if failure is not None:
        return failure
    found = resolve(service, system_ca_path, source)
    if isinstance(found, Failure):
        return found
    return tuple(
        _check(service, one, found.references, source, f"{check_id}/{number}")
        for number, one in enumerate(service.endpoints)
    )


def _by_extension(service: ExternalServiceView) -> Failure | None:
    if service.extension is None:
        return None
    said = f"extension {service.extension.type} answers for it: no endpoint is dialled"
    return Failure("AnsweredByExtension", said, "spec.extension")


def _check(
    service: ExternalServiceView, one: Endpoint, references: References, source: SecretSource, check_id: str
) -> CheckTls:
    options = service.tls
    check = CheckTls(id=check_id, address=one.address, port=one.port or 0, tls=options is not None and options.enabled)
    if options is None or not options.enabled:
        return check
    context = _context(external_socket(options, one.address, references))
    common = context.common_tls_context
    check.sni, check.mode = context.sni, options.verification.mode
    check.alpn.extend(_ALPN[service.protocol])
    if common is not None and common.tls_params is not None:
        parameters = common.tls_params
        check.min_version = _PROTOCOLS[int(parameters.tls_minimum_protocol_version)]
        check.max_version = _PROTOCOLS[int(parameters.tls_maximum_protocol_version)]
        check.ciphers.extend(_suites(parameters.cipher_suites or defaults.CIPHERS))
    check.names.extend(_names(common))
    check.names_listed = bool(options.verification.subject_alt_names)
    check.ca_path = references.ca_path
    if references.ca_secret and service.ca_cert is not None:
        check.ca = source.text(service.ca_cert)
    if references.client_secret and service.client_cert is not None and service.client_key is not None:
        check.client_chain, check.client_key = source.text(service.client_cert), source.text(service.client_key)
    return check


def _context(socket: bytes) -> tls.UpstreamTlsContext:
    packed = core.TransportSocket.parse(socket).typed_config
    return tls.UpstreamTlsContext.parse(packed.value if packed is not None else b"")


def _suites(suites: tuple[str, ...] | list[str]) -> Iterator[str]:
    # BoringSSL writes equal preference as [A|B]; OpenSSL has no such word.
    for one in suites:
        yield from one.strip("[]").split("|")


def _names(common: tls.CommonTlsContext | None) -> Iterator[NameMatch]:
    if common is None:
        return
    context = common.validation_context
    if common.combined_validation_context is not None:
        context = common.combined_validation_context.default_validation_context
    for one in context.match_typed_subject_alt_names if context is not None else ():
        if one.matcher is None or one.san_type not in _KINDS:
            continue
        prefix = one.matcher.prefix is not None
        value = one.matcher.prefix if one.matcher.prefix is not None else one.matcher.exact
        yield NameMatch(kind=_KINDS[one.san_type], value=value or "", prefix=prefix)
