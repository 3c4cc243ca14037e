"""Clusters that only go to who names them, and tombstones of names that stand for nothing, on the sans-IO stream."""

from __future__ import annotations

import msgspec
import pytest

from tests.ads.stream_pair import SHORT, SotwPair, StreamPair, snapshot, told, wire_version
from zone_cp.ads import on_demand
from zone_cp.ads.facts import Nacked
from zone_cp.xds.snapshot import CLUSTER, Snapshot
from zone_cp.xds.tombstone import tombstone

PREFIX = "mes/"


def lazy(position: int, clusters: dict[str, str], prefix: str = PREFIX) -> Snapshot:
    return msgspec.structs.replace(snapshot(position, CDS=clusters, LDS=["l"]), on_demand=prefix)


def connected(clusters: dict[str, str]) -> StreamPair:
    pair = StreamPair()
    pair.ask("CDS")
    pair.ask("LDS")
    pair.offer(lazy(1, clusters))
    pair.run()
    return pair


def held(pair: StreamPair) -> dict[str, str]:
    return pair.holds[SHORT["CDS"]]


def test_the_wildcard_gets_what_is_not_on_demand() -> None:
    """An Envoy with `cds_config` asks for everything first: of the services it gets nothing, and is up to date."""
    pair = StreamPair()
    pair.ask("CDS")
    pair.ask("LDS")
    pair.offer(lazy(1, {"ads": "1", "mes/a": "1", "mes/b": "1"}))
    assert told(pair.run()) == ["CDS +ads", "LDS +l"]
    assert pair.server.delivered == lazy(1, {}).position


def test_a_name_is_answered_with_its_cluster_and_kept_up_to_date() -> None:
    """One response with one resource; a change of another service is no message at all."""
    pair = connected({"mes/a": "1", "mes/b": "1"})
    pair.ask("CDS", "mes/a")
    assert told(pair.run()) == ["CDS +mes/a"]
    pair.offer(lazy(2, {"mes/a": "2", "mes/b": "1"}))
    assert told(pair.run()) == ["CDS +mes/a"]
    pair.offer(lazy(3, {"mes/a": "2", "mes/b": "2", "mes/c": "1"}))
    assert told(pair.run()) == []
    assert pair.server.delivered == lazy(3, {}).position


def test_an_unknown_name_is_answered_with_a_tombstone_and_replaced_in_place() -> None:
    """It says that nothing is served under the name; asked again it is sent again."""
    pair = connected({"mes/a": "1"})
    pair.ask("CDS", "mes/x", "other")
    assert told(pair.run()) == ["CDS +mes/x -other"]
    assert held(pair)["mes/x"] == tombstone("mes/x").version
    pair.ask("CDS", "mes/x")
    assert told(pair.run()) == ["CDS +mes/x"]
    pair.offer(lazy(2, {"mes/a": "1", "mes/x": "1"}))
    assert told(pair.run()) == ["CDS +mes/x"]
    assert held(pair)["mes/x"] == wire_version("CDS", "mes/x")


@pytest.mark.parametrize("named", [True, False])
def test_a_service_that_goes_leaves_a_tombstone(named: bool) -> None:
    """Also where the client was sent it before clusters were loaded on demand; it is not sent twice."""
    pair = connected({"mes/a": "1"})
    if named:
        pair.ask("CDS", "mes/a")
    else:
        pair.offer(lazy(2, {"mes/a": "1"}, ""))
    pair.run()
    pair.offer(lazy(3, {}))
    assert told(pair.run()) == ["CDS +mes/a"]
    assert held(pair)["mes/a"] == tombstone("mes/a").version
    pair.offer(lazy(4, {"mes/b": "1"}))
    assert told(pair.run()) == []
    assert pair.server.delivered == lazy(4, {}).position
    pair.offer(lazy(5, {"mes/a": "2"}))
    assert told(pair.run()) == ["CDS +mes/a"]


def test_tombstones_are_few_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the one asked for longest ago is removed from the client, which frees what it holds of it."""
    monkeypatch.setattr(on_demand, "MAX_TOMBSTONES", 2)
    pair = connected({})
    for name in ("mes/1", "mes/2"):
        pair.ask("CDS", name)
    pair.run()
    pair.ask("CDS", "mes/1")
    pair.run()
    pair.ask("CDS", "mes/3")
    assert told(pair.run()) == ["CDS +mes/3", "CDS -mes/2"]
    assert held(pair).keys() == {"mes/1", "mes/3"}
    pair.ask("CDS", "mes/2")
    assert told(pair.run()) == ["CDS +mes/2", "CDS -mes/1"]
    pair.offer(lazy(2, {"mes/1": "1"}))
    assert told(pair.run()) == ["CDS +mes/1"], "it is still subscribed"


def test_many_unknown_names_at_once_leave_no_more_than_the_limit() -> None:
    """One request may name thousands."""
    pair = connected({})
    pair.ask("CDS", *(f"mes/{number}" for number in range(3000)))
    pair.run()
    assert len(held(pair)) == on_demand.MAX_TOMBSTONES


def test_a_change_of_mode_sends_what_is_missing_and_takes_nothing() -> None:
    """From all to on demand: silence. From on demand to all: what the client has not loaded."""
    pair = connected({"mes/a": "1", "mes/b": "1"})
    pair.ask("CDS", "mes/a")
    pair.run()
    pair.offer(lazy(2, {"mes/a": "1", "mes/b": "1"}, ""))
    assert told(pair.run()) == ["CDS +mes/b"]
    pair.offer(lazy(3, {"mes/a": "1", "mes/b": "1", "mes/c": "1"}))
    assert told(pair.run()) == []
    pair.offer(lazy(4, {"mes/a": "1", "mes/b": "2", "mes/c": "1"}))
    assert told(pair.run()) == ["CDS +mes/b"], "what it holds stays up to date, named or not"


def test_a_reconnect_repeats_nothing() -> None:
    """Loaded clusters and tombstones are reported and current; what changed meanwhile is sent."""
    pair = connected({"mes/a": "1", "mes/b": "1"})
    pair.ask("CDS", "mes/a", "mes/b", "mes/x")
    pair.run()
    pair.reconnect()
    assert told(pair.run()) == ["CDS", "LDS"]
    pair.offer(lazy(2, {"mes/a": "2", "mes/b": "1"}))
    pair.reconnect()
    assert told(pair.run()) == ["CDS +mes/a", "LDS"]
    pair.offer(lazy(3, {"mes/a": "2"}))
    assert told(pair.run()) == ["CDS +mes/b"]
    assert held(pair)["mes/b"] == tombstone("mes/b").version


def test_names_of_an_earlier_stream_are_given_no_new_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client names all it ever asked for; what it holds of that stays, and of the rest it is told that it is not."""
    monkeypatch.setattr(on_demand, "MAX_TOMBSTONES", 2)
    pair = connected({})
    for name in ("mes/1", "mes/2", "mes/3"):
        pair.ask("CDS", name)
        pair.run()
    kept = dict(held(pair))
    pair.reconnect()
    assert told(pair.run()) == ["CDS -mes/1", "LDS"]
    assert held(pair) == kept
    pair.ask("CDS", "mes/1")
    assert told(pair.run())[0] == "CDS +mes/1"
    assert len(held(pair)) == 2


def test_what_is_refused_on_demand_answers_as_a_tombstone_until_it_is_mended() -> None:
    """The refusal is a fact, and the client's own clients do not wait for a cluster that does not come."""
    pair = connected({"mes/a": "bad"})
    pair.ask("CDS", "mes/a")
    assert told(pair.run()) == ["CDS +mes/a", "CDS +mes/a"]
    assert held(pair)["mes/a"] == tombstone("mes/a", refused=True).version
    (cds,) = (one for one in pair.server.status() if one.type_url == CLUSTER)
    assert [name for name, *_ in cds.rejected] == ["mes/a"]
    facts = [(type(fact).__name__, fact.names if isinstance(fact, Nacked) else fact.versions) for fact in pair.facts]
    assert facts[-2:] == [("Nacked", ("mes/a",)), ("Acked", ())], "the stand-in is not the service accepted"
    pair.offer(lazy(2, {"mes/a": "2"}))
    assert told(pair.run()) == ["CDS +mes/a"]
    assert held(pair)["mes/a"] == wire_version("CDS", "mes/a", "2")


def test_state_of_the_world_holds_everything() -> None:
    """It has no on-demand loading: a client that speaks it gets every cluster."""
    pair = SotwPair()
    pair.ask("CDS")
    pair.ask("LDS")
    pair.offer(lazy(1, {"mes/a": "1", "mes/b": "1"}))
    assert told(pair.run()) == ["CDS +mes/a +mes/b", "LDS +l"]
