"""What a route does by default: timeouts, retries, and the one destination that its hop has."""

from __future__ import annotations

from functools import cache

from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts

from zone_cp.xds import defaults
from zone_cp.xds.filters import Hop
from zone_cp.xds.route_policies import RouteTuning, apply_timeouts, retry_policy
from zone_cp.xds.shape import pack


@cache
def another_host() -> route.RetryPolicyRetryHostPredicate:
    """Try elsewhere first: of several endpoints some may be dead."""
    name = "envoy.retry_host_predicates.previous_hosts"
    return route.RetryPolicyRetryHostPredicate(name=name, typed_config=pack(previous_hosts.PreviousHostsPredicate()))


def action(hop: Hop, tuning: RouteTuning, *, at_sidecar: bool) -> route.RouteAction:
    """An action without a destination."""
    # The request timeout is the sidecar's; a zone egress adds none of its own (2-xds.md §2.2).
    made = route.RouteAction(
        timeout=defaults.REQUEST_TIMEOUT if at_sidecar else defaults.NO_TIMEOUT,
        idle_timeout=defaults.STREAM_IDLE_TIMEOUT,
        retry_policy=route.RetryPolicy(
            retry_on=defaults.RETRY_ON,
            num_retries=defaults.RETRIES if hop == "mesh" else defaults.OUTSIDE_RETRIES,
            retry_back_off=route.RetryPolicyRetryBackOff(
                base_interval=defaults.RETRY_BACK_OFF, max_interval=defaults.RETRY_BACK_OFF_LIMIT
            ),
            retry_host_predicate=[another_host()],
            host_selection_retry_max_attempts=defaults.OTHER_HOST_ATTEMPTS,
        ),
    )
    if hop == "outside":
        made.cluster_not_found_response_code = route.RouteActionClusterNotFoundResponseCode.SERVICE_UNAVAILABLE
    apply_timeouts(made, tuning.timeouts)
    if tuning.retry is not None:
        made.retry_policy = retry_policy(tuning.retry)
    return made


def onward(hop: Hop, tuning: RouteTuning, *, at_sidecar: bool, rewrite_host: bool = True) -> route.RouteAction:
    """An action that leads where the request was meant to go, which the listener has written into a header."""
    made = action(hop, tuning, at_sidecar=at_sidecar)
    if hop == "mesh":
        made.cluster = defaults.EGRESS_HTTP
    else:
        made.cluster_header = defaults.CLUSTER_HEADER
        if rewrite_host:
            made.auto_host_rewrite = True
    return made
