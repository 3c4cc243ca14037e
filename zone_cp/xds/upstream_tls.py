"""spec.tls → the transport socket towards the outside (decisions 3–8), spliced.

Trusted CAs and client certificates are named here and delivered over SDS; only the system CA is a file, of
the proxy that dials. A socket is a function of few texts, so equal ones are made once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from ipaddress import ip_address
from typing import TypeAlias

import msgspec
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from shared.model.addresses import spelled
from shared.model.resource import ExternalTls, SubjectAltName, TlsVersion, TlsVersions, VerificationMode
from zone_cp.xds import defaults
from zone_cp.xds.shape import ads_bytes, extension, part, scalar

SOCKET = "envoy.transport_sockets.tls"

_Protocol: TypeAlias = tls.TlsParametersTlsProtocol
_VERSIONS: dict[TlsVersion, _Protocol] = {
    "TLS10": _Protocol.TLSv1_0,
    "TLS11": _Protocol.TLSv1_1,
    "TLS12": _Protocol.TLSv1_2,
    "TLS13": _Protocol.TLSv1_3,
}
_VERIFIED: frozenset[VerificationMode] = frozenset({"Secured", "SkipSAN"})


class References(msgspec.Struct, frozen=True):
    """Where a socket's material is: SDS name of the CA or path of the system CA, SDS name of the client pair."""

    ca_secret: str = ""
    ca_path: str = ""
    client_secret: str = ""


@lru_cache(maxsize=65536)
def is_ip(host: str) -> bool:
    """Whether `host` is an IP literal."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def verifies(options: ExternalTls) -> bool:
    """Whether the server's certificate is verified at all: then a CA must be known (decision 7)."""
    return options.verification.mode in _VERIFIED


def server_name(options: ExternalTls, host: str) -> str:
    """SNI towards `host`: `serverName` in every mode (decision 5), else the host unless it is an IP or a socket."""
    name = options.verification.server_name or ("" if is_ip(host) or host.startswith("unix://") else host)
    return name.removesuffix(".")  # RFC 6066 section 3; certificates hold none either


@cache
def parameters(versions: TlsVersions) -> bytes:
    """TlsParameters: both limits always set, older suites only where an older version is wanted (decision 6)."""
    explicit_max = _VERSIONS.get(versions.max)
    highest = _Protocol.TLSv1_3 if explicit_max is None else explicit_max
    lowest = _VERSIONS.get(versions.min, min(_Protocol.TLSv1_2, highest))
    older = min(lowest, highest) < _Protocol.TLSv1_2
    suites = [*defaults.CIPHERS, *defaults.CIPHERS_BEFORE_TLS12] if older else []
    return bytes(
        tls.TlsParameters(
            tls_minimum_protocol_version=lowest, tls_maximum_protocol_version=highest, cipher_suites=suites
        )
    )


def sds(name: str) -> bytes:
    """An SdsSecretConfig over ADS."""
    return part(tls.SdsSecretConfig, "name", name) + part(tls.SdsSecretConfig, "sds_config", ads_bytes())


def san(kind: tls.SubjectAltNameMatcherSanType, value: str, *, prefix: bool = False) -> bytes:
    """One SubjectAltNameMatcher."""
    text = part(matcher.StringMatcher, "prefix" if prefix else "exact", value)
    if prefix and kind == tls.SubjectAltNameMatcherSanType.DNS:
        text += scalar(matcher.StringMatcher, "ignore_case", 1)  # of whole names Envoy does it anyway
    return scalar(tls.SubjectAltNameMatcher, "san_type", kind) + part(tls.SubjectAltNameMatcher, "matcher", text)


def _listed(names: tuple[SubjectAltName, ...]) -> Iterator[bytes]:
    kinds = tls.SubjectAltNameMatcherSanType
    for name in names:
        value = name.value if name.type == "Prefix" or "://" in name.value else spelled(name.value)
        for kind in (kinds.DNS, kinds.IP_ADDRESS, *((kinds.URI,) if "://" in name.value else ())):
            yield san(kind, value, prefix=name.type == "Prefix")


def _matchers(options: ExternalTls, host: str) -> Iterator[bytes]:
    if options.verification.mode != "Secured":
        return
    if options.verification.subject_alt_names:
        yield from _listed(options.verification.subject_alt_names)
        return
    expected = options.verification.server_name or host
    kinds = tls.SubjectAltNameMatcherSanType
    yield san(kinds.IP_ADDRESS if is_ip(expected) else kinds.DNS, spelled(expected))


def validation(matchers: bytes, references: References) -> bytes:
    """The fields of a CommonTlsContext that say how the peer is verified."""
    if references.ca_secret:
        combined = tls.CommonTlsContextCombinedCertificateValidationContext
        both = part(combined, "default_validation_context", matchers)
        both += part(combined, "validation_context_sds_secret_config", sds(references.ca_secret))
        return part(tls.CommonTlsContext, "combined_validation_context", both)
    file = part(core.DataSource, "filename", references.ca_path)
    context = part(tls.CertificateValidationContext, "trusted_ca", file) + matchers
    return part(tls.CommonTlsContext, "validation_context", context)


@lru_cache(maxsize=65536)
def external_socket(options: ExternalTls, host: str, references: References) -> bytes:
    """The TransportSocket by which a proxy dials `host` as an external service's endpoint."""
    common = part(tls.CommonTlsContext, "tls_params", parameters(options.version))
    if references.client_secret:
        common += part(tls.CommonTlsContext, "tls_certificate_sds_secret_configs", sds(references.client_secret))
    if verifies(options):
        wanted = b"".join(
            part(tls.CertificateValidationContext, "match_typed_subject_alt_names", one)
            for one in _matchers(options, host)
        )
        common += validation(wanted, references)
    context = part(tls.UpstreamTlsContext, "common_tls_context", common)
    if name := server_name(options, host):
        context += part(tls.UpstreamTlsContext, "sni", name)
    if options.allow_renegotiation:
        context += scalar(tls.UpstreamTlsContext, "allow_renegotiation", 1)
    return extension(core.TransportSocket, SOCKET, tls.UpstreamTlsContext, context)
