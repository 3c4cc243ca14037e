"""Each delta rule of design/xds.md §7, by number, on the sans-IO stream."""

from __future__ import annotations

import pytest
from immutables import Map

from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.ads.stream_pair import SHORT, StreamPair, eds_cluster, snapshot, succeeding, told, wire_version
from zone_cp.ads import delta
from zone_cp.ads.delta import Acked, DeltaStream, Nacked, RemoteProtocolError
from zone_cp.xds.snapshot import Snapshot
from zone_cp.xds.wire import any_message, encode, piece


def connected(*asked: str) -> StreamPair:
    pair = StreamPair()
    for short in asked:
        pair.ask(short)
    return pair


def test_rule_1_a_request_without_a_type_is_a_protocol_error() -> None:
    """On an aggregated stream the type URL is mandatory."""
    with pytest.raises(RemoteProtocolError):
        DeltaStream().receive(DeltaDiscoveryRequest())


def test_rule_2_nonces_are_unique_and_versions_are_content_hashes() -> None:
    """Every response of a stream has its own nonce; the version follows from the bytes alone."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a"], LDS=["l"]))
    pair.run()
    pair.offer(snapshot(2, CDS={"a": "2"}, LDS=["l"]))
    pair.run()
    assert len({r.nonce for r in pair.log}) == len(pair.log) == 3
    assert pair.holds[SHORT["CDS"]] == {"a": wire_version("CDS", "a", "2")}


def test_rule_2_responses_of_one_moment_have_their_own_nonces() -> None:
    """Whatever causes them: the moment is a part of a nonce, not all of it."""
    pair = StreamPair()
    pair.offer(snapshot(1, CDS=["a", "b"], EDS=["a", "b"]))
    for short in ("CDS", "EDS"):
        for name in ("a", "b", "a"):
            pair.ask(short, name)
            pair.run()
    assert len({(r.type_url, r.nonce) for r in pair.log}) == len(pair.log) == 6
    assert len(pair.facts) == 6


def test_rule_3_an_ack_alone_causes_no_response() -> None:
    """Only a difference of state or of subscription makes the server speak."""
    pair = connected("CDS")
    pair.offer(snapshot(1, CDS=["a"]))
    assert told(pair.run()) == ["CDS +a"]
    pair.offer(snapshot(2, CDS=["a"]))
    assert pair.run() == []
    assert pair.server.delivered == Position(2, 0)


def test_rule_4_an_empty_first_request_is_wildcard_for_clusters_and_listeners_only() -> None:
    """EDS, RDS and SDS give nothing to who names nothing."""
    pair = connected("CDS", "EDS", "SDS", "LDS", "RDS")
    pair.offer(snapshot(1, CDS=["c"], EDS=["e"], SDS=["s"], LDS=["l"], RDS=["r"]))
    assert told(pair.run()) == ["CDS +c", "LDS +l"]


def test_rule_4_wildcard_remains_beside_names_until_the_star_is_unsubscribed() -> None:
    """Naming something does not end a delta wildcard; unsubscribing `*` does."""
    pair = connected("CDS")
    pair.offer(snapshot(1, CDS=["a", "b"]))
    pair.run()
    pair.ask("CDS", "a")
    assert told(pair.run()) == ["CDS +a"]
    pair.offer(snapshot(2, CDS={"a": "1", "b": "2"}))
    assert told(pair.run()) == ["CDS +b"]
    pair.ask("CDS", unsubscribe=["*"])
    assert pair.run() == []
    pair.offer(snapshot(3, CDS={"a": "2", "b": "3"}))
    assert told(pair.run()) == ["CDS +a"]


def test_rule_4_what_a_star_brought_is_forgotten_with_it() -> None:
    """It is not removed, and it is sent again to who wants it again."""
    pair = connected("CDS")
    pair.ask("CDS", "a")
    pair.offer(snapshot(1, CDS=["a", "b"]))
    pair.run()
    pair.ask("CDS", unsubscribe=["*"])
    assert pair.run() == []
    pair.ask("CDS", "*")
    assert told(pair.run()) == ["CDS +b"]
    pair.ask("CDS", unsubscribe=["*"])
    assert pair.run() == []
    pair.offer(snapshot(2, CDS=["a"]))
    assert pair.run() == []


def test_rule_5_the_first_wildcard_request_is_answered_even_when_there_is_nothing() -> None:
    """Envoy waits for that reply to end its initialisation."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1))
    assert told(pair.run()) == ["CDS", "LDS"]


def test_no_answer_before_the_first_snapshot() -> None:
    """A proxy that nothing has been compiled for yet is left waiting, not emptied."""
    pair = connected("CDS", "LDS")
    assert pair.run() == []


def test_rule_6_listeners_and_routes_wait_for_the_ack_of_the_clusters() -> None:
    """Secrets, clusters and endpoints first; a cluster's ACK means it is warm."""
    pair = StreamPair()
    pair.auto_ack = False
    pair.ask("CDS")
    pair.ask("EDS", "c")
    pair.ask("SDS", "s")
    pair.ask("LDS")
    pair.ask("RDS", "r")
    pair.offer(snapshot(1, CDS=["c"], EDS=["c"], SDS=["s"], LDS=["l"], RDS=["r"]))
    assert told(pair.run()) == ["CDS +c", "EDS +c", "SDS +s"]
    pair.ack()
    assert told(pair.run()) == ["LDS +l", "RDS +r"]


def test_rule_6_changes_go_out_in_push_order() -> None:
    """Secrets before clusters before endpoints, then listeners before routes."""
    pair = StreamPair()
    for short, name in (("CDS", "*"), ("EDS", "c"), ("SDS", "s"), ("LDS", "*"), ("RDS", "r")):
        pair.ask(short, name)
    pair.offer(snapshot(1, CDS=["c"], EDS=["c"], SDS=["s"], LDS=["l"], RDS=["r"]))
    pair.run()
    changed = {short: {name: "2"} for short, name in (("EDS", "c"), ("SDS", "s"), ("LDS", "l"), ("RDS", "r"))}
    pair.offer(snapshot(2, CDS={"c": "2"}, **changed))
    assert told(pair.run()) == ["SDS +s", "CDS +c", "EDS +c", "LDS +l", "RDS +r"]


def test_rule_6_a_cluster_is_removed_after_its_users_have_moved() -> None:
    """Add B and its endpoints, wait for the ACK, move the route, wait for its ACK, remove A."""
    pair = StreamPair()
    pair.ask("CDS")
    pair.ask("EDS", "a", "b")
    pair.ask("LDS")
    pair.ask("RDS", "r")
    pair.offer(snapshot(1, CDS=["a"], EDS=["a"], LDS=["l"], RDS={"r": "a"}))
    pair.run()
    pair.auto_ack = False
    pair.offer(snapshot(2, CDS=["b"], EDS=["b"], LDS=["l"], RDS={"r": "b"}))
    assert told(pair.run()) == ["CDS +b", "EDS +b"]
    pair.ack()
    assert told(pair.run()) == ["RDS +r"]
    pair.ack()
    assert pair.run() == []
    pair.ack()
    assert told(pair.run()) == ["CDS -a"]
    assert pair.server.delivered == Position(1, 0)
    pair.ack()
    assert told(pair.run()) == ["EDS -a"]
    assert pair.server.delivered == Position(2, 0)


def test_rule_6_what_all_goes_goes_in_reverse_order() -> None:
    """Listeners, then routes before the clusters that they lead to, and those before what they refer to."""
    pair = connected("CDS", "LDS")
    for short in ("EDS", "SDS", "RDS"):
        pair.ask(short, "a")
    pair.offer(snapshot(1, SDS=["a"], CDS=["a"], EDS=["a"], LDS=["a"], RDS=["a"]))
    pair.run()
    pair.offer(snapshot(2))
    assert told(pair.run()) == ["LDS -a", "RDS -a", "CDS -a", "EDS -a", "SDS -a"]


def test_rule_6_a_listener_that_takes_an_address_over_travels_with_the_removal_of_the_other() -> None:
    """Envoy applies the removals of a response first, so the address is free."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, LDS=["old"]))
    pair.run()
    pair.offer(snapshot(2, LDS=["new"]))
    assert told(pair.run()) == ["LDS +new -old"]


def test_rule_6_new_clusters_in_flight_do_not_starve_the_listeners_of_an_older_snapshot() -> None:
    """When the clusters of snapshot 2 are ACKed its listeners go, although those of 3 are in flight."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a"], LDS={"l": "1"}))
    pair.run()
    pair.auto_ack = False
    pair.offer(snapshot(2, CDS=["a", "b"], LDS={"l": "2"}))
    pair.offer(snapshot(3, CDS=["a", "b", "c"], LDS={"l": "3"}))
    assert told(pair.run()) == ["CDS +b", "CDS +c"]
    pair.ack()
    (listener,) = pair.run()
    assert listener.resources[0].version == wire_version("LDS", "l", "2")


def test_intermediate_snapshots_are_skipped_while_too_much_is_in_flight() -> None:
    """Newest wins: a silent client has a bounded number of responses to answer."""
    pair = connected("CDS")
    pair.offer(snapshot(0, CDS={"a": "0"}))
    pair.run()
    pair.auto_ack = False
    for n in range(1, 100):
        pair.offer(snapshot(n, CDS={"a": str(n)}))
    assert len(pair.run()) == delta.MAX_IN_FLIGHT_PER_TYPE
    pair.auto_ack = True
    while pair.unacked:
        pair.ack()
    pair.run()
    assert pair.holds[SHORT["CDS"]] == {"a": wire_version("CDS", "a", "99")}
    assert pair.server.delivered == Position(99, 0)


def test_rule_7_nothing_is_queued_that_the_subscription_no_longer_wants() -> None:
    """Responses are made when they are written, from the newest request and the newest offer."""
    pair = StreamPair()
    pair.ask("EDS", "a", "b")
    pair.step(downwards=False)
    pair.server.offer(snapshot(1, EDS=["a", "b"]))
    pair.ask("EDS", unsubscribe=["a"])
    pair.step(downwards=False)
    assert told(pair.run()) == ["EDS +b"]


def test_rule_7_what_waits_for_answers_is_dropped_when_it_is_wanted_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a large answer waits for the ACK of the one before: what is unsubscribed meanwhile is not sent."""
    monkeypatch.setattr(DeltaStream, "window", 1)
    pair = StreamPair()
    pair.auto_ack = False
    names = [f"e{number}" for number in range(3)]
    pair.ask("EDS", *names)
    pair.offer(snapshot(1, EDS=dict.fromkeys(names, "x" * delta.MAX_CHUNK_BYTES)))
    (first,) = told(pair.run())
    dropped, kept = (name for name in names if f"+{name}" not in first)
    pair.ask("EDS", unsubscribe=[dropped])
    assert pair.run() == []
    pair.auto_ack = True
    pair.ack()
    assert told(pair.run()) == [f"EDS +{kept}"]


def test_rule_11_subscribe_is_applied_before_unsubscribe() -> None:
    """A name in both lists of one message ends unsubscribed."""
    pair = StreamPair()
    pair.ask("EDS", "a", unsubscribe=["a"])
    pair.offer(snapshot(1, EDS=["a"]))
    assert pair.run() == []


def test_rule_11_a_repeated_subscribe_and_one_after_unsubscribe_are_answered() -> None:
    """The client may have forgotten the resource."""
    pair = StreamPair()
    pair.ask("EDS", "a")
    pair.offer(snapshot(1, EDS=["a"]))
    assert told(pair.run()) == ["EDS +a"]
    pair.ask("EDS", "a")
    assert told(pair.run()) == ["EDS +a"]
    pair.ask("EDS", unsubscribe=["a"])
    assert pair.run() == []
    pair.ask("EDS", "a")
    assert told(pair.run()) == ["EDS +a"]


def test_rule_12_a_reconnect_with_current_versions_sends_no_resource() -> None:
    """Content hashes make a restart of the control plane silent: only the wildcards are answered, with nothing."""
    pair = StreamPair()
    for short, name in (("CDS", "*"), ("EDS", "c"), ("SDS", "s"), ("LDS", "*"), ("RDS", "r")):
        pair.ask(short, name)
    pair.offer(snapshot(1, CDS=["c"], EDS=["c"], SDS=["s"], LDS=["l"], RDS=["r"]))
    pair.run()
    pair.reconnect()
    assert told(pair.run()) == ["CDS", "LDS"]
    assert pair.server.delivered == Position(1, 0)


def test_rule_12_a_reconnect_sends_what_differs_and_removes_what_vanished() -> None:
    """The client's report is believed, nothing else."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a", "b"], LDS=["l"]))
    pair.run()
    pair.offered = snapshot(2, CDS={"a": "2"}, LDS=["l"])
    pair.reconnect()
    assert told(pair.run()) == ["CDS +a", "LDS", "CDS -b"]


def test_rule_12_versions_count_in_the_first_request_of_a_type_alone() -> None:
    """Later ones say nothing of what is held, and nothing of what is owed."""
    pair = StreamPair()
    pair.offer(snapshot(1, EDS=["a", "b"]))
    pair.ask("EDS", "a")
    assert told(pair.run()) == ["EDS +a"]
    pair.ask("EDS", "b", b=wire_version("EDS", "b"), gone="0")
    assert told(pair.run()) == ["EDS +b"]


def test_rule_13_a_name_that_does_not_exist_is_told_and_pushed_when_it_appears() -> None:
    """removed_resources ends Envoy's waiting at once."""
    pair = StreamPair()
    pair.ask("EDS", "a")
    pair.ask("RDS", "r")
    pair.offer(snapshot(1))
    assert told(pair.run()) == ["EDS -a", "RDS -r"]
    second = snapshot(2, EDS=["a"], RDS=["r"])
    pair.offer(second)
    assert told(pair.run()) == ["EDS +a", "RDS +r"]
    pair.offer(succeeding(second, third := snapshot(3)))
    assert told(pair.run()) == ["RDS -r", "EDS -a"]
    pair.offer(succeeding(third, snapshot(4, EDS=["a"], RDS=["r"])))
    assert told(pair.run()) == ["EDS +a", "RDS +r"]


def test_rule_13_a_name_that_appears_in_a_change_is_pushed() -> None:
    """Also where only what changed is looked at."""
    pair = StreamPair()
    pair.ask("EDS", "a")
    pair.offer(snapshot(0))
    assert told(pair.run()) == ["EDS -a"]
    pair.offer(first := snapshot(1, EDS=["b"]))
    assert pair.run() == [], "it is told once that it is not there"
    pair.offer(succeeding(first, snapshot(2, EDS=["a", "b"])))
    assert told(pair.run()) == ["EDS +a"]


def test_rule_14_a_name_unsubscribed_under_a_wildcard_is_answered() -> None:
    """With the resource when it exists, as removed when not."""
    pair = connected("CDS")
    pair.ask("CDS", "a", "x")
    pair.offer(snapshot(1, CDS=["a"]))
    assert told(pair.run())[-1] == "CDS +a -x"
    pair.ask("CDS", unsubscribe=["a", "x"])
    assert told(pair.run()) == ["CDS +a -x"]


def test_rule_14_a_name_unsubscribed_without_a_wildcard_is_not_answered() -> None:
    """Neither with the resource nor as removed: not at once, and not when it goes."""
    pair = StreamPair()
    pair.ask("EDS", "a", "b")
    pair.offer(snapshot(1, EDS=["a", "b"]))
    pair.run()
    pair.ask("EDS", unsubscribe=["a"])
    assert pair.run() == []
    pair.offer(snapshot(2, EDS=["b"]))
    assert pair.run() == []


def test_rule_15_resources_carry_name_version_and_type() -> None:
    """The response's type is the resources' type."""
    pair = connected("CDS")
    pair.offer(snapshot(7, CDS=["a"]))
    (response,) = pair.run()
    (resource,) = response.resources
    assert (resource.name, resource.version) == ("a", wire_version("CDS", "a"))
    assert resource.resource.type_url == response.type_url == SHORT["CDS"]
    assert resource.resource.value == eds_cluster("a")
    assert response.system_version_info == "g7.z0"


def test_rule_16_several_responses_may_be_in_flight_and_stale_nonces_still_subscribe() -> None:
    """A subscription riding on an unknown nonce counts; the nonce says nothing."""
    pair = connected("CDS")
    pair.auto_ack = False
    pair.offer(snapshot(1, CDS=["a"]))
    pair.run()
    pair.offer(snapshot(2, CDS=["a", "b"]))
    pair.run()
    assert [u.response_nonce for u in pair.unacked] == ["g1.z0.Cluster.0", "g2.z0.Cluster.0"]
    stale = DeltaDiscoveryRequest(type_url=SHORT["EDS"], response_nonce="99", resource_names_subscribe=["e"])
    pair.names[SHORT["EDS"]] = {"e"}
    pair.up.append(stale)
    assert told(pair.run()) == ["EDS -e"]
    for nonce in ("", "99"):
        pair.up.append(DeltaDiscoveryRequest(type_url=SHORT["CDS"], response_nonce=nonce))
    assert pair.run() == []
    assert pair.facts == []


def test_rule_17_a_changed_cluster_brings_its_unchanged_assignment_again() -> None:
    """Envoy asks for no assignment it is already subscribed to, and would wait 15 s."""
    pair = connected("CDS")
    pair.ask("EDS", "a")
    pair.offer(snapshot(1, CDS=["a"], EDS=["a"]))
    pair.run()
    pair.offer(snapshot(2, CDS={"a": "2"}, EDS=["a"]))
    assert told(pair.run()) == ["CDS +a", "EDS +a"]


def test_a_nack_is_reported_and_the_same_bytes_are_never_sent_again() -> None:
    """The client keeps its last good version until something new is offered."""
    pair = connected("LDS")
    pair.offer(snapshot(1, LDS={"l": "1"}))
    pair.run()
    pair.offer(snapshot(2, LDS={"l": "bad"}))
    assert told(pair.run()) == ["LDS +l"]
    fact = pair.facts[-1]
    assert isinstance(fact, Nacked)
    assert fact.message == "l: bad"
    assert fact.rejected == (("l", wire_version("LDS", "l", "bad")),)
    pair.offer(snapshot(3, LDS={"l": "bad"}))
    assert pair.run() == []
    assert pair.holds[SHORT["LDS"]] == {"l": wire_version("LDS", "l", "1")}
    (listeners,) = pair.server.status()
    assert listeners.sent_digest == listeners.acked_digest
    assert [(name, message) for name, _, message in listeners.rejected] == [("l", "l: bad")]
    pair.offer(snapshot(4, LDS={"l": "4"}))
    assert told(pair.run()) == ["LDS +l"]
    (listeners,) = pair.server.status()
    assert listeners.rejected == ()


@pytest.mark.parametrize("whole", [False, True], ids=["one resource refused", "whole response refused"])
def test_a_nack_of_many_isolates_the_bad_one_and_delivers_the_others(whole: bool) -> None:
    """Parse-level errors name nobody: halves are sent until the culprit is alone."""
    pair = StreamPair(whole=whole)
    pair.ask("CDS")
    pair.ask("LDS")
    clusters = {f"c{n}": "1" for n in range(9)} | {"rotten": "bad"}
    pair.offer(snapshot(1, CDS=clusters, LDS=["l"]))
    pair.run()
    assert set(pair.holds[SHORT["CDS"]]) == {f"c{n}" for n in range(9)}
    assert set(pair.holds[SHORT["LDS"]]) == {"l"}
    assert pair.resent_refused == []
    assert pair.server.delivered == Position(1, 0)
    assert [f.rejected[0][0] for f in pair.facts if isinstance(f, Nacked) and f.rejected] == ["rotten"]


def test_what_a_listener_held_at_its_last_good_version_uses_is_not_removed() -> None:
    """Cluster A stays while the listener that moved to B was refused; it goes once a good listener comes."""
    pair = connected("CDS", "LDS")
    pair.offer(snapshot(1, CDS=["a"], LDS={"l": "uses a"}))
    pair.run()
    pair.offer(snapshot(2, CDS=["b"], LDS={"l": "bad b"}))
    pair.run()
    pair.offer(snapshot(3, CDS=["b"], LDS={"l": "bad b"}))
    pair.run()
    assert set(pair.holds[SHORT["CDS"]]) == {"a", "b"}
    pair.offer(snapshot(4, CDS=["b"], LDS={"l": "good b"}))
    pair.run()
    assert set(pair.holds[SHORT["CDS"]]) == {"b"}


def test_a_refused_assignment_that_never_was_good_is_declared_absent() -> None:
    """So that its cluster does not stay warming."""
    pair = StreamPair()
    pair.ask("EDS", "a")
    pair.offer(snapshot(1, EDS={"a": "bad"}))
    assert told(pair.run()) == ["EDS +a", "EDS -a"]


def test_large_answers_are_cut_into_chunks() -> None:
    """One response stays near the chunk size, and all of them together carry everything."""
    pair = connected("CDS")
    big = "x" * 100_000
    pair.offer(snapshot(1, CDS={f"c{n}": big for n in range(10)}))
    responses = pair.run()
    assert len(responses) == 4
    assert max(r.ByteSize() for r in responses) < delta.MAX_CHUNK_BYTES + 1_000
    assert len(pair.holds[SHORT["CDS"]]) == 10


def test_what_waits_for_answers_is_compared_anew_once_the_snapshot_changes() -> None:
    """A first answer that is larger than what may be in flight goes on where it stopped, and never goes back."""
    stream, kind = delta.DeltaStream(), SHORT["CDS"]
    names = [f"c{n:02}" for n in range(3 * delta.MAX_IN_FLIGHT_PER_TYPE)]
    big = dict.fromkeys(names, "x" * delta.MAX_CHUNK_BYTES)
    stream.offer(snapshot(1, CDS=big))
    stream.receive(DeltaDiscoveryRequest(type_url=kind))
    responses = [DeltaDiscoveryResponse.FromString(raw) for raw in stream.responses()]
    assert len(responses) == delta.MAX_IN_FLIGHT_PER_TYPE
    first = [response.resources[0].name for response in responses]
    changing, leaving, *staying = sorted(set(names) - set(first))
    stream.offer(snapshot(2, CDS={name: big[name] for name in (*first, *staying)} | {changing: "2"}))
    sent = []
    while responses:
        stream.receive(DeltaDiscoveryRequest(type_url=kind, response_nonce=responses.pop(0).nonce))
        more = [DeltaDiscoveryResponse.FromString(raw) for raw in stream.responses()]
        sent += [one for response in more for one in response.resources]
        responses += more
    assert leaving not in {one.name for one in sent}
    assert sorted(one.name for one in sent) == sorted((changing, *staying))
    assert [one.version for one in sent if one.name == changing] == [wire_version("CDS", changing, "2")]


def test_an_ack_says_what_the_client_now_holds() -> None:
    """The fact carries position, versions and removals."""
    pair = connected("CDS")
    pair.offer(snapshot(1, CDS=["a"]))
    pair.run()
    pair.offer(snapshot(2))
    pair.run()
    first, last = (f for f in pair.facts if isinstance(f, Acked))
    assert first.versions == (("a", wire_version("CDS", "a")),)
    assert (last.position, last.removed) == (Position(2, 0), ("a",))


def test_rule_17_a_changed_cluster_brings_its_unchanged_secret_again() -> None:
    """What the cluster names over SDS is pushed with it."""
    pair = connected("CDS")
    pair.ask("SDS", "identity")
    offered = snapshot(1, CDS=["a"], SDS=["identity"])
    pair.offer(offered)
    pair.run()
    context = piece(1, piece(6, piece(1, "identity")))
    url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
    body = piece(1, "a") + piece(24, piece(3, any_message(url, context)))
    clusters = Map({"a": encode(SHORT["CDS"], "a", body)})
    pair.offer(Snapshot(Position(2, 0), offered.resources.set(SHORT["CDS"], clusters)))
    assert told(pair.run()) == ["CDS +a", "SDS +identity"]


def test_too_many_types_or_names_end_the_stream() -> None:
    """Every table of a stream has a limit."""
    stream = DeltaStream()
    for n in range(delta.MAX_TYPES):
        stream.receive(DeltaDiscoveryRequest(type_url=f"type.googleapis.com/t{n}"))
    with pytest.raises(RemoteProtocolError) as too_many:
        stream.receive(DeltaDiscoveryRequest(type_url="type.googleapis.com/more"))
    assert too_many.value.limit


def test_a_client_that_asks_for_clusters_late_gets_its_listeners_after_their_ack() -> None:
    """The stages begin again: no listener goes ahead of clusters that are only now asked for."""
    pair = connected("LDS")
    pair.offer(snapshot(1, CDS=["a"], LDS={"l": "1"}))
    pair.run()
    assert pair.server.delivered is None
    pair.auto_ack = False
    pair.ask("CDS")
    pair.run()
    pair.offer(snapshot(2, CDS=["a", "b"], LDS={"l": "2"}))
    assert told(pair.run()) == ["CDS +b"]
    pair.ack()
    pair.ack()
    assert told(pair.run()) == ["LDS +l"]
