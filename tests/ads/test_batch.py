"""Batches: equal resources are found again, with their bytes."""

from __future__ import annotations

import tracemalloc

import pytest

from shared.pb.discovery_pb2 import DeltaDiscoveryResponse
from zone_cp.ads import batch as module
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


def test_what_is_remembered_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the changes are: the oldest go first, and one that is too large alone stays until the next."""
    monkeypatch.setattr(module, "GROUPS_BYTES", 10_000)
    first, second = ((resource(name, 4_000),) for name in "ab")
    kept = [batches(first), batches(second), batches(first)]
    assert kept[0] is kept[2]
    huge = (resource("c", 20_000),)
    (large,) = batches(huge)
    assert batches(huge)[0] is large
    assert batches(first) is not kept[0]
    assert batches(huge)[0] is not large


def test_changes_of_everything_leave_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times all of many resources: the responses of the last ones are in memory, not of all sixteen."""
    monkeypatch.setattr(module, "GROUPS_BYTES", 2_000_000)
    tracemalloc.start()
    try:
        for number in range(20):
            for one in batches(tuple(resource(f"{number}-{n}", 1_000) for n in range(1_000))):
                one.response(b"", b"")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 * 2_000_000, held  # a resource is its body, its entry and that of its response


def test_small_groups_are_bounded_in_number() -> None:
    """Each costs more than its bytes."""
    first = (resource("a"),)
    kept = batches(first)
    for number in range(module.GROUPS_KEPT):
        assert batches(first) is kept
        batches((resource(f"b{number}"),))
    for number in range(module.GROUPS_KEPT):
        batches((resource(f"c{number}"),))
    assert batches(first) is not kept
