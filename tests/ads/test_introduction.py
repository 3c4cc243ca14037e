"""What is kept of a stream's first request."""

from __future__ import annotations

import pytest

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, Node
from tests.ads.stream_pair import SHORT
from zone_cp.ads.facts import RemoteProtocolError
from zone_cp.ads.hub import NodeInfo
from zone_cp.ads.introduction import MAX_METADATA_BYTES, METADATA_KEPT_BYTES, introduced


def test_of_a_first_request_only_the_proxy_and_its_question_are_kept() -> None:
    """Envoy lists hundreds of extensions; they must not live as long as the stream."""
    asked = DeltaDiscoveryRequest(type_url=SHORT["CDS"], resource_names_subscribe=["*"])
    node = Node(id="p", cluster="c", metadata={"features": ["redirect"]}).SerializeToString()
    extensions = 500 * (b"\x4a\x7f" + b"e" * 127)
    first = DeltaDiscoveryRequest(node=Node.FromString(node + extensions))
    first.MergeFrom(asked)
    raw = first.SerializeToString()
    assert len(raw) > len(extensions)
    who, request = introduced(DeltaDiscoveryRequest, raw)
    assert who == NodeInfo("p", "c", {"features": ["redirect"]})
    assert request.SerializeToString() == asked.SerializeToString()


@pytest.mark.parametrize("size", [METADATA_KEPT_BYTES // 2, METADATA_KEPT_BYTES * 2])
def test_metadata_is_shared_unless_it_is_large(size: int) -> None:
    """What somebody sends who is nobody yet must not stay."""
    raw = DeltaDiscoveryRequest(node=Node(id="p", metadata={"a": "b" * size})).SerializeToString()
    nodes = [introduced(DeltaDiscoveryRequest, raw)[0] for _ in range(2)]
    assert nodes[0].metadata == nodes[1].metadata == {"a": "b" * size}
    assert (nodes[0].metadata is nodes[1].metadata) == (size < METADATA_KEPT_BYTES)


def test_metadata_has_a_limit() -> None:
    """It says how much."""
    raw = DeltaDiscoveryRequest(node=Node(id="p", metadata={"a": "b" * MAX_METADATA_BYTES})).SerializeToString()
    with pytest.raises(RemoteProtocolError, match=f"may have {MAX_METADATA_BYTES}"):
        introduced(DeltaDiscoveryRequest, raw)
