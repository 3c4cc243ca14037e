"""Batches: equal resources are found again, with their bytes."""

from __future__ import annotations

from shared.pb.discovery_pb2 import DeltaDiscoveryResponse
from zone_cp.ads.batch import MAX_CHUNK_BYTES, Batch, batches
from zone_cp.xds.snapshot import CLUSTER
from zone_cp.xds.wire import encode, piece


def resource(name: str, size: int = 10):
    return encode(CLUSTER, name, piece(1, name) + piece(28, "x" * size))


def test_the_same_resources_are_one_batch_for_every_stream() -> None:
    """Whoever is told the same gets the same object; what differs in one resource does not."""
    one, two, other = resource("a"), resource("b"), resource("b", 11)
    (first,) = batches((one, two))
    (again,) = batches((one, two))
    (different,) = batches((one, other))
    assert first is again
    assert different is not first
    assert different == (one, other)
    assert batches(()) == ()


def test_a_batch_knows_its_resources() -> None:
    """By name, by version and in pairs."""
    one, two = resource("a"), resource("b")
    batch = Batch((one, two))
    assert batch.named == {"a": one, "b": two}
    assert batch.versions == {"a": one.version, "b": two.version}
    assert batch.pairs == (("a", one.version), ("b", two.version))


def test_a_response_is_made_once_for_streams_that_stand_at_the_same_nonce() -> None:
    """The same bytes, not only equal ones; another nonce makes another response."""
    batch = Batch((resource("a"), resource("b")))
    response = batch.response(piece(1, "v"), piece(5, "7"))
    assert batch.response(piece(1, "v"), piece(5, "7")) is response
    parsed = DeltaDiscoveryResponse.FromString(batch.response(piece(1, "v"), piece(5, "8")))
    assert (parsed.nonce, [one.name for one in parsed.resources]) == ("8", ["a", "b"])


def test_a_group_is_split_by_size() -> None:
    """No response is much larger than a chunk, and one resource is never split."""
    group = (*(resource(f"c{n}", MAX_CHUNK_BYTES // 3) for n in range(7)), resource("big", 2 * MAX_CHUNK_BYTES))
    found = batches(group)
    assert [one for batch in found for one in batch] == list(group)
    assert [len(batch) for batch in found] == [2, 2, 2, 1, 1]
