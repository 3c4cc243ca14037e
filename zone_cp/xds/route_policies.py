"""MeshTimeout and MeshRetry → what a route does. Fields that nobody sets keep the defaults of `defaults.py`.

Retries belong to the client's proxy alone; at a zone egress they would square the attempts (spec 4 B2).
"""

from __future__ import annotations

from datetime import timedelta

import msgspec
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from shared.model.duration import parse_duration
from shared.model.header import HeaderMatch
from shared.model.policy import BackOff, GrpcRetry, HttpRetry, HttpTimeouts, RateLimitedBackOff
from shared.model.policy_rules import GRPC_RETRY_ON, HTTP_RETRY_ON, METHOD_PREFIX
from shared.model.resource import Protocol
from zone_cp.view.policies import Effective
from zone_cp.xds import defaults

HTTP_DEFAULT_RETRY_ON = "gateway-error,connect-failure,refused-stream"
GRPC_DEFAULT_RETRY_ON = "cancelled,connect-failure,gateway-error,refused-stream,reset,resource-exhausted,unavailable"
"""Kuma's, where a MeshRetry says something about a protocol but not when to retry."""
STATUS_CODES = "retriable-status-codes"
RESPONSE_HEADERS = "retriable-headers"


class RouteTuning(msgspec.Struct, frozen=True):
    """What policies say about the requests of one protocol; None where they say nothing."""

    timeouts: HttpTimeouts = HttpTimeouts()
    retry: HttpRetry | GrpcRetry | None = None


def route_tuning(said: Effective, protocol: Protocol) -> RouteTuning:
    """The part of what is said that concerns routes of `protocol`: http2 is retried as http is."""
    retry = said.retry.grpc if protocol == "grpc" else said.retry.http
    return RouteTuning(said.timeout.http or HttpTimeouts(), retry)


def duration(text: str | None, default: timedelta) -> timedelta:
    """The duration that a policy says, which admission has checked, or the default."""
    said = parse_duration(text) if text is not None else None
    return default if said is None else said


def apply_timeouts(action: route.RouteAction, timeouts: HttpTimeouts) -> None:
    """Set on a route's action what policies say about its timeouts."""
    if timeouts.request_timeout is not None:
        action.timeout = duration(timeouts.request_timeout, defaults.REQUEST_TIMEOUT)
    if timeouts.stream_idle_timeout is not None:
        action.idle_timeout = duration(timeouts.stream_idle_timeout, defaults.STREAM_IDLE_TIMEOUT)
    if timeouts.max_stream_duration is not None:
        longest = duration(timeouts.max_stream_duration, defaults.NO_TIMEOUT)
        action.max_stream_duration = route.RouteActionMaxStreamDuration(max_stream_duration=longest)


def retry_policy(retry: HttpRetry | GrpcRetry) -> route.RetryPolicy | None:
    """The RetryPolicy that a MeshRetry means; None when it means no retries at all."""
    attempts = defaults.RETRIES if retry.num_retries is None else retry.num_retries
    if attempts == 0:
        return None
    made = route.RetryPolicy(num_retries=attempts, retry_back_off=_back_off(retry.back_off))
    if retry.per_try_timeout is not None:
        made.per_try_timeout = duration(retry.per_try_timeout, defaults.NO_TIMEOUT)
    if retry.rate_limited_back_off is not None:
        made.rate_limited_retry_back_off = _rate_limited(retry.rate_limited_back_off)
    if isinstance(retry, GrpcRetry):
        conditions = [GRPC_RETRY_ON[word] for word in retry.retry_on or ()]
        made.retry_on = ",".join(conditions) or GRPC_DEFAULT_RETRY_ON
    else:
        _http_conditions(made, retry)
    return made


def _http_conditions(made: route.RetryPolicy, retry: HttpRetry) -> None:
    words = retry.retry_on or ()
    conditions = [HTTP_RETRY_ON[word] for word in words if word in HTTP_RETRY_ON]
    codes = [int(word) for word in words if word.isdigit()]
    conditions += [STATUS_CODES] if codes else []
    headers = [header_matcher(one) for one in retry.retriable_response_headers or ()]
    conditions += [RESPONSE_HEADERS] if headers else []
    methods = [word.removeprefix(METHOD_PREFIX).upper() for word in words if word.startswith(METHOD_PREFIX)]
    made.retry_on = ",".join(conditions) or HTTP_DEFAULT_RETRY_ON
    made.retriable_status_codes = codes
    made.retriable_headers = headers
    made.retriable_request_headers = [header_matcher(one) for one in retry.retriable_request_headers or ()] + [
        header_matcher(HeaderMatch(name=":method", value=method)) for method in methods
    ]


def _back_off(said: BackOff | None) -> route.RetryPolicyRetryBackOff:
    base = duration(said.base_interval if said else None, defaults.RETRY_BACK_OFF)
    limit = duration(said.max_interval if said else None, max(defaults.RETRY_BACK_OFF_LIMIT, base * 10))
    return route.RetryPolicyRetryBackOff(base_interval=base, max_interval=max(base, limit))


def _rate_limited(said: RateLimitedBackOff) -> route.RetryPolicyRateLimitedRetryBackOff:
    formats = {
        "Seconds": route.RetryPolicyResetHeaderFormat.SECONDS,
        "UnixTimestamp": route.RetryPolicyResetHeaderFormat.UNIX_TIMESTAMP,
    }
    made = route.RetryPolicyRateLimitedRetryBackOff(
        reset_headers=[
            route.RetryPolicyResetHeader(name=one.name, format=formats[one.format]) for one in said.reset_headers or ()
        ]
    )
    if said.max_interval is not None:
        made.max_interval = duration(said.max_interval, defaults.NO_TIMEOUT)
    return made


def header_matcher(said: HeaderMatch) -> route.HeaderMatcher:
    """What a HeaderMatch means."""
    value = said.value or ""
    match said.type:
        case "Present":
            return route.HeaderMatcher(name=said.name, present_match=True)
        case "Absent":
            return route.HeaderMatcher(name=said.name, present_match=True, invert_match=True)
        case "Exact":
            text = matcher.StringMatcher(exact=value)
        case "Prefix":
            text = matcher.StringMatcher(prefix=value)
        case "RegularExpression":
            text = matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=value))
    return route.HeaderMatcher(name=said.name, string_match=text)
