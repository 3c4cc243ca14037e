"""A stream's first request: who it comes from, and what is kept of it."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from zone_cp.ads.hub import NodeInfo


def introduced(kind: type[DeltaDiscoveryRequest | DiscoveryRequest], raw: bytes) -> tuple[NodeInfo, Any]:
    """The node, and the request without it. Raises DecodeError.

    Of Envoy's 61 KB, most of them the names of its extensions, nothing else may live as long as the stream.
    """
    request = kind.FromString(raw)
    node = NodeInfo(request.node.id, request.node.cluster, json_format.MessageToDict(request.node.metadata))
    request.ClearField("node")
    return node, kind.FromString(request.SerializeToString())
