"""The measurements that many clients take part in, with few."""

from __future__ import annotations

import asyncio

import pytest

from shared.bench import apart, clients, fanout
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

FEW = {
    "STREAMS": 3,
    "FIRST_STREAMS": 3,
    "SYNC_STREAMS": 3,
    "ROUNDS": 2,
    "SYNC_ROUNDS": 2,
    "WARM_UP": 1,
    "SYNC_CLUSTERS": 1_500,  # more than one response takes
}


def test_every_client_acks_all_that_both_servers_push(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes and first syncs are ACKed by every client, and all that is measured is something."""
    for name, number in FEW.items():
        monkeypatch.setattr(fanout, name, number)
    found = asyncio.run(fanout._measured())
    assert found.fanout_ms > 0
    assert found.bare_fanout_ms > 0
    assert found.sync_ms > 0
    assert found.bare_sync_ms > 0


def test_a_client_acks_once_whatever_the_pieces_it_hears() -> None:
    """Responses that come byte by byte, in frames that cut them, are each ACKed once and by their nonce."""
    pushed = [
        DeltaDiscoveryResponse(type_url=clients.CLUSTER, nonce=str(n), system_version_info="v" * 20_000) for n in (1, 2)
    ]
    data = clients.frame(4, 0, 0, b"") + b"".join(clients.message(one.SerializeToString()) for one in pushed)
    client = clients.Client(connection=None)  # type: ignore[arg-type]
    answered = b"".join(client.received(data[at : at + 1]) for at in range(len(data)))
    wanted = [DeltaDiscoveryRequest(type_url=clients.CLUSTER, response_nonce=one.nonce) for one in pushed]
    assert answered == clients.frame(4, 1, 0, b"") + b"".join(
        clients.message(one.SerializeToString()) for one in wanted
    )


def test_the_end_of_a_stream_is_told() -> None:
    """A client whose stream the server ends says so."""
    client = clients.Client(connection=None)  # type: ignore[arg-type]
    with pytest.raises(clients.Broken):
        client.received(clients.frame(3, 0, 1, b"\0\0\0\2"))


def test_a_measurement_apart_that_dies_shows_its_last_words() -> None:
    """A process that ends without figures fails the measurement with what it said last."""
    with pytest.raises(apart.Died, match="No module named"):
        asyncio.run(apart.measure_apart("shared.bench.nowhere", int, lambda _: None))
