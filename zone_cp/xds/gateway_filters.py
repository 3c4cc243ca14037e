"""A gateway's filters and sockets: what stands at the edge, in front of clients that nobody knows (A8)."""

from __future__ import annotations

from functools import cache, lru_cache

from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.compression.gzip.compressor import v3 as gzip
from envoy_data_plane.envoy.extensions.filters.http.compressor import v3 as compressor
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_filter
from envoy_data_plane.envoy.extensions.filters.http.rbac import v3 as http_rbac
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from shared.model.resource import TlsVersions
from zone_cp.view.hostnames import ANY_HOST
from zone_cp.xds import defaults
from zone_cp.xds.filters import (
    MUTATION_FILTER,
    REASON,
    Logged,
    Tuning,
    access_log,
    manager_filter,
    response_mapper,
    router_filter,
)
from zone_cp.xds.log_policies import logger
from zone_cp.xds.shape import ads, extension, pack, part
from zone_cp.xds.upstream_tls import SOCKET, parameters, sds

_HCM = hcm.HttpConnectionManager


@lru_cache(maxsize=4096)
def gateway_manager(routes: str, logged: Logged, tuning: Tuning, *, cross_mesh: bool = False) -> bytes:
    """A Filter: the HTTP connection manager of one chain; its routes come over RDS. cross_mesh: they say of which
    meshes requests are taken.
    """
    loopback = [
        core.CidrRange(address_prefix=one, prefix_len=length) for one, length in (("127.0.0.1", 32), ("::1", 128))
    ]
    made = hcm.HttpConnectionManager(
        stat_prefix=logged.stat_prefix,
        rds=hcm.Rds(config_source=ads(), route_config_name=routes),
        server_name=defaults.GATEWAY_SERVER_NAME,
        http_filters=[
            *([_asking()] if cross_mesh else []),
            _compression(),
            _mutation(),
            router_filter(suppress_envoy_headers=True),
        ],
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=defaults.GATEWAY_IDLE_TIMEOUT if tuning.idle_timeout is None else tuning.idle_timeout,
            headers_with_underscores_action=core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=defaults.GATEWAY_STREAMS,
            initial_stream_window_size=defaults.GATEWAY_STREAM_BYTES,
            initial_connection_window_size=defaults.GATEWAY_CONNECTION_BYTES,
            allow_connect=True,
        ),
        stream_idle_timeout=(
            defaults.GATEWAY_STREAM_IDLE_TIMEOUT if tuning.stream_idle_timeout is None else tuning.stream_idle_timeout
        ),
        request_headers_timeout=(
            defaults.GATEWAY_HEADERS_TIMEOUT if tuning.headers_timeout is None else tuning.headers_timeout
        ),
        use_remote_address=True,
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(cidr_ranges=loopback),
        early_header_mutation_extensions=[_without_internal_headers()],
        generate_request_id=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.UNESCAPE_AND_REDIRECT,
        upgrade_configs=[hcm.HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        local_reply_config=_replies(logged.zone),
        access_log=[access_log(logged.path), *(logger(one) for one in tuning.logs)],
    )
    return manager_filter(bytes(made))


@cache
def _replies(zone: str) -> hcm.LocalReplyConfig:
    unknown = f"the zone control plane of zone {zone} has not sent what is behind this route yet"
    failed = "%LOCAL_REPLY_BODY%: %UPSTREAM_TRANSPORT_FAILURE_REASON%"
    mappers = (("NC", unknown), ("UH", REASON), ("UF UC UR", failed))
    return hcm.LocalReplyConfig(mappers=[response_mapper(flags, body) for flags, body in mappers])


@cache
def _mutation() -> hcm.HttpFilter:
    # It does what the chosen backend of a route says (gateway_routes.py).
    return hcm.HttpFilter(name=MUTATION_FILTER, typed_config=pack(header_filter.HeaderMutation()))


@cache
def _asking() -> hcm.HttpFilter:
    return hcm.HttpFilter(name=defaults.MESHES_FILTER, typed_config=pack(http_rbac.Rbac()))


@cache
def _compression() -> hcm.HttpFilter:
    library = core.TypedExtensionConfig(name="gzip", typed_config=pack(gzip.Gzip()))
    direction = compressor.CompressorResponseDirectionConfig(disable_on_etag_header=True)
    made = compressor.Compressor(compressor_library=library, response_direction_config=direction)
    return hcm.HttpFilter(name="envoy.filters.http.compressor", typed_config=pack(made))


@cache
def _without_internal_headers() -> core.TypedExtensionConfig:
    # What steers proxies of the mesh (decision 25) is not a client's to say, wherever he connects from.
    removed = [mutation.HeaderMutation(remove=one) for one in defaults.INTERNAL_HEADERS]
    steering = matcher.StringMatcher(prefix="x-envoy-")
    removed.append(mutation.HeaderMutation(remove_on_match=mutation.HeaderMutationRemoveOnMatch(key_matcher=steering)))
    name = "envoy.http.early_header_mutation.header_mutation"
    return core.TypedExtensionConfig(name=name, typed_config=pack(early.HeaderMutation(mutations=removed)))


@lru_cache(maxsize=4096)
def for_server_name(hostname: str) -> bytes:
    """A FilterChainMatch: TLS for this server name. ANY_HOST: for any that no other chain is for, or for none."""
    body = part(listener.FilterChainMatch, "transport_protocol", "tls")
    return body if hostname == ANY_HOST else body + part(listener.FilterChainMatch, "server_names", hostname)


@lru_cache(maxsize=4096)
def terminating_socket(secrets: tuple[str, ...], protocols: tuple[str, ...]) -> bytes:
    """A TransportSocket that shows the certificates of these SDS names, whichever a client can check."""
    common = part(tls.CommonTlsContext, "tls_params", parameters(TlsVersions()))
    common += b"".join(part(tls.CommonTlsContext, "tls_certificate_sds_secret_configs", sds(one)) for one in secrets)
    common += b"".join(part(tls.CommonTlsContext, "alpn_protocols", one) for one in protocols)
    context = part(tls.DownstreamTlsContext, "common_tls_context", common)
    return extension(core.TransportSocket, SOCKET, tls.DownstreamTlsContext, context)


@cache
def for_other_meshes() -> bytes:
    """A FilterChainMatch: TLS of a sidecar, which names itself by its protocol."""
    match = listener.FilterChainMatch(transport_protocol="tls", application_protocols=list(defaults.ALPN_IN_MESH))
    return bytes(match)
