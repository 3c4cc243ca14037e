"""Listeners and filter chains, spliced from filters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_network

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.google import protobuf as google

from shared.model.resource import ProtocolClass, TlsVersions
from shared.naming import spiffe
from zone_cp.xds import defaults
from zone_cp.xds.filters import UNTUNED, Logged, Tuning, Where, http_manager, proxy_to, tcp_filters
from zone_cp.xds.routes import route_name
from zone_cp.xds.server_names import Use
from zone_cp.xds.shape import address, extension, metadata, part, scalar
from zone_cp.xds.upstream_tls import SOCKET, References, parameters, san, sds, validation

_NO = bytes(google.BoolValue(value=False))


def chain(
    filters: Iterable[bytes], *, name: str = "", match: bytes = b"", socket: bytes = b"", lost: str = ""
) -> bytes:
    """A FilterChain. `match` is a FilterChainMatch, `socket` a TransportSocket; another `lost` closes its connections.

    Envoy drains a chain that changes, and closes what is left on it after `--drain-time-s`.
    """
    whole = part(listener.FilterChain, "name", name) if name else b""
    whole += part(listener.FilterChain, "filter_chain_match", match) if match else b""
    whole += b"".join(part(listener.FilterChain, "filters", one) for one in filters)
    whole += part(listener.FilterChain, "metadata", metadata(defaults.METADATA_NAMESPACE, lost=lost)) if lost else b""
    return whole + (part(listener.FilterChain, "transport_socket", socket) if socket else b"")


def class_filters(
    protocol_class: ProtocolClass,
    where: Where,
    mesh: str,
    logged: Logged,
    tuning: Tuning = UNTUNED,
    *,
    forbidden: bool = False,
    guarded: bool = False,
    after_handshake: bool,
    use: Use = "held",
) -> tuple[bytes, ...]:
    """The filters of a chain of one class. forbidden closes TCP; HTTP answers 403 by its routes.

    guarded: the mesh's permissions decide, by the client's certificate. use: what of the outside is reached.
    """
    access = mesh if guarded else ""
    if protocol_class == "http":
        return (http_manager(where, route_name(where.hop, mesh), logged, tuning, guarded=access, use=use),)
    if forbidden:
        return (proxy_to(defaults.FORBIDDEN, logged, after_handshake=after_handshake),)
    return tcp_filters(where, logged, tuning, access, after_handshake=after_handshake, use=use)


def listening(
    name: str,
    host: str,
    port: int,
    chains: Iterable[bytes],
    *,
    direction: core.TrafficDirection,
    inspector: bytes = b"",
    rest: bytes = b"",
    matcher: bytes = b"",
    exclusive: bool = False,
) -> bytes:
    """A Listener on host:port. `rest` is the chain of whatever no other chain matches, `matcher` what picks one.

    exclusive: where another process listens there, Envoy refuses it. By default the two would share the connections.
    """
    body = part(listener.Listener, "name", name) + part(listener.Listener, "address", address(host, port))
    body += b"".join(part(listener.Listener, "filter_chains", one) for one in chains)
    body += part(listener.Listener, "filter_chain_matcher", matcher) if matcher else b""
    body += part(listener.Listener, "default_filter_chain", rest) if rest else b""
    body += part(listener.Listener, "listener_filters", inspector) if inspector else b""
    body += part(listener.Listener, "enable_reuse_port", _NO) if exclusive else b""
    return body + scalar(listener.Listener, "traffic_direction", direction)


def listener_filter(name: str, message: google.Any) -> bytes:
    """A ListenerFilter without settings."""
    return part(listener.ListenerFilter, "name", name) + part(listener.ListenerFilter, "typed_config", bytes(message))


def by_ranges(ranges: Iterable[str]) -> bytes:
    """A FilterChainMatch on the destination address."""
    out = b""
    for text in ranges:
        network = ip_network(text)
        one = part(core.CidrRange, "address_prefix", str(network.network_address))
        length = bytes(google.UInt32Value(value=network.prefixlen))
        out += part(listener.FilterChainMatch, "prefix_ranges", one + part(core.CidrRange, "prefix_len", length))
    return out


def _mesh_tls(
    mesh: str, protocols: tuple[str, ...], matchers: Iterable[bytes], service: str = "", trusted: str = ""
) -> bytes:
    # trusted: SDS name of the roots that vouch for the peer; those of the mesh itself when left out.
    identity = defaults.identity_secret(mesh, service)
    common = part(tls.CommonTlsContext, "tls_params", parameters(TlsVersions()))
    common += part(tls.CommonTlsContext, "tls_certificate_sds_secret_configs", sds(identity))
    field = "match_typed_subject_alt_names"
    wanted = b"".join(part(tls.CertificateValidationContext, field, one) for one in matchers)
    common += validation(wanted, References(ca_secret=trusted or defaults.trust_secret(mesh)))
    return common + b"".join(part(tls.CommonTlsContext, "alpn_protocols", one) for one in protocols)


@lru_cache(maxsize=4096)
def accepting_socket(mesh: str, protocols: tuple[str, ...], service: str = "") -> bytes:
    """The TransportSocket of a chain that only workloads of `mesh` may enter.

    service: shown is the certificate of this service, and not the proxy's first.
    """
    anyone = san(tls.SubjectAltNameMatcherSanType.URI, f"{spiffe.trust_domain(mesh)}/", prefix=True)
    return _accepting(_mesh_tls(mesh, protocols, (anyone,), service))


@lru_cache(maxsize=4096)
def cross_mesh_socket(mesh: str) -> bytes:
    """The TransportSocket of a chain of a gateway of `mesh` that workloads of any mesh may enter."""
    return _accepting(_mesh_tls(mesh, (), (), trusted=defaults.TRUST_ALL))


def _accepting(common: bytes) -> bytes:
    context = part(tls.DownstreamTlsContext, "common_tls_context", common)
    yes = bytes(google.BoolValue(value=True))
    context += part(tls.DownstreamTlsContext, "require_client_certificate", yes)
    return extension(core.TransportSocket, SOCKET, tls.DownstreamTlsContext, context)


def egress_socket(mesh: str, protocols: tuple[str, ...], server_name: str = "") -> bytes:
    """The TransportSocket by which a workload of `mesh` dials a zone egress, and nobody else.

    server_name: of the one service that is meant; "" where each connection says it.
    """
    return dialling_socket(mesh, spiffe.egress_id(mesh), protocols, server_name)


@lru_cache(maxsize=65536)
def dialling_socket(mesh: str, identity: str, protocols: tuple[str, ...], server_name: str = "") -> bytes:
    """The TransportSocket by which a workload of `mesh` dials the one with this SPIFFE id, and nobody else."""
    wanted = san(tls.SubjectAltNameMatcherSanType.URI, identity)
    return _dialling(_mesh_tls(mesh, protocols, (wanted,)), server_name)


@lru_cache(maxsize=4096)
def abroad_socket(mesh: str, other: str, identities: tuple[str, ...], server_name: str) -> bytes:
    """The TransportSocket by which a workload of `mesh` dials one of these SPIFFE ids of the mesh `other`, for which
    that mesh's roots vouch.
    """
    wanted = tuple(san(tls.SubjectAltNameMatcherSanType.URI, one) for one in identities)
    common = _mesh_tls(mesh, defaults.ALPN_IN_MESH, wanted, trusted=defaults.trust_secret(other))
    return _dialling(common, server_name)


def _dialling(common: bytes, server_name: str) -> bytes:
    context = part(tls.UpstreamTlsContext, "common_tls_context", common)
    context += part(tls.UpstreamTlsContext, "sni", server_name) if server_name else b""
    return extension(core.TransportSocket, SOCKET, tls.UpstreamTlsContext, context)
