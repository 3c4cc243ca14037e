"""Streams that are told the same are told it with the same bytes, whatever was said on them before."""

from __future__ import annotations

import pytest

from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.ads.stream_pair import SHORT, snapshot, succeeding
from zone_cp.ads.batch import Batch
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.nonces import Nonces
from zone_cp.xds.snapshot import Snapshot

STREAMS = 50


class Client:
    """A client that takes all it is sent."""

    def __init__(self) -> None:
        self.stream = DeltaStream()
        for short in ("CDS", "LDS"):
            self.stream.receive(DeltaDiscoveryRequest(type_url=SHORT[short]))

    def take(self, offered: Snapshot) -> list[bytes]:
        """What it is sent until all of it is answered."""
        self.stream.offer(offered)
        taken: list[bytes] = []
        while responses := self.stream.responses():
            taken += responses
            for raw in responses:
                response = DeltaDiscoveryResponse.FromString(raw)
                self.stream.receive(DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))
        assert self.stream.delivered == offered.position
        return taken


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many responses were put together."""
    made: list[int] = []

    response = Batch.response

    def counted(batch: Batch, head: bytes, tail: bytes) -> bytes:
        known = batch._response
        found = response(batch, head, tail)
        if batch._response is not known:
            made.append(len(batch))
        return found

    monkeypatch.setattr(Batch, "response", counted)
    return made


def test_a_change_is_put_together_once_for_streams_with_different_pasts(joined: list[int]) -> None:
    """Some have just connected, some have had several changes: one change to all of them is one response."""
    clients = [Client() for _ in range(STREAMS)]
    before = snapshot(1, CDS=["a", "b"], LDS=["l"])
    for number, client in enumerate(clients):
        for position in range(1 + number % 3):
            content = {"a": f"{number}-{position}", "b": "1"}
            before = succeeding(before, snapshot(1 + position, CDS=content, LDS=["l"]))
            client.take(before)
    joined.clear()
    after = succeeding(before, snapshot(9, CDS={"a": "new", "b": "1"}, LDS=["l"]))
    taken = [client.take(after) for client in clients]
    assert joined == [1]
    assert {len(one) for one in taken} == {1}
    assert len({id(one[0]) for one in taken}) == 1


def test_a_nonce_is_never_used_twice_on_a_stream() -> None:
    """Not by several responses of a moment, not by an older moment that comes later, nor by another type."""
    nonces = Nonces()
    moments = [Position(1, 1), Position(1, 1), Position(2, 0), Position(1, 1), Position(2, 0), Position(1, 1)]
    given = [nonces.next("t", moment, serial) for serial, moment in enumerate(moments)]
    assert given == ["g1.z1.t.0", "g1.z1.t.1", "g2.z0.t.0", "g1.z1.r3", "g2.z0.t.1", "g1.z1.r5"]
    assert nonces.next("a.b.u", Position(1, 1), 6) == "g1.z1.u.0"
