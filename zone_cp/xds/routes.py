"""Route configurations: constant ones, over RDS (decision 23), so that a mesh's access rule drains nothing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route

from zone_cp.view.zone_view import MeshView
from zone_cp.xds import defaults
from zone_cp.xds.extended import ExtraRoutes
from zone_cp.xds.filters import Hop
from zone_cp.xds.snapshot import ROUTE, Encoded
from zone_cp.xds.wire import encode

FORBIDDEN_STATUS = 403
BODY_MAX_BYTES = 65_536
"""Of an answer that a route itself gives; Envoy's own limit is 4096."""


def route_name(hop: Hop, mesh: str) -> str:
    """RDS name of a mesh's routes at one hop."""
    return f"{hop}/{mesh}"


def _action(hop: Hop, *, at_sidecar: bool) -> route.RouteAction:
    # The request timeout is the sidecar's; a zone egress adds none of its own (2-xds.md §2.2).
    action = route.RouteAction(
        timeout=defaults.REQUEST_TIMEOUT if at_sidecar else defaults.NO_TIMEOUT,
        idle_timeout=defaults.STREAM_IDLE_TIMEOUT,
        retry_policy=route.RetryPolicy(
            retry_on=defaults.RETRY_ON,
            num_retries=defaults.RETRIES if hop == "mesh" else defaults.OUTSIDE_RETRIES,
            retry_back_off=route.RetryPolicyRetryBackOff(
                base_interval=defaults.RETRY_BACK_OFF, max_interval=defaults.RETRY_BACK_OFF_LIMIT
            ),
        ),
    )
    if hop == "mesh":
        action.cluster = defaults.EGRESS_HTTP
    else:
        action.cluster_header = defaults.CLUSTER_HEADER
        action.auto_host_rewrite = True
        action.cluster_not_found_response_code = route.RouteActionClusterNotFoundResponseCode.SERVICE_UNAVAILABLE
    return action


@lru_cache(maxsize=1024)
def _body(hop: Hop, mesh: str, extra: tuple[bytes, ...] = (), *, at_sidecar: bool, forbidden: bool) -> bytes:
    everything = route.RouteMatch(prefix="/")
    if forbidden:
        text = f"mesh {mesh} forbids MeshExternalServices (defaultForbidMeshExternalServiceAccess)\n"
        denied = route.DirectResponseAction(status=FORBIDDEN_STATUS, body=core.DataSource(inline_string=text))
        found = [route.Route(match=everything, direct_response=denied)]
    else:
        own = [route.Route.parse(one) for one in extra]
        found = [*own, route.Route(match=everything, route=_action(hop, at_sidecar=at_sidecar))]
    return bytes(
        route.RouteConfiguration(
            name=route_name(hop, mesh),
            virtual_hosts=[route.VirtualHost(name=mesh, domains=["*"], routes=found)],
            request_headers_to_remove=list(defaults.INTERNAL_HEADERS) if hop == "outside" else [],
            validate_clusters=False,
            max_direct_response_body_size_bytes=BODY_MAX_BYTES if extra else None,
        )
    )


def routes(hop: Hop, mesh: MeshView, extra: Iterable[ExtraRoutes] = (), *, at_sidecar: bool) -> Encoded:
    """The routes of a mesh at one hop; `extra` are those of services that answer by routes of their own.

    Access is decided where the outside is dialled (decision 20), and before anything else.
    """
    forbidden = mesh.forbid_external and hop == "outside"
    own = [one for one in extra if one.routes]
    body = _body(
        hop, mesh.name, tuple(each for one in own for each in one.routes), at_sidecar=at_sidecar, forbidden=forbidden
    )
    sources = dict.fromkeys((*mesh.sources, *(ref for one in own for ref in one.sources)))
    return encode(ROUTE, route_name(hop, mesh.name), body, tuple(sources))
