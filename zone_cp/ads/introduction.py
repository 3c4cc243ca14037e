"""A stream's first request: who it comes from, and what is kept of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from zone_cp.ads.hub import NodeInfo

METADATA_KEPT = 1_024
"""Different metadata that nodes which say the same share."""


@lru_cache(maxsize=METADATA_KEPT)
def _plain(metadata: bytes) -> dict[str, Any]:
    """Metadata as plain JSON values; not to be changed."""
    return json_format.MessageToDict(Struct.FromString(metadata))


def introduced(kind: type[DeltaDiscoveryRequest | DiscoveryRequest], raw: bytes) -> tuple[NodeInfo, Any]:
    """The node, and the request without it. Raises DecodeError.

    Of Envoy's 61 KB, most of them the names of its extensions, nothing else may live as long as the stream.
    """
    request = kind.FromString(raw)
    metadata = request.node.metadata.SerializeToString(deterministic=True)
    node = NodeInfo(request.node.id, request.node.cluster, _plain(metadata))
    request.ClearField("node")
    return node, kind.FromString(request.SerializeToString())
