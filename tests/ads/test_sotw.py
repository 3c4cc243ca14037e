"""Each SotW rule of design/xds.md §7, by number, and the ones it shares with delta, on the sans-IO stream."""

from __future__ import annotations

import pytest

from shared.events.state import Position
from shared.pb.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from tests.ads.stream_pair import SHORT, SotwPair, carried, eds_cluster, snapshot, told, wire_version
from zone_cp.ads.facts import Acked, Nacked, RemoteProtocolError
from zone_cp.ads.nonces import Nonces
from zone_cp.ads.sotw import SotwStream


def connected(*asked: str) -> SotwPair:
    pair = SotwPair()
    for short in asked:
        pair.ask(short)
    return pair


def answers(stream: SotwStream) -> list[DiscoveryResponse]:
    return [DiscoveryResponse.FromString(raw) for raw in stream.responses()]


def request(short: str, *names: str, nonce: str = "", version: str = "") -> DiscoveryRequest:
    return DiscoveryRequest(type_url=SHORT[short], resource_names=names, response_nonce=nonce, version_info=version)


def nonce(position: int, short: str = "CDS") -> str:
    """What a stream calls its first response of a type at a moment."""
    return Nonces().next(SHORT[short], Position(position, 0), 0)


def test_rule_1_a_request_without_a_type_is_a_protocol_error() -> None:
    """On an aggregated stream the type URL is mandatory."""
    with pytest.raises(RemoteProtocolError):
        SotwStream().receive(DiscoveryRequest())


def test_rule_2_state_and_nonces_are_of_a_stream_and_a_type() -> None:
    """Every response of a stream has its own nonce; an ACK of one type says nothing about another."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a"], LDS=["l"]))
    pair.run()
    pair.offer(snapshot(2, CDS={"a": "2"}, LDS=["l"]))
    assert told(pair.run()) == ["CDS +a"]
    assert len({r.nonce for r in pair.log}) == len(pair.log) == 3
    assert pair.holds[SHORT["CDS"]] == {"a": wire_version("CDS", "a", "2")}


def test_rule_3_an_ack_alone_causes_no_response() -> None:
    """Only a difference of state or of subscription makes the server speak."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a"]))
    assert told(pair.run()) == ["CDS +a", "LDS"]
    pair.offer(snapshot(2, CDS=["a"]))
    assert pair.run() == []
    assert pair.server.delivered == Position(2, 0)
    assert [type(fact) for fact in pair.facts] == [Acked, Acked]


def test_rule_3_a_nack_is_reported_and_the_same_bytes_are_never_sent_again() -> None:
    """The client keeps its last good version, in every later response too, until something new is offered."""
    pair = connected("CDS")
    pair.offer(snapshot(1, CDS={"a": "1"}))
    pair.run()
    pair.offer(snapshot(2, CDS={"a": "bad"}))
    pair.run()
    fact = pair.facts[-1]
    assert isinstance(fact, Nacked)
    assert fact.rejected == (("a", wire_version("CDS", "a", "bad")),)
    pair.offer(snapshot(3, CDS={"a": "bad", "b": "1"}))
    (response,) = pair.run()
    assert dict(carried(response)) == {"a": wire_version("CDS", "a", "1"), "b": wire_version("CDS", "b")}
    assert pair.resent_refused == []


def test_rule_4_an_empty_first_request_is_wildcard_for_clusters_and_listeners_only() -> None:
    """EDS, RDS and SDS give nothing to who names nothing."""
    pair = connected("CDS", "EDS", "SDS", "LDS", "RDS")
    pair.offer(snapshot(1, CDS=["c"], EDS=["e"], SDS=["s"], LDS=["l"], RDS=["r"]))
    assert told(pair.run()) == ["CDS +c", "LDS +l"]


def test_rule_4_the_legacy_wildcard_ends_when_the_client_names_something() -> None:
    """From then on exactly the names count, and an empty list means nothing."""
    stream = SotwStream()
    stream.offer(snapshot(1, CDS=["a", "b"]))
    stream.receive(request("CDS"))
    assert told(answers(stream)) == ["CDS +a +b"]
    stream.receive(request("CDS", "a", nonce=nonce(1)))
    assert answers(stream) == []
    stream.offer(snapshot(2, CDS={"a": "2", "b": "2"}))
    assert told(answers(stream)) == ["CDS +a"]
    stream.receive(request("CDS", nonce=nonce(2)))
    stream.offer(snapshot(3, CDS={"a": "3", "b": "3"}))
    assert answers(stream) == []


def test_rule_4_an_explicit_star_stands_beside_names_and_ends_when_it_is_left_out() -> None:
    """`*` means all, whatever else is named."""
    stream = SotwStream()
    stream.offer(snapshot(1, CDS=["a", "b"]))
    stream.receive(request("CDS", "*", "a"))
    assert told(answers(stream)) == ["CDS +a +b"]
    stream.receive(request("CDS", "b", nonce=nonce(1)))
    stream.offer(snapshot(2, CDS={"a": "2", "b": "2"}))
    assert told(answers(stream)) == ["CDS +b"]


def test_rule_5_the_first_wildcard_request_is_answered_even_when_there_is_nothing() -> None:
    """Envoy waits for that reply to end its initialisation."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1))
    assert told(pair.run()) == ["CDS", "LDS"]


def test_rule_6_additions_wait_for_the_clusters_and_removals_for_their_users() -> None:
    """Make before break: the old cluster stays in the whole set until the route that used it has moved."""
    pair = SotwPair()
    for short, names in (("CDS", ()), ("EDS", ("a", "b")), ("LDS", ()), ("RDS", ("r",))):
        pair.ask(short, *names)
    pair.offer(snapshot(1, CDS=["a"], EDS=["a"], LDS=["l"], RDS={"r": "a"}))
    assert told(pair.run()) == ["CDS +a", "EDS +a", "LDS +l", "RDS +r"]
    pair.auto_ack = False
    pair.offer(snapshot(2, CDS=["b"], EDS=["b"], LDS=["l"], RDS={"r": "b"}))
    assert told(pair.run()) == ["CDS +a +b", "EDS +b"]
    pair.ack()
    assert told(pair.run()) == ["RDS +r"]
    pair.ack()
    assert pair.run() == []
    pair.ack()
    assert told(pair.run()) == ["CDS +b"]
    pair.ack()
    pair.run()
    assert pair.server.delivered == Position(2, 0)


def test_rule_7_nothing_is_queued_that_the_subscription_no_longer_wants() -> None:
    """Responses are made when they are written, from the newest request and the newest offer."""
    stream = SotwStream()
    stream.receive(request("EDS", "a"))
    stream.offer(snapshot(1, EDS=["a", "b"]))
    stream.receive(request("EDS", "b"))
    stream.offer(snapshot(2, EDS={"a": "2", "b": "2"}))
    (response,) = answers(stream)
    assert carried(response) == [("b", wire_version("EDS", "b", "2"))]


def test_rule_8_clusters_and_listeners_come_whole_and_absence_removes() -> None:
    """A change of one resource carries all of them; an empty response removes the last one."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a", "b"], LDS=["l", "m"]))
    pair.run()
    pair.offer(snapshot(2, CDS={"a": "1", "b": "2"}, LDS={"l": "1", "m": "2"}))
    assert told(pair.run()) == ["CDS +a +b", "LDS +l +m"]
    pair.offer(snapshot(3, CDS=["a"]))
    assert told(pair.run()) == ["LDS", "CDS +a"]
    pair.offer(snapshot(4))
    assert told(pair.run()) == ["CDS"]
    assert not any(pair.holds.values())


def test_rule_8_endpoints_routes_and_secrets_come_alone_and_their_removal_is_not_told() -> None:
    """Only what changed travels; what vanished is forgotten, and sent again when it is back."""
    pair = SotwPair()
    for short in ("EDS", "RDS", "SDS"):
        pair.ask(short, "x", "y")
    pair.offer(snapshot(1, EDS=["x", "y"], RDS=["x", "y"], SDS=["x", "y"]))
    pair.run()
    pair.offer(snapshot(2, EDS={"x": "2", "y": "1"}, RDS=["x", "y"], SDS=["x"]))
    assert told(pair.run()) == ["EDS +x"]
    assert pair.server.delivered == Position(2, 0)
    pair.offer(snapshot(3, EDS={"x": "2", "y": "1"}, RDS=["x", "y"], SDS=["x", "y"]))
    assert told(pair.run()) == ["SDS +y"]


def test_rule_8_a_named_cluster_that_does_not_exist_is_left_out_of_the_answer() -> None:
    """That ends the waiting of a client which names its clusters and listeners, as gRPC does."""
    pair = SotwPair()
    pair.ask("LDS", "l", "missing")
    pair.ask("EDS", "missing")
    pair.offer(snapshot(1, LDS=["l"]))
    assert told(pair.run()) == ["LDS +l"]
    pair.ask("LDS", unsubscribe=["l"])
    pair.ask("LDS", "gone")
    assert told(pair.run()) == ["LDS"]


def told_twice() -> SotwStream:
    """A stream that asks for one of two names, has ACKed its first version and was sent the second."""
    stream = SotwStream()
    stream.offer(snapshot(1, EDS=["a", "b"]))
    stream.receive(request("EDS", "a"))
    assert told(answers(stream)) == ["EDS +a"]
    stream.receive(request("EDS", "a", nonce=nonce(1, "EDS")))
    stream.offer(snapshot(2, EDS={"a": "2", "b": "2"}))
    assert told(answers(stream)) == ["EDS +a"]
    return stream


def test_rule_9_a_stale_nonce_is_ignored_names_and_all() -> None:
    """The client repeats its names with the latest nonce anyway."""
    stream = told_twice()
    assert stream.receive(request("EDS", "a", "b", nonce=nonce(1, "EDS"))) == ()
    assert answers(stream) == []
    (fact,) = stream.receive(request("EDS", "a", "b", nonce=nonce(2, "EDS")))
    assert fact.nonce == nonce(2, "EDS")
    assert told(answers(stream)) == ["EDS +b"]


def test_rule_9_names_that_a_stale_request_leaves_out_or_adds_stay_as_they_were() -> None:
    """With a response under way, and with all of them answered."""
    stream = told_twice()
    assert stream.receive(request("EDS", "b", nonce=nonce(1, "EDS"))) == ()
    stream.receive(request("EDS", "a", nonce=nonce(2, "EDS")))
    assert answers(stream) == []
    assert stream.receive(request("EDS", "a", "b", nonce=nonce(1, "EDS"))) == ()
    assert answers(stream) == []
    stream.offer(snapshot(3, EDS={"a": "2", "b": "3"}))
    assert answers(stream) == []


def test_rule_9_a_new_stream_is_answered_whatever_version_it_reports() -> None:
    """The last accepted version does not prove what is held: parts of a refused response may be."""
    pair = connected("CDS", "LDS")
    pair.ask("EDS", "a")
    pair.offer(snapshot(1, CDS=["a"], EDS=["a"], LDS=["l"]))
    pair.run()
    pair.reconnect()
    assert all(request.version_info == "g1.z0" for request in pair.up)
    assert told(pair.run()) == ["CDS +a", "EDS +a", "LDS +l"]
    assert {r.version_info for r in pair.log if isinstance(r, DiscoveryResponse)} == {"g1.z0"}


def test_rule_10_a_new_name_is_answered_although_nothing_changed() -> None:
    """What was returned is remembered per stream, and only what was not yet is sent."""
    pair = SotwPair()
    pair.ask("EDS", "a")
    pair.offer(snapshot(1, EDS=["a", "b"]))
    assert told(pair.run()) == ["EDS +a"]
    pair.ask("EDS", "b")
    assert told(pair.run()) == ["EDS +b"]


def test_rule_10_a_name_that_was_dropped_and_is_named_again_is_sent_again() -> None:
    """Dropping it causes nothing."""
    pair = SotwPair()
    pair.ask("EDS", "a", "b")
    pair.offer(snapshot(1, EDS=["a", "b"]))
    pair.run()
    pair.ask("EDS", unsubscribe=["a"])
    assert pair.run() == []
    pair.ask("EDS", "a")
    assert told(pair.run()) == ["EDS +a"]


def test_rule_10_the_empty_name_is_not_a_wildcard() -> None:
    """resource_names [""] names one resource, which does not exist."""
    stream = SotwStream()
    stream.offer(snapshot(1, CDS=["a"]))
    stream.receive(request("CDS", ""))
    assert told(answers(stream)) == ["CDS"]


def test_rule_17_a_changed_cluster_brings_its_unchanged_assignment_again() -> None:
    """And only that of the cluster that changed, although all clusters travel."""
    pair = connected("CDS")
    pair.ask("EDS", "a", "b")
    pair.offer(snapshot(1, CDS=["a", "b"], EDS=["a", "b"]))
    pair.run()
    pair.offer(snapshot(2, CDS={"a": "2", "b": "1"}, EDS=["a", "b"]))
    assert told(pair.run()) == ["CDS +a +b", "EDS +a"]


@pytest.mark.parametrize("whole", [False, True], ids=["one resource refused", "whole response refused"])
@pytest.mark.parametrize("short", ["CDS", "EDS"])
def test_a_nack_of_many_isolates_the_bad_one_and_delivers_the_others(short: str, whole: bool) -> None:
    """Parts of a refused change are tried over what was accepted until the culprit is alone."""
    pair = SotwPair(whole=whole)
    names = {f"c{n}": "1" for n in range(9)} | {"rotten": "bad"}
    pair.ask("CDS")
    pair.ask("LDS")
    if short == "EDS":
        pair.ask("EDS", *names)
    pair.offer(snapshot(1, LDS=["l"], **{short: names}))
    pair.run()
    assert set(pair.holds[SHORT[short]]) == {f"c{n}" for n in range(9)}
    assert set(pair.holds[SHORT["LDS"]]) == {"l"}
    assert pair.resent_refused == []
    assert pair.server.delivered == Position(1, 0)
    assert [f.rejected[0][0] for f in pair.facts if isinstance(f, Nacked) and f.rejected] == ["rotten"]


def test_one_response_of_a_type_waits_for_its_answer_and_intermediate_snapshots_are_skipped() -> None:
    """Newest wins: a silent client has one response of a type to answer."""
    pair = connected("CDS")
    pair.offer(snapshot(0, CDS={"a": "0"}))
    pair.run()
    pair.auto_ack = False
    for n in range(1, 100):
        pair.offer(snapshot(n, CDS={"a": str(n)}))
    assert len(pair.run()) == 1
    pair.auto_ack = True
    pair.ack()
    assert len(pair.run()) == 1
    assert pair.holds[SHORT["CDS"]] == {"a": wire_version("CDS", "a", "99")}


def test_what_a_route_used_that_is_gone_goes_without_waiting_for_the_next_change() -> None:
    """The last good route of a refused one kept the cluster; no response says that the route is gone."""
    pair = SotwPair()
    pair.ask("CDS")
    pair.ask("LDS")
    pair.ask("RDS", "r", "s")
    pair.offer(snapshot(1, CDS={"a": "1"}, LDS=[], RDS={"r": "1"}))
    pair.run()
    pair.offer(snapshot(2, CDS=[], LDS=[], RDS={"r": "bad"}))
    pair.run()
    assert pair.holds[SHORT["CDS"]] == {"a": wire_version("CDS", "a")}
    pair.offer(snapshot(3, CDS=[], LDS=[], RDS={"s": "1"}))
    pair.run()
    assert pair.holds[SHORT["CDS"]] == {}


def test_large_answers_of_endpoints_are_cut_into_chunks_and_clusters_are_not() -> None:
    """A whole set cannot be cut; the rest travels piece by piece, each after the ACK of the last."""
    big = {f"c{n}": "x" * 100_000 for n in range(10)}
    pair = connected("CDS")
    pair.ask("EDS", *big)
    pair.offer(snapshot(1, CDS=big, EDS=big))
    assert [len(carried(r)) for r in pair.run() if r.type_url == SHORT["EDS"]] == [3, 3, 3, 1]
    assert [len(carried(r)) for r in pair.log if r.type_url == SHORT["CDS"]] == [10]
    assert len(pair.holds[SHORT["EDS"]]) == 10


def test_the_version_of_a_type_can_be_chosen() -> None:
    """A snapshot may say what is reported as the version of a type; else it is the position."""
    from immutables import Map

    from zone_cp.xds.snapshot import Snapshot

    offered = snapshot(7, CDS=["a"], LDS=["l"])
    stream = SotwStream()
    stream.offer(Snapshot(offered.position, offered.resources, Map({SHORT["CDS"]: "blue"})))
    stream.receive(request("CDS"))
    stream.receive(request("LDS"))
    (clusters,) = answers(stream)
    assert clusters.version_info == "blue"
    assert clusters.resources[0].value == eds_cluster("a")
