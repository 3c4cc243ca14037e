"""Envoy's bootstrap: who this proxy is, where its control plane is, and nothing about what it serves. Pure.

The token is not in it: a credential injector on the `ads` cluster takes the `authorization` header from a secret in
a file of its own (mode 0600), which Envoy watches, so that a renewed token needs no restart and neither the
bootstrap nor `/config_dump` ever shows it.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from shared.model import codec
from shared.model.builtin import is_builtin
from shared.model.inbound import SERVICE_TAG
from shared.model.resource import Dataplane, ZoneEgress

ADS_CLUSTER = "ads"
TOKEN_SECRET = "dataplane-token"  # noqa: S105  (a name of a secret)
ACCESS_LOG_FEATURE = "access-log="
"""Feature of a proxy whose listeners shall write the lines of `observe.py` to the path that follows."""
INTERNAL_LISTENER = "envoy.bootstrap.internal_listener"
GATEWAY_RUNTIME = "gateway.listeners"
"""Name of a gateway's runtime layer, and of the resource that fills it."""
SERVICE_PROBES_FEATURE = "service-probes"
REDIRECT_FEATURE, BIND_VIPS_FEATURE, EXCLUSIVE_FEATURE = "redirect", "bind-vips", "exclusive-ports"

CONNECT_SECONDS = 2
KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 10, 5
RECONNECT_BASE_SECONDS, RECONNECT_MAX_SECONDS = 0.2, 5
"""Envoy's own default lets a proxy stay away for 30 s after the control plane is back."""

Json: TypeAlias = dict[str, Any]

_TYPE = "type.googleapis.com/"
_INTERNAL_LISTENER = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class InvalidControlPlane(ValueError):
    """The control plane's address is not `https://host:port`."""


class ControlPlane(msgspec.Struct, frozen=True):
    """Where ADS and the agent service are. ca_file is read by Envoy itself."""

    host: str
    port: int
    ca_file: str

    @property
    def is_ip(self) -> bool:
        """Whether the host is an address and not a name."""
        try:
            ip_address(self.host)
        except ValueError:
            return False
        return True


class Proxy(msgspec.Struct, frozen=True):
    """One proxy as its bootstrap describes it. admin is `ip:port` (port 0: any) or the path of a socket."""

    resource: Dataplane | ZoneEgress
    features: tuple[str, ...]
    system_ca_path: str
    admin: str
    workdir: str
    version: str = ""
    dns_port: int = 0


def control_plane(address: str, ca_file: str) -> ControlPlane:
    """Read `https://host:port`. Raises InvalidControlPlane."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "https" or not parts.hostname or port is None or parts.path not in ("", "/"):
        raise InvalidControlPlane(f"{address!r} is not https://host:port")
    return ControlPlane(parts.hostname, port, ca_file)


def node_id(resource: Dataplane | ZoneEgress) -> str:
    """Kuma's node id: `<mesh>.<name>`, with an empty mesh for a zone egress."""
    return f"{resource.mesh}.{resource.name}" if isinstance(resource, Dataplane) else f".{resource.name}"


def proxy_type(resource: Dataplane | ZoneEgress) -> Literal["dataplane", "egress"]:
    """Kuma's word for the kind of proxy."""
    return "dataplane" if isinstance(resource, Dataplane) else "egress"


def bootstrap(proxy: Proxy, plane: ControlPlane, token_secret_path: str | None) -> bytes:
    """The whole bootstrap as JSON. token_secret_path names a file with `token_secret` in it, None: no token."""
    dynamic = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    whole: Json = {
        "node": _node(proxy),
        "admin": {"address": _admin_address(proxy.admin)},
        # Zero means to wait for ever: without its first CDS and LDS a proxy is not ready, and says so.
        "dynamic_resources": {"cds_config": dynamic, "lds_config": dynamic, "ads_config": _ads_config()},
        "static_resources": {"clusters": [_ads_cluster(plane, token_secret_path)]},
        # A zone egress dials guarded TCP services behind a listener within Envoy.
        "bootstrap_extensions": [{"name": INTERNAL_LISTENER, "typed_config": {"@type": _TYPE + _INTERNAL_LISTENER}}],
        "layered_runtime": {
            "layers": [
                {
                    "name": "zonal",
                    "static_layer": {
                        "re2.max_program_size.error_level": 4294967295,
                        "re2.max_program_size.warn_level": 1000,
                    },
                },
                *_runtime(proxy.resource, dynamic),
            ]
        },
        "stats_config": {"use_all_default_tags": True},
    }
    return json.dumps(whole, indent=1).encode()


def _runtime(resource: Dataplane | ZoneEgress, dynamic: Json) -> list[Json]:
    """The layer by which the control plane limits the connections of a gateway's listeners; Envoy waits for it too."""
    if not isinstance(resource, Dataplane) or not is_builtin(resource):
        return []
    return [{"name": GATEWAY_RUNTIME, "rtds_layer": {"name": GATEWAY_RUNTIME, "rtds_config": dynamic}}]


def token_secret(token: str) -> bytes:
    """The secret file that `bootstrap` refers to. Keep it readable for its owner only."""
    secret = {
        "@type": _TYPE + "envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": TOKEN_SECRET,
        "generic_secret": {"secret": {"inline_string": f"Bearer {token.strip()}"}},
    }
    return json.dumps({"resources": [secret]}).encode()


def envoy_arguments(bootstrap_path: str, *, admin_address_path: str, concurrency: int, log_level: str) -> list[str]:
    """Flags of Envoy (xds.md §0.7), concurrency 0: one worker per core.

    The config component always logs at info: the agent reads readiness from it.
    """
    workers = ["--concurrency", str(concurrency)] if concurrency else []
    return [
        "--config-path",
        bootstrap_path,
        "--admin-address-path",
        admin_address_path,
        "--drain-time-s",
        "5",
        "--drain-strategy",
        "immediate",
        "--disable-hot-restart",
        "--file-flush-interval-msec",
        "50",  # an access log line waits no longer than this for its reader
        *workers,
        "--log-level",
        log_level,
        "--component-log-level",
        "config:info",
    ]


def _node(proxy: Proxy) -> Json:
    resource = proxy.resource
    metadata: Json = {
        "dataplane.resource": codec.encode(resource).decode(),
        "dataplane.proxyType": proxy_type(resource),
        "features": list(proxy.features),
        "systemCaPath": proxy.system_ca_path,
        "workdir": proxy.workdir,
        "version": {"zonal": {"version": proxy.version}},
    }
    if proxy.admin.startswith("/"):
        metadata["dataplane.admin.socketPath"] = proxy.admin
    else:
        metadata["dataplane.admin.address"], _, metadata["dataplane.admin.port"] = proxy.admin.rpartition(":")
    if proxy.dns_port:
        metadata["dataplane.dns.port"] = str(proxy.dns_port)
    return {"id": node_id(resource), "cluster": _cluster_of(resource), "metadata": metadata}


def _cluster_of(resource: Dataplane | ZoneEgress) -> str:
    if isinstance(resource, ZoneEgress):
        return "egress"
    gateway = resource.networking.gateway
    tagged = [*(one.tags for one in resource.networking.inbound), *((gateway.tags,) if gateway is not None else ())]
    return next((tags[SERVICE_TAG] for tags in tagged if SERVICE_TAG in tags), "unknown")


def _admin_address(admin: str) -> Json:
    if admin.startswith("/"):
        return {"pipe": {"path": admin, "mode": 0o600}}
    host, _, port = admin.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _ads_config() -> Json:
    backoff = {"base_interval": f"{RECONNECT_BASE_SECONDS}s", "max_interval": f"{RECONNECT_MAX_SECONDS}s"}
    service = {"envoy_grpc": {"cluster_name": ADS_CLUSTER, "retry_policy": {"retry_back_off": backoff}}}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [service],
    }


def _ads_cluster(plane: ControlPlane, token_secret_path: str | None) -> Json:
    address = {"socket_address": {"address": plane.host, "port_value": plane.port}}
    return {
        "name": ADS_CLUSTER,
        "type": "STATIC" if plane.is_ip else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 10}
        },
        "load_assignment": {
            "cluster_name": ADS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": _tls(plane),
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http2(token_secret_path)},
    }


def _tls(plane: ControlPlane) -> Json:
    san_type = "IP_ADDRESS" if plane.is_ip else "DNS"
    context: Json = {
        "@type": _TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": {
                "trusted_ca": {"filename": plane.ca_file},
                "match_typed_subject_alt_names": [{"san_type": san_type, "matcher": {"exact": plane.host}}],
            },
        },
    }
    if not plane.is_ip:
        context["sni"] = plane.host
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _http2(token_secret_path: str | None) -> Json:
    keepalive = {"interval": f"{KEEPALIVE_INTERVAL_SECONDS}s", "timeout": f"{KEEPALIVE_TIMEOUT_SECONDS}s"}
    options: Json = {
        "@type": _TYPE + _HTTP_OPTIONS,
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }
    if token_secret_path is not None:
        codec_type = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
        options["http_filters"] = [
            {"name": "envoy.filters.http.credential_injector", "typed_config": _injector(token_secret_path)},
            {"name": "envoy.filters.http.upstream_codec", "typed_config": {"@type": _TYPE + codec_type}},
        ]
    return options


def _injector(token_secret_path: str) -> Json:
    generic = {
        "@type": _TYPE + "envoy.extensions.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": TOKEN_SECRET, "sds_config": {"path_config_source": {"path": token_secret_path}}},
        "header": "authorization",
    }
    return {
        "@type": _TYPE + "envoy.extensions.filters.http.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "envoy.http.injected_credentials.generic", "typed_config": generic},
    }
