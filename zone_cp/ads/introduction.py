"""A stream's first request: who it comes from, and what is kept of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from zone_cp.ads.facts import RemoteProtocolError
from zone_cp.ads.hub import NodeInfo

METADATA_KEPT, METADATA_KEPT_BYTES = 1_024, 8 * 1024
"""Different metadata that nodes which say the same share, where it is not larger."""
MAX_METADATA_BYTES = 64 * 1024
"""It is worked through before anybody knows whose it is: 0.4 ms per KiB."""


@lru_cache(maxsize=METADATA_KEPT)
def _shared(metadata: bytes) -> dict[str, Any]:
    return _plain(metadata)


def _plain(metadata: bytes) -> dict[str, Any]:
    """Metadata as plain JSON values; not to be changed."""
    return json_format.MessageToDict(Struct.FromString(metadata))


def introduced(kind: type[DeltaDiscoveryRequest | DiscoveryRequest], raw: bytes) -> tuple[NodeInfo, Any]:
    """The node, and the request without it. Raises DecodeError, RemoteProtocolError.

    Of Envoy's 61 KB, most of them the names of its extensions, nothing else may live as long as the stream.
    """
    request = kind.FromString(raw)
    metadata = request.node.metadata.SerializeToString(deterministic=True)
    if len(metadata) > MAX_METADATA_BYTES:
        message = f"the node's metadata has {len(metadata)} bytes, and may have {MAX_METADATA_BYTES}"
        raise RemoteProtocolError(message, limit=True)
    plain = _shared if len(metadata) <= METADATA_KEPT_BYTES else _plain
    node = NodeInfo(request.node.id, request.node.cluster, plain(metadata))
    request.ClearField("node")
    return node, kind.FromString(request.SerializeToString())
