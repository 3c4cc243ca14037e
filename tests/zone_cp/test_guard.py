"""What stands between the publisher and ADS: pushes that take away too much wait, and so does an older state."""

from __future__ import annotations

from typing import Any

import pytest
from immutables import Map

from shared.events.event import (
    Change,
    ProxyConnected,
    ProxyDisconnected,
    PushHeld,
    PushReleased,
    ResourceDeleted,
)
from shared.events.state import LogState, Position, ZoneState
from shared.model.resource import ZoneEgress, ZoneEgressNetworking, key_of
from tests.ads.stream_pair import snapshot
from tests.builders import LogBuilder, applied, mesh, settings
from zone_cp.ads.fence import Fence, Mark, lost
from zone_cp.ads.hub import Hub
from zone_cp.ads.names import DnsTable
from zone_cp.ads.shrink import too_many, too_much
from zone_cp.follow import Decided
from zone_cp.guard import Guard
from zone_cp.quarantines import Quarantines
from zone_cp.view.zone_view import EgressView, MeshView
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, Snapshot
from zone_cp.xds.tombstone import tombstone
from zone_cp.xds.toward_egress import egress_clusters

MESH = MeshView("default", True, "ca-1", 86400, "egress", False, False, Map(), ())


def zone_egress(address: str, port: int) -> ZoneEgress:
    return ZoneEgress(name="egress", zone="east", networking=ZoneEgressNetworking(address=address, port=port))


def clusters(position: int, count: int) -> Snapshot:
    """A snapshot with so many clusters."""
    return snapshot(position, CDS=[f"c{number}" for number in range(count)])


class World:
    """A guard, what it let through, and the log it records in."""

    def __init__(self, *, share_percent: int = 50, marks: dict[str, Mark] | None = None) -> None:
        self.let: list[tuple[str, Any]] = []
        self.hub, self.own = LogBuilder(), LogBuilder("east")
        self.hub.append(applied(mesh()))
        self.own.append(settings())
        self.marks = marks or {}
        self.share_percent = share_percent
        self.guard = self.restarted()

    def restarted(self) -> Guard:
        """Another guard over the same log."""
        fence = Fence()
        fence.recall(self.marks)
        self.guard = Guard(
            self,
            fence,
            Quarantines(Hub(), self._record),
            share_percent=self.share_percent,
            present=lambda: self.state,
            record=self._record,
        )
        self.guard.recall(self.state)
        return self.guard

    @property
    def state(self) -> ZoneState:
        return ZoneState("east", self.hub.state, self.own.state)

    def _record(self, decided: Decided, actor: str) -> None:
        self.own.append(*decided(self.state), actor=actor)

    def recorded(self) -> list[Change]:
        """What was recorded of pushes."""
        return [event.change for event in self.own.events if isinstance(event.change, PushHeld | PushReleased)]

    def released(self, *proxies: str) -> None:
        """An operator releases them."""
        self.own.append(PushReleased(proxies=proxies, by="operator"))
        self.guard.release(proxies)

    # -- ADS --

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        self.let.append((proxy, len(snapshot.resources.get(CLUSTER, ()))))

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        self.let.append((proxy, f"{len(table.names)} names"))

    def advance(self, position: Position) -> None:
        self.let.append(("", position))

    def leave(self, proxy: str, position: Position | None = None) -> None:
        self.let.append((proxy, "left"))

    def withhold(self, proxy: str) -> None:
        self.let.append((proxy, "withheld"))

    def forget(self, proxy: str) -> None:
        self.let.append((proxy, "forgotten"))


def holding(count: int) -> dict[str, str]:
    """What a client says it holds: so many clusters."""
    return {f"c{number}": "a version" for number in range(count)}


HELD = "would remove 20 of 30 clusters"


def test_a_push_that_takes_away_too_much_is_held_and_recorded() -> None:
    """The proxy keeps what it has; that is an event with the moment of what it keeps; other proxies are served."""
    world = World()
    for proxy in ("p", "q"):
        world.guard.offer(proxy, clusters(3, 30))
    world.guard.offer("p", clusters(4, 10))
    world.guard.offer("q", clusters(4, 29))
    assert world.let == [("p", 30), ("q", 30), ("p", "left"), ("q", 29)]
    assert world.recorded() == [PushHeld(proxies=("p",), kept_g=3, kept_z=0, reason=HELD)]
    assert (world.guard.reason("p"), world.guard.reason("q")) == (f"held: {HELD}", "")


def test_a_hold_ends_by_itself_when_the_next_push_takes_away_less() -> None:
    """What came back is compared with what the proxy still has."""
    world = World()
    for count in (30, 10, 9, 28):
        world.guard.offer("p", clusters(count, count))
    assert world.let == [("p", 30), ("p", "left"), ("p", "left"), ("p", 28)]
    assert world.recorded()[1:] == [PushReleased(proxies=("p",), by="itself")]
    assert world.state.own.holds == Map()


def test_an_operator_releases_what_waits() -> None:
    """Then the newest push goes, and the one after it is compared with that."""
    world = World()
    for count in (30, 10, 5, 4):
        world.guard.offer("p", clusters(1, count))
    assert world.guard.waiting() == ("p",)
    assert world.guard.waiting("q") == ()
    world.released("p")
    world.guard.offer("p", clusters(2, 3))
    assert [what for _, what in world.let if what != "left"] == [30, 4, 3]
    assert len(world.recorded()) == 2


def test_a_restart_keeps_the_hold() -> None:
    """What the proxy holds it says itself: the push waits, and goes once it fits or the proxy holds nothing."""
    world = World()
    world.guard.offer("p", clusters(1, 30))
    world.guard.offer("p", clusters(2, 10))
    for names, then in ((holding(30), []), (holding(12), [("p", 10)]), ({}, [("p", 10)])):
        world.let.clear()
        guard = world.restarted()
        guard.offer("p", clusters(2, 10))
        guard.reported("p", names)
        assert [one for one in world.let if one[1] != "left"] == then
        if then:  # as before, for the next round
            guard.offer("p", clusters(1, 30))
            guard.offer("p", clusters(2, 10))
    world.restarted().offer("p", clusters(2, 10))
    world.released("p")
    assert world.let[-1] == ("p", 10)


def test_what_a_proxy_says_it_holds_counts_after_a_restart() -> None:
    """Whichever is known first, the push or what the proxy holds."""
    world = World()
    world.guard.offer("p", clusters(1, 10))
    world.guard.reported("p", holding(30))
    world.guard.reported("q", holding(30))
    world.guard.offer("q", clusters(1, 10))
    assert world.let == [("p", 10), ("p", "withheld"), ("p", "left"), ("q", "left")]
    world.released("p", "q")
    guard = world.restarted()
    guard.offer("p", clusters(1, 10))
    guard.reported("p", holding(30))  # it did not take it yet: released is released
    assert guard.held == {}


def test_tombstones_are_no_loss() -> None:
    """A client that asked for services that are not there holds what stands in for them."""
    world = World()
    world.guard.offer("p", clusters(1, 10))
    world.guard.reported("p", {f"mes/{number}": tombstone(f"mes/{number}").version for number in range(30)})
    assert world.guard.held == {}


def test_many_proxies_are_one_event() -> None:
    """As many as are held alike when it is recorded."""
    world = World()
    waiting: list[Decided] = []
    world._record = lambda decided, _actor: waiting.append(decided)  # type: ignore[assignment, method-assign]
    guard = world.restarted()
    for proxy in ("p", "q", "r"):
        guard.offer(proxy, clusters(1, 30))
    for proxy in ("p", "q", "r"):
        guard.offer(proxy, clusters(2, 10))
    for decided in waiting:
        world.own.append(*decided(world.state))
    assert [change.proxies for change in world.recorded()] == [("p", "q", "r")]  # type: ignore[union-attr]


def table(count: int) -> DnsTable:
    return DnsTable(str(count), Map({f"n{number}.mesh": "242.0.0.1" for number in range(count)}))


def test_names_wait_too() -> None:
    """A table that loses most of its names is held like a push, and released with it; equal ones go on."""
    world = World()
    world.guard.offer_dns("p", table(30))
    world.guard.offer_dns("p", table(5))
    world.guard.offer_dns("p", table(4))
    assert world.let == [("p", "30 names")]
    assert world.guard.reason("p") == "held: would remove 25 of 30 hostnames"
    world.released("p")
    assert world.let[-1] == ("p", "4 names")


def test_the_setting_switches_it_off() -> None:
    """At 100 % nothing is ever held."""
    world = World(share_percent=100)
    world.guard.offer("p", clusters(1, 30))
    world.guard.offer("p", clusters(2, 0))
    assert world.let == [("p", 30), ("p", 0)]


@pytest.mark.parametrize(
    "before, after, said",
    [(30, 15, ""), (30, 14, "would remove 16 of 30 clusters"), (11, 1, ""), (11, 0, "would remove 11 of 11 clusters")],
)
def test_more_than_the_share_and_more_than_a_few(before: int, after: int, said: str) -> None:
    """Both must be exceeded."""
    one, other = clusters(1, before), clusters(2, after)
    assert too_much(one, other, 50, frozenset) == said
    assert too_many(one.resources[CLUSTER], other.resources[CLUSTER], 50, "clusters") == said


def assignment(position: int, *places: tuple[str, int]) -> Snapshot:
    egresses = tuple(EgressView(f"e{port}", host, port, ()) for host, port in places)
    encoded = next(one for one in egress_clusters(MESH, egresses) if one.type_url == ENDPOINT)
    return Snapshot(Position(position, 0), Map({ENDPOINT: Map({encoded.name: encoded})}))


def test_endpoints_go_unseen_only_when_their_proxies_went() -> None:
    """All endpoints of an assignment that stays: held while a proxy behind one of them is online, else it is life."""
    before, after = assignment(1, ("192.0.2.1", 1), ("192.0.2.2", 2)), assignment(2)
    said = "would remove all endpoints of zone-egress while a proxy is online at 192.0.2.2:2"
    assert too_much(before, after, 50, lambda: frozenset({("192.0.2.2", 2)})) == said
    assert too_much(before, after, 50, frozenset) == ""
    assert too_much(before, assignment(2, ("192.0.2.9", 9)), 50, lambda: frozenset({("192.0.2.2", 2)})) == ""


def test_a_deleted_egress_that_is_online_is_seen() -> None:
    """Its resource goes from the log, its endpoint from the sidecars: they are held until it is offline."""
    world = World()
    egress = zone_egress("192.0.2.1", 1)
    key = key_of(egress, "east")
    world.own.append(applied(egress, "east"), ProxyConnected(proxy=".egress", key=key, connection="1"))
    world.guard.offer(".egress", clusters(1, 3))
    world.guard.offer("p", assignment(1, ("192.0.2.1", 1)))
    world.own.append(applied(zone_egress("192.0.2.7", 1), "east"))
    world.guard.offer("q", assignment(1, ("192.0.2.1", 1)))
    world.guard.offer("q", assignment(2))
    assert world.guard.reason("q") == ""  # it has said something else of itself since
    world.own.append(ResourceDeleted(key=key))
    world.guard.offer("p", assignment(2))
    assert world.guard.reason("p").startswith("held: would remove all endpoints of zone-egress")
    world.own.append(ProxyDisconnected(proxy=".egress", connection="1"))
    world.guard.offer("p", assignment(3))
    assert world.guard.reason("p") == ""


# -- the fence --


def test_an_older_state_is_kept_from_a_proxy_until_it_has_caught_up() -> None:
    """Compared per component; nothing is recorded of it; others, who have had less, are served."""
    world = World()
    incarnations = (world.state.hub.incarnation, world.state.own.incarnation)
    world.marks = {"p": Mark(*incarnations, 3, 1), "q": Mark(*incarnations, 1, 1)}
    guard = world.restarted()
    for proxy in ("p", "q"):
        guard.offer(proxy, clusters(1, 30))
    assert world.let == [("q", 30)]
    assert guard.reason("p") == "fenced: it has had g3.z1, and the state here is of g1.z1"
    world.hub.append(applied(mesh("a")), applied(mesh("b")))
    guard.advance(Position(3, 1))
    assert world.let[-1] == ("p", 30)
    assert (guard.reason("p"), world.recorded()) == ("", [])


def test_another_incarnation_is_no_newer_moment() -> None:
    """However far its log has come; an operator may release it."""
    world = World(marks={"p": Mark("another", "", 0, 0)})
    world.guard.offer("p", clusters(1, 30))
    assert world.let == []
    assert world.guard.waiting() == ("p",)
    world.guard.release(["p"])
    assert world.let == [("p", 30)]


def test_a_log_is_known_to_be_shorter_than_it_was() -> None:
    """By the marks of its own incarnation, or by any when it is empty."""
    own = World().own.state
    assert lost({"p": Mark("", own.incarnation, 9, 7), "q": Mark("", own.incarnation, 9, 5)}, own) == 7
    assert lost({"p": Mark("", own.incarnation, 9, own.n)}, own) == 0
    assert lost({"p": Mark("", "another", 9, 7)}, own) == 0
    assert lost({"p": Mark("", "another", 9, 7)}, LogState("east")) == 7


def test_what_a_held_proxy_keeps_may_lose_access_and_nothing_else() -> None:
    """It is given what it keeps anew, once for each change, and never less of it; released, it is given the push."""
    world = World()
    world.guard.offer("p", clusters(1, 30))
    assert world.guard.holding() == {}
    world.guard.offer("p", clusters(2, 10))
    assert world.guard.holding() == {"p": Position(1, 0)}
    world.let.clear()
    world.guard.keep("p", clusters(1, 30))
    assert world.let == [], "it has that"
    lessened = snapshot(3, CDS={f"c{number}": "2" for number in range(30)})
    world.guard.keep("p", lessened)
    world.guard.keep("p", lessened)
    assert world.let == [("p", 30), ("p", "left")]
    world.guard.keep("p", clusters(4, 10))
    assert world.let == [("p", 30), ("p", "left")], "that would take away what the hold keeps"
    world.released("p")
    assert world.let[2:] == [("p", 10)]
    assert world.guard.holding() == {}


def test_a_proxy_that_holds_more_than_it_is_to_keep_is_told_nothing() -> None:
    """After a restart what it keeps comes from the log; its own report is believed before that."""
    world = World()
    world.guard.offer("p", clusters(1, 30))
    world.guard.offer("p", clusters(2, 10))
    guard = world.restarted()
    guard.offer("p", clusters(2, 10))
    guard.keep("p", clusters(1, 12))
    world.let.clear()
    guard.reported("p", holding(30))
    assert world.let == [("p", "withheld")]
    assert guard.reason("p") == f"held: {HELD}"


def test_what_is_kept_for_a_while_only_is_no_reason_to_wait_longer() -> None:
    """A push is weighed by what it comes down to, at once and not when the while is over."""
    world = World()
    world.guard.offer("p", clusters(1, 30))
    world.guard.offer("p", clusters(2, 30), clusters(2, 10))
    assert world.guard.reason("p") == f"held: {HELD}"
    # One by one they may go, however many are kept for a while still.
    for count in range(30, 9, -1):
        world.guard.offer("q", clusters(1, 30), clusters(1, count))
    world.guard.offer("q", clusters(1, 10))
    assert world.guard.reason("q") == ""


def test_what_a_proxy_never_took_is_no_measure_of_what_it_keeps() -> None:
    """It says that it holds more than it was offered: that is what nothing may be taken away of."""
    world = World()
    world.guard.offer("p", clusters(1, 10))
    world.guard.reported("p", holding(30))
    world.let.clear()
    world.guard.keep("p", snapshot(2, CDS={f"c{number}": "2" for number in range(10)}))
    assert world.let == []


def test_who_is_held_no_more_keeps_nothing() -> None:
    """What it keeps may have been asked of the log before its push was released."""
    world = World()
    world.guard.offer("p", clusters(1, 30))
    world.guard.offer("p", clusters(2, 10))
    world.released("p")
    world.let.clear()
    world.guard.keep("p", clusters(1, 30))
    assert world.let == []
