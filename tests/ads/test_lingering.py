"""What goes together with a change of listeners goes once their connections have drained; all else goes at once."""

from __future__ import annotations

import pytest

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from tests.ads.stream_pair import SHORT, SotwPair, StreamPair, snapshot, told
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.lingering import Lingering
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG


def _connected(pair: StreamPair) -> StreamPair:
    for short in ("CDS", "LDS"):
        pair.ask(short)
    pair.ask("RDS", "r1", "r2")
    pair.offer(snapshot(1, CDS=["a"], LDS={"l": "to r1"}, RDS=["r1"]))
    pair.run()
    return pair


@pytest.mark.parametrize("pair_of", [StreamPair, SotwPair])
def test_what_old_listeners_lead_to_stays_until_they_have_drained(pair_of: type[StreamPair]) -> None:
    """A connection that a worker accepted just before the change still finds its route and its cluster."""
    pair = _connected(pair_of())
    pair.offer(snapshot(2, CDS=["b"], LDS={"l": "to r2"}, RDS=["r2"]))
    pair.run(waits=False)
    assert set(pair.holds[SHORT["CDS"]]) == {"a", "b"}
    assert pair.server.delivered.g == 2, "nobody waits for what only lingers"
    assert pair.drain()
    pair.run(waits=False)
    assert set(pair.holds[SHORT["CDS"]]) == {"b"}
    assert not pair.drain()


def test_what_comes_back_while_it_lingers_stays() -> None:
    """And when it goes again, it has the whole time again."""
    pair = _connected(StreamPair())
    for position, (cluster, route) in enumerate((("b", "r2"), ("a", "r1"), ("b", "r2")), 2):
        pair.offer(snapshot(position, CDS=[cluster], LDS={"l": f"to {route}"}, RDS=[route]))
        pair.run(waits=False)
    first = 1
    pair.server.drained(first)
    pair._pump()
    pair.run(waits=False)
    assert set(pair.holds[SHORT["CDS"]]) == {"a", "b"}
    pair.run()
    assert set(pair.holds[SHORT["CDS"]]) == {"b"}


def test_what_goes_alone_goes_at_once() -> None:
    """No listener changed, so nothing drains."""
    pair = _connected(StreamPair())
    pair.offer(snapshot(2, CDS=["a", "b"], LDS={"l": "to r1"}, RDS=["r1"]))
    pair.run()
    pair.offer(snapshot(3, CDS=["a"], LDS={"l": "to r1"}, RDS=["r1"]))
    assert told(pair.run(waits=False)) == ["CDS -b"]


def test_a_service_that_is_guarded_does_not_linger() -> None:
    """At a zone egress it would be open to everybody without its filter; it has a grace of its own there."""
    stream, guarded = DeltaStream(), "mes/http/default/api"
    for type_url in (CLUSTER, EXTENSION_CONFIG):
        stream.receive(DeltaDiscoveryRequest(type_url=type_url))
    clusters, filters = stream.subscription(CLUSTER), stream.subscription(EXTENSION_CONFIG)
    assert clusters is not None
    assert filters is not None
    clusters.gone |= {guarded, "ads"}
    lingering = Lingering()
    lingering.sent(5)
    lingering.begin(5, (clusters, filters))
    assert lingering.left_of(CLUSTER, (guarded, "ads")) == (guarded,)
    lingering.over(lingering.newest)
    assert lingering.left_of(CLUSTER, (guarded, "ads")) == (guarded, "ads")
