"""CSDS: what every connected proxy was sent, holds and has refused, as envoy.service.status.v3 says it.

https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/status/v3/csds.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.any_pb2 import Any as AnyMessage

from shared.pb.discovery_pb2 import Node
from shared.pb.status_pb2 import (
    ACKED,
    DOES_NOT_EXIST,
    ERROR,
    NACKED,
    NOT_SENT,
    REQUESTED,
    STALE,
    SYNCED,
    ClientConfig,
    ClientResourceStatus,
    ClientStatusRequest,
    ClientStatusResponse,
    ConfigStatus,
    GenericXdsConfig,
    NodeMatcher,
    StringMatcher,
    UpdateFailureState,
)
from zone_cp.ads.delivery import ResourceState
from zone_cp.ads.hub import NodeInfo, Stream
from zone_cp.xds.snapshot import SECRET

CSDS_SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"
MATCHERS_MAX = 64
_STATUS: Mapping[str, tuple[ConfigStatus, ClientResourceStatus]] = {
    "accepted": (SYNCED, ACKED),
    "sent": (STALE, REQUESTED),
    "refused": (ERROR, NACKED),
    "absent": (NOT_SENT, DOES_NOT_EXIST),
}


class NotUnderstood(Exception):
    """A request asks for something that is not served; the message says what."""


def client_status(streams: Iterable[Stream], request: ClientStatusRequest) -> ClientStatusResponse:
    """One ClientConfig for every proxy that any of the matchers meets. Raises NotUnderstood."""
    if len(request.node_matchers) > MATCHERS_MAX:
        raise NotUnderstood(f"more than {MATCHERS_MAX} node matchers")
    found: dict[str, ClientConfig] = {}
    for stream in sorted(streams, key=lambda one: (one.proxy, one.order)):
        if request.node_matchers and not any(_meets(matcher, stream.node) for matcher in request.node_matchers):
            continue
        if stream.proxy not in found:
            found[stream.proxy] = ClientConfig(node=Node(id=stream.node.id, cluster=stream.node.cluster))
        states = stream.xds.states()
        found[stream.proxy].generic_xds_configs.extend(
            _config(state, bodies=not request.exclude_resource_contents) for state in states
        )
    return ClientStatusResponse(config=found.values())


def _config(state: ResourceState, *, bodies: bool) -> GenericXdsConfig:
    config_status, client_status = _STATUS[state.state]
    config = GenericXdsConfig(
        type_url=state.type_url,
        name=state.name,
        version_info=state.version,
        config_status=config_status,
        client_status=client_status,
    )
    shown = bodies and state.type_url != SECRET  # a private key leaves only towards its own proxy
    if shown and state.body:
        config.xds_config.CopyFrom(AnyMessage(type_url=state.type_url, value=state.body))
    if state.state == "refused":
        failure = UpdateFailureState(details=state.refused, version_info=state.refused_version)
        if shown:
            failure.failed_configuration.CopyFrom(AnyMessage(type_url=state.type_url, value=state.refused_body))
        config.error_state.CopyFrom(failure)
    return config


def _meets(matcher: NodeMatcher, node: NodeInfo) -> bool:
    if matcher.node_metadatas:
        raise NotUnderstood("proxies can be matched by node_id only")
    return not matcher.HasField("node_id") or _matches(matcher.node_id, node.id)


def _matches(matcher: StringMatcher, text: str) -> bool:
    kind = matcher.WhichOneof("pattern")
    if kind is None:
        raise NotUnderstood("a node_id is matched by exact, prefix, suffix or contains")
    pattern: str = getattr(matcher, kind)
    if matcher.ignore_case:
        pattern, text = pattern.lower(), text.lower()
    match kind:
        case "exact":
            return text == pattern
        case "prefix":
            return text.startswith(pattern)
        case "suffix":
            return text.endswith(pattern)
        case _:
            return pattern in text
