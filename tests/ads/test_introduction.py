"""What is kept of a stream's first request."""

from __future__ import annotations

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, Node
from tests.ads.stream_pair import SHORT
from zone_cp.ads.hub import NodeInfo
from zone_cp.ads.introduction import introduced


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
