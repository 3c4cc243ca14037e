"""Network filters, spliced: an HTTP connection manager and a TCP proxy whose only variable is where to.

`Where` is the one thing that differs between listeners: an expression that Envoy evaluates per connection or
request (original-destination listener, zone egress), or a literal (one listener per VIP). It is written with
OVERWRITE, since the default appends and a value sent by the client would win (decision 25).
"""

from __future__ import annotations

from datetime import timedelta
from functools import cache, lru_cache
from typing import Literal, TypeAlias

import msgspec
from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_log
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel import v3 as cel
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state import v3 as filter_state
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_filter
from envoy_data_plane.envoy.extensions.filters.http.on_demand import v3 as on_demand
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state import v3 as set_filter_state
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy import v3 as tcp_proxy
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google import protobuf as google

from zone_cp.xds import defaults
from zone_cp.xds.access import http_access_filter, network_access_filter
from zone_cp.xds.log_policies import Log, logger
from zone_cp.xds.server_names import Use
from zone_cp.xds.shape import ads, extension, pack, part, scalar
from zone_cp.xds.tcp_access import CLUSTER_STATE, UNDECIDED

SNI_STATE = "envoy.network.upstream_server_name"
MUTATION_FILTER = "envoy.filters.http.header_mutation"

Hop: TypeAlias = Literal["mesh", "outside"]
"""What is behind a filter: the zone egress (an SNI is chosen) or the external service (a cluster is chosen)."""

REASON = f"%METADATA(CLUSTER:{defaults.METADATA_NAMESPACE}:reason)%"
SERVICE = f"%METADATA(CLUSTER:{defaults.METADATA_NAMESPACE}:service)%"


class Where(msgspec.Struct, frozen=True):
    """Where traffic goes. `value` is the SNI (hop mesh) or the name of a cluster (hop outside); Envoy format text."""

    hop: Hop
    value: str


class Logged(msgspec.Struct, frozen=True):
    """What a filter is called in statistics and where it writes its access log; `zone` is named in 503 bodies."""

    stat_prefix: str
    path: str
    zone: str


class Share(msgspec.Struct, frozen=True):
    """A share of a chain's connections. sni "" is nobody's: closed. open is as in `Tuning`, of this service."""

    sni: str
    weight: int
    open: bool | None = None


class Tuning(msgspec.Struct, frozen=True):
    """What policies say about a chain's connections; None where they say nothing.

    idle_timeout and connect_attempts concern TCP, headers_timeout HTTP: its connections are pooled elsewhere. At a
    gateway idle_timeout concerns the connections of HTTP clients too, and stream_idle_timeout their requests.
    open is whether a permission opens or closes a TCP service in direct mode; None: as the mesh says.
    shares are where TCP goes by a route instead of where it was meant to go.
    denied: the workload may not use what an HTTP chain leads to, as its routes or its egress answer.
    """

    idle_timeout: timedelta | None = None
    connect_attempts: int | None = None
    headers_timeout: timedelta | None = None
    open: bool | None = None
    logs: tuple[Log, ...] = ()
    shares: tuple[Share, ...] = ()
    stream_idle_timeout: timedelta | None = None
    denied: bool = False


UNTUNED = Tuning()


@cache
def access_log(path: str) -> accesslog.AccessLog:
    """One JSON object per line: what the proxy agent needs to see a service fail and recover."""
    fields = {
        "cluster": "%UPSTREAM_CLUSTER_RAW%",
        "code": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        "host": "%UPSTREAM_HOST%",
        "to": "%DOWNSTREAM_LOCAL_ADDRESS%",
    }
    form = google.Struct(fields={key: google.Value(string_value=value) for key, value in fields.items()})
    written = file_log.FileAccessLog(path=path, log_format=core.SubstitutionFormatString(json_format=form))
    return accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=pack(written))


def header_override(name: str, value: str) -> mutation.HeaderMutation:
    """Write a header, whatever stands there: `value` is Envoy format text."""
    return mutation.HeaderMutation(
        append=core.HeaderValueOption(
            header=core.HeaderValue(key=name, value=value),
            append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    )


def _no_envoy_headers() -> mutation.HeaderMutation:
    pattern = matcher.StringMatcher(prefix="x-envoy-")
    return mutation.HeaderMutation(remove_on_match=mutation.HeaderMutationRemoveOnMatch(key_matcher=pattern))


@cache
def _early_static(hop: Hop) -> bytes:
    # Clients of an egress do not get to steer its router (x-envoy-retry-on and the like), applications no egress.
    unwanted = _no_envoy_headers() if hop == "outside" else mutation.HeaderMutation(remove=defaults.KEEP_HOST_HEADER)
    return bytes(early.HeaderMutation(mutations=[unwanted]))


@lru_cache(maxsize=65536)
def _early(where: Where) -> bytes:
    # HttpConnectionManager.early_header_mutation_extensions.
    name = defaults.SNI_HEADER if where.hop == "mesh" else defaults.CLUSTER_HEADER
    header = part(core.HeaderValue, "key", name) + part(core.HeaderValue, "value", where.value)
    overwrite = core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    option = part(core.HeaderValueOption, "header", header)
    option += scalar(core.HeaderValueOption, "append_action", overwrite)
    body = part(early.HeaderMutation, "mutations", part(mutation.HeaderMutation, "append", option))
    body += _early_static(where.hop)
    name = "envoy.http.early_header_mutation.header_mutation"
    made = extension(core.TypedExtensionConfig, name, early.HeaderMutation, body)
    return part(hcm.HttpConnectionManager, "early_header_mutation_extensions", made)


def _text(body: str) -> core.SubstitutionFormatString:
    return core.SubstitutionFormatString(text_format_source=core.DataSource(inline_string=body + "\n"))


def response_mapper(flags: str, body: str) -> hcm.ResponseMapper:
    """What Envoy itself answers with, where it gives up with one of `flags`."""
    return hcm.ResponseMapper(
        filter=accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=flags.split())),
        body_format_override=_text(body),
    )


def _denied() -> hcm.ResponseMapper:
    # What the access filter refused, and no other 403.
    refused = cel.ExpressionFilter(expression='response.code_details.startsWith("rbac_access_denied")')
    only = accesslog.ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=pack(refused))
    return hcm.ResponseMapper(
        filter=accesslog.AccessLogFilter(extension_filter=only),
        body_format_override=_text("access to this service is denied: %RESPONSE_CODE_DETAILS%"),
    )


def _replies(hop: Hop, zone: str, use: Use) -> hcm.LocalReplyConfig:
    if hop == "mesh":
        closed = f"no zone egress of zone {zone} is online: external services fail closed"
        return hcm.LocalReplyConfig(
            mappers=[
                response_mapper("UH", closed),
                response_mapper("UF", f"no zone egress of zone {zone} can be reached: %LOCAL_REPLY_BODY%"),
            ]
        )
    unknown = (
        f"no MeshExternalService is served here (zone {zone}, %DOWNSTREAM_LOCAL_ADDRESS%, %REQUESTED_SERVER_NAME%)"
    )
    if use == "on-demand":
        unknown = (
            f"the zone control plane has not sent %REQUESTED_SERVER_NAME% (zone {zone}): it is not served, or not yet"
        )
    # UC and UR beside UF: a TLS 1.3 server refuses a client certificate only after Envoy's handshake is done.
    failed = f"{SERVICE}: %LOCAL_REPLY_BODY%: %UPSTREAM_TRANSPORT_FAILURE_REASON%"
    return hcm.LocalReplyConfig(
        mappers=[
            response_mapper("NC", unknown),
            response_mapper("UH", REASON),
            response_mapper("UF UC UR", failed),
            _denied(),
        ]
    )


def router_filter(*, suppress_envoy_headers: bool = False) -> hcm.HttpFilter:
    """The last HTTP filter."""
    made = router.Router(suppress_envoy_headers=suppress_envoy_headers)
    return hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(made))


def _http_filters(hop: Hop, guarded: str, use: Use) -> list[hcm.HttpFilter]:
    last = router_filter(suppress_envoy_headers=hop == "outside")
    if hop == "mesh":
        # It does what the chosen route says: nothing, or another service's SNI (http_routes.py).
        idle = pack(header_filter.HeaderMutation())
        return [hcm.HttpFilter(name=MUTATION_FILTER, typed_config=idle), last]
    clean = header_filter.HeaderMutation(mutations=header_filter.Mutations(request_mutations=[_no_envoy_headers()]))
    first = [http_access_filter(guarded)] if guarded else []
    if use == "on-demand":  # only for who has access
        asked = on_demand.OnDemand(odcds=on_demand.OnDemandCds(source=ads(), timeout=defaults.ON_DEMAND_TIMEOUT))
        first.append(hcm.HttpFilter(name="envoy.filters.http.on_demand", typed_config=pack(asked)))
    return [*first, hcm.HttpFilter(name=MUTATION_FILTER, typed_config=pack(clean)), last]


def manager(route: str, logged: Logged, tuning: Tuning, filters: list[hcm.HttpFilter]) -> hcm.HttpConnectionManager:
    """What every HTTP connection manager has; its routes come over RDS (decision 23)."""
    loopback = core.CidrRange(address_prefix="127.0.0.1", prefix_len=32)
    return hcm.HttpConnectionManager(
        stat_prefix=logged.stat_prefix,
        rds=hcm.Rds(config_source=ads(), route_config_name=route),
        http_filters=filters,
        common_http_protocol_options=core.HttpProtocolOptions(idle_timeout=defaults.NO_TIMEOUT),
        request_headers_timeout=tuning.headers_timeout or defaults.NO_TIMEOUT,
        stream_idle_timeout=defaults.STREAM_IDLE_TIMEOUT,
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        forward_client_cert_details=hcm.HttpConnectionManagerForwardClientCertDetails.SANITIZE,
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(cidr_ranges=[loopback]),
        upgrade_configs=[hcm.HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        access_log=[access_log(logged.path), *(logger(one) for one in tuning.logs)],
    )


def manager_filter(body: bytes) -> bytes:
    """A Filter: the HTTP connection manager of these bytes."""
    return extension(listener.Filter, "envoy.filters.network.http_connection_manager", hcm.HttpConnectionManager, body)


@cache
def _manager_static(hop: Hop, route: str, logged: Logged, tuning: Tuning, *, guarded: str, use: Use) -> bytes:
    made = manager(route, logged, tuning, _http_filters(hop, guarded, use))
    made.generate_request_id = hop == "mesh"
    made.normalize_path = hop == "mesh"
    made.local_reply_config = _replies(hop, logged.zone, use)
    if use == "unknown":  # its service may appear, and is then reached through another chain
        made.common_http_protocol_options = core.HttpProtocolOptions(
            idle_timeout=defaults.NO_TIMEOUT, max_requests_per_connection=1
        )
    if hop == "outside":
        made.scheme_header_transformation = core.SchemeHeaderTransformation(match_upstream=True)
    return bytes(made)


@lru_cache(maxsize=65536)
def http_manager(
    where: Where, route: str, logged: Logged, tuning: Tuning = UNTUNED, *, guarded: str = "", use: Use = "held"
) -> bytes:
    """A Filter: the HTTP connection manager of one chain. Routes come over RDS (decision 23).

    guarded: the mesh whose permissions hold here, "" for none.
    """
    made = _manager_static(where.hop, route, logged, tuning, guarded=guarded, use=use)
    return manager_filter(made + _early(where))


@lru_cache(maxsize=65536)
def _set_state(where: Where) -> bytes:
    source = part(core.DataSource, "inline_string", where.value)
    value = part(filter_state.FilterStateValue, "object_key", SNI_STATE if where.hop == "mesh" else CLUSTER_STATE)
    form = part(core.SubstitutionFormatString, "text_format_source", source)
    value += part(filter_state.FilterStateValue, "format_string", form)
    body = part(set_filter_state.Config, "on_new_connection", value)
    return extension(listener.Filter, "envoy.filters.network.set_filter_state", set_filter_state.Config, body)


@cache
def proxy_to(
    cluster_name: str,
    logged: Logged,
    tuning: Tuning = UNTUNED,
    *,
    after_handshake: bool = False,
    use: Use = "held",
) -> bytes:
    """A Filter: a TCP proxy to `cluster_name`. A name of no cluster closes the connection.

    after_handshake: dial only once the client's certificate is verified.
    """
    return proxy_among(((cluster_name, 1),), logged, tuning, after_handshake=after_handshake, use=use)


@lru_cache(maxsize=4096)
def proxy_among(
    clusters: tuple[tuple[str, int], ...],
    logged: Logged,
    tuning: Tuning,
    *,
    after_handshake: bool = False,
    use: Use = "held",
) -> bytes:
    """A Filter: a TCP proxy that shares connections out among clusters by weight; see `proxy_to`."""
    made = tcp_proxy.TcpProxy(
        stat_prefix=logged.stat_prefix,
        idle_timeout=defaults.CONNECTION_IDLE_TIMEOUT if tuning.idle_timeout is None else tuning.idle_timeout,
        max_connect_attempts=tuning.connect_attempts or defaults.TCP_CONNECT_ATTEMPTS,
        backoff_options=core.BackoffStrategy(base_interval=defaults.TCP_BACK_OFF, max_interval=defaults.TCP_BACK_OFF),
        access_log=[access_log(logged.path), *(logger(one) for one in tuning.logs)],
        access_log_options=tcp_proxy.TcpProxyTcpAccessLogOptions(flush_access_log_on_connected=True),
    )
    if use == "on-demand":
        made.on_demand = tcp_proxy.TcpProxyOnDemand(odcds_config=ads(), timeout=defaults.ON_DEMAND_TIMEOUT)
    if len(clusters) == 1:
        made.cluster = clusters[0][0]
    else:
        weighed = [tcp_proxy.TcpProxyWeightedClusterClusterWeight(name=one, weight=weight) for one, weight in clusters]
        made.weighted_clusters = tcp_proxy.TcpProxyWeightedCluster(clusters=weighed)
    if after_handshake:
        made.upstream_connect_mode = tcp_proxy.UpstreamConnectMode.ON_DOWNSTREAM_TLS_HANDSHAKE
        made.max_early_data_bytes = defaults.EARLY_DATA_BYTES
    return extension(listener.Filter, "envoy.filters.network.tcp_proxy", tcp_proxy.TcpProxy, bytes(made))


def tcp_filters(
    where: Where,
    logged: Logged,
    tuning: Tuning = UNTUNED,
    guarded: str = "",
    *,
    after_handshake: bool = False,
    use: Use = "held",
) -> tuple[bytes, ...]:
    """The Filters of a TCP chain: say where, and go there. guarded: this mesh's permissions say where, by who it is."""
    if guarded:
        last = proxy_to(UNDECIDED, logged, tuning, after_handshake=after_handshake, use=use)
        return network_access_filter(guarded), last
    target = defaults.EGRESS_TCP if where.hop == "mesh" else defaults.NOBODY
    return _set_state(where), proxy_to(target, logged, tuning, after_handshake=after_handshake, use=use)
