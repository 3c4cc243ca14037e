"""Numbers and names that the generator uses: Kuma's default policies as data (2-xds.md §1.7), and our own names.

Timeouts are Kuma's MeshTimeout defaults. Retries are narrower than Kuma's: an answer of the outside is never
repeated, only a request that reached nobody is (a 503 that says why must come at once, and once).
"""

from __future__ import annotations

from datetime import timedelta

CONNECT_TIMEOUT = timedelta(seconds=5)
CONNECTION_IDLE_TIMEOUT = timedelta(hours=1)
REQUEST_TIMEOUT = timedelta(seconds=15)
STREAM_IDLE_TIMEOUT = timedelta(minutes=30)
NO_TIMEOUT = timedelta(0)
INITIAL_FETCH_TIMEOUT = timedelta(seconds=5)
"""How long Envoy waits for a subscribed resource before it goes on without it."""

ON_DEMAND_TIMEOUT = timedelta(seconds=3)
"""How long a first request waits for its cluster while the control plane does not answer."""

RETRY_ON = "connect-failure,refused-stream"
RETRIES = 5
OUTSIDE_RETRIES = 2
"""Towards the outside: two more endpoints are tried, and a failure is told without delay."""
OTHER_HOST_ATTEMPTS = 5
"""How often the balancer is asked again for an endpoint that was not tried yet, before an old one will do."""
RETRY_BACK_OFF = timedelta(milliseconds=25)
RETRY_BACK_OFF_LIMIT = timedelta(milliseconds=250)
TCP_CONNECT_ATTEMPTS = 5
EGRESS_CONNECT_ATTEMPTS = 16
"""Of TCP towards the zone egresses, which are never ejected: each attempt goes to whichever has its turn. With five,
three connections of a hundred were lost while one of two egresses was dead and not known to be (measured)."""
TCP_BACK_OFF = timedelta(milliseconds=40)
"""Of TCP: up to so long before each further attempt. Without a pause all are over before a dead endpoint is ejected, in
some milliseconds; and a denied connection to a guarded service is closed only after the last. It is the longest one as
well, because Envoy has one back-off for all connections of a chain, which grows and does not begin anew (measured)."""

IN_MESH_TRY_TIMEOUT = timedelta(seconds=16)
"""Of one attempt of a request between workloads (Kuma's default MeshRetry)."""
INBOUND_IDLE_TIMEOUT = timedelta(hours=2)
INBOUND_STREAM_IDLE_TIMEOUT = timedelta(hours=1)
INBOUND_CONNECT_TIMEOUT = timedelta(seconds=10)
"""A sidecar's limits towards its own application (Kuma's default MeshTimeout); requests may take as long as they do."""

GATEWAY_SERVER_NAME = "Zonal Gateway"
GATEWAY_IDLE_TIMEOUT = timedelta(minutes=5)
GATEWAY_STREAM_IDLE_TIMEOUT = timedelta(seconds=5)
GATEWAY_HEADERS_TIMEOUT = timedelta(milliseconds=500)
GATEWAY_STREAMS = 100
GATEWAY_STREAM_BYTES = 64 * 1024
GATEWAY_CONNECTION_BYTES = 1024 * 1024
GATEWAY_BUFFER_BYTES = 32 * 1024
"""A builtin gateway's limits towards its clients (Kuma's)."""
GATEWAY_RUNTIME = "gateway.listeners"
"""Name of the runtime layer that limits the connections of a gateway's listeners."""
MESHES_FILTER = "envoy.filters.http.rbac"
"""Of a gateway's listener for other meshes: routes say of which meshes it takes requests."""
NO_GATEWAY_ROUTE = "This is a Zonal MeshGateway. No routes match this MeshGateway!\n"

EARLY_DATA_BYTES = 16_384
"""What a TCP client may send while its egress still dials."""

SERVICE_LIMIT = 1024
"""Connections, pending requests and requests of one external service at one proxy (Kuma's default)."""
SERVICE_RETRY_LIMIT = SERVICE_LIMIT
"""Retries under way at once. By default only what reached nobody is tried again: a retry is no load for anyone, and
the three of Kuma leave requests unanswered as soon as four of them meet a dead endpoint together."""
POLICY_RETRY_LIMIT = 3
"""The same where a MeshCircuitBreaker sets limits, but not this one (Kuma's default)."""
EGRESS_LIMIT = 1_000_000
"""The same towards the zone egress: limits are per service, and those live at the egress (decision 26)."""

FAILOVER_CONNECT_FAILURES = 1
FAILOVER_GATEWAY_FAILURES = 5
FAILOVER_EJECTION = timedelta(seconds=30)

HEALTH_INTERVAL = timedelta(minutes=1)
HEALTH_TIMEOUT = timedelta(seconds=15)
UNHEALTHY_THRESHOLD = 5
HEALTHY_THRESHOLD = 1

ALPN_HTTP = ("h2", "http/1.1")
ALPN_TCP = ("mes-tcp",)
"""Towards the egress, the application protocol tells the class: Envoy's HTTP pools offer their own names."""

ALPN_IN_MESH = ("kuma",)
"""Between sidecars, as in Kuma: what tells mutual TLS of the mesh from an application's own TLS."""

SNI_HEADER = "x-zonal-sni"
CLUSTER_HEADER = "x-zonal-cluster"
KEEP_HOST_HEADER = "x-zonal-keep-host"
"""Tells the zone egress that a route has chosen the host: it is not to be the endpoint's."""
INTERNAL_HEADERS = (SNI_HEADER, CLUSTER_HEADER, KEEP_HOST_HEADER, "x-vip")
"""Never leave the mesh (decision 25)."""

EGRESS_HTTP = "egress-http"
EGRESS_TCP = "egress-tcp"
EGRESS_ENDPOINTS = "zone-egress"
PASSTHROUGH = "passthrough"
BLACKHOLE = "blackhole"
NOBODY = "mes/nobody"
"""Name of no cluster: where a TCP connection goes that nothing gave a destination. It is closed."""
FORBIDDEN = "mes/forbidden"
"""Name of no cluster: where a forbidden TCP connection goes. It is closed."""

METADATA_NAMESPACE = "zonal"
ACCESS_LOG_FEATURE = "access-log="
ACCESS_LOG_DEFAULT = "/dev/stdout"

CIPHERS = (
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
)
"""Envoy's own defaults for TLS 1.2."""
CIPHERS_BEFORE_TLS12 = (
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
)
"""What TLS 1.0 and 1.1 need besides (decision 6)."""


def egress_share(sni: str) -> str:
    """Name of a sidecar's cluster towards one TCP service behind the zone egress."""
    return f"{EGRESS_TCP}/{sni}"


def identity_secret(mesh: str, service: str = "") -> str:
    """SDS name of the proxy's own certificate in a mesh; `service`: of a further service that it serves."""
    return f"identity/{mesh}" + (f"/{service}" if service else "")


def trust_secret(mesh: str) -> str:
    """SDS name of a mesh's trust bundle."""
    return f"trust/{mesh}"


TRUST_ALL = "trust:all"
"""SDS name of the roots of all meshes together: no mesh can be called so."""
