"""Push order between proxies: what comes goes to egresses first, what goes to sidecars; nobody is held up for ever."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map

from shared.events.state import Position
from zone_cp.grace import GRACE_SECONDS, KEPT_LIMIT
from zone_cp.order import EGRESS_FIRST_SECONDS, Offer, PushOrder
from zone_cp.xds import defaults
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, LISTENER, SECRET, Encoded, Snapshot
from zone_cp.xds.wire import encode, piece

EGRESSES, SIDECARS = ("x", "y"), ("s", "t")


def at(g: int) -> Position:
    return Position(g, 0)


def made(type_url: str, *names: str, content: str = "") -> Map[str, Encoded]:
    return Map({name: encode(type_url, name, piece(1, name) + piece(28, content), ()) for name in names})


def egress(g: int, services: Collection[str], *, guards: str = "") -> Snapshot:
    clusters = made(CLUSTER, *(f"mes/http/m/{name}" for name in services))
    return Snapshot(at(g), Map({CLUSTER: clusters, EXTENSION_CONFIG: made(EXTENSION_CONFIG, "access", content=guards)}))


def sidecar(g: int, used: Collection[str], *, through: str = defaults.EGRESS_HTTP) -> Snapshot:
    return Snapshot(at(g), Map({CLUSTER: made(CLUSTER, through), LISTENER: made(LISTENER, *used)}))


def services(snapshot: Snapshot) -> set[str]:
    return {name.rpartition("/")[2] for name in snapshot.resources[CLUSTER]}


def told(offers: list[Offer]) -> dict[str, set[str]]:
    """What the newest offers hold: services of an egress, listeners of a sidecar."""
    return {who: services(one) if who in EGRESSES else set(one.resources[LISTENER]) for who, one in offers}


def begun() -> PushOrder:
    """Both egresses serve `a` and both sidecars use it."""
    order = PushOrder()
    offers = [*((one, egress(1, "a")) for one in EGRESSES), *((one, sidecar(1, "a")) for one in SIDECARS)]
    out, later = order.want(0, at(1), offers, EGRESSES)
    assert (len(out), later, order.due()) == (4, [], None)
    return order


def test_a_sidecar_is_told_when_every_egress_has_answered() -> None:
    """Not before the last of them, and only for the moment that brought the service or a later one."""
    order = begun()
    out, later = order.want(0, at(2), [("s", sidecar(2, "ab")), ("x", egress(2, "ab")), ("y", egress(2, "ab"))], "xy")
    assert (told(out), later) == ({"x": {"a", "b"}, "y": {"a", "b"}}, ["s"])
    assert order.acked(1, "x", at(2)) == []
    assert order.acked(1, "y", at(1)) == []
    assert told(order.acked(1, "y", at(3))) == {"s": {"a", "b"}}
    assert order.due() is None


def test_an_egress_that_is_silent_or_gone_holds_nobody_up_for_ever() -> None:
    """Offline: at the next change. Silent: for a bounded time."""
    order = begun()
    order.want(0, at(2), [("s", sidecar(2, "ab"))], "xy")
    order.acked(0, "x", at(2))
    assert told(order.want(1, at(3), [], "x")[0]) == {"s": {"a", "b"}}
    order.want(2, at(4), [("s", sidecar(4, "abc"))], "xy")
    assert order.due() == 2 + EGRESS_FIRST_SECONDS
    assert order.tick(2) == []
    assert told(order.tick(2 + EGRESS_FIRST_SECONDS)) == {"s": {"a", "b", "c"}}


def test_what_leads_nowhere_new_waits_for_nobody() -> None:
    """A listener that goes, another certificate, a mesh without egress, a sidecar that has just come."""
    order = begun()
    fewer = sidecar(2, "")
    other = Snapshot(at(2), sidecar(2, "a").resources.set(SECRET, made(SECRET, "identity/m")))
    direct, fresh = sidecar(2, "ab", through="mes/http/m/a"), sidecar(2, "abc")
    for who, snapshot in (("s", fewer), ("t", other), ("t", direct), ("new", fresh)):
        assert order.want(0, at(2), [(who, snapshot)], "xy") == ([(who, snapshot)], [])


def test_a_cluster_that_goes_is_kept_for_a_while() -> None:
    """It moves from a to b: the egress serves both until nobody can know a any more."""
    order = begun()
    both = [("s", sidecar(2, "b")), ("t", sidecar(2, "b")), ("x", egress(2, "b")), ("y", egress(2, "b"))]
    out, _ = order.want(0, at(2), both, "xy")
    assert told(out) == {"x": {"a", "b"}, "y": {"a", "b"}}
    assert told([*order.acked(1, "x", at(2)), *order.acked(1, "y", at(2))]) == {"s": {"b"}, "t": {"b"}}
    assert order.due() == GRACE_SECONDS
    assert told(order.tick(GRACE_SECONDS)) == {"x": {"b"}, "y": {"b"}}
    assert order.due() is None


def test_nothing_is_kept_beyond_its_guard() -> None:
    """When it changes who may use what, an egress has exactly what is to be served."""
    order = begun()
    assert told(order.want(0, at(2), [("x", egress(2, "b"))], "xy")[0]) == {"x": {"a", "b"}}
    assert told(order.want(1, at(3), [("x", egress(3, "b", guards="b"))], "xy")[0]) == {"x": {"b"}}
    assert told(order.want(2, at(4), [("x", egress(4, "", guards="c"))], "xy")[0]) == {"x": set()}


def test_what_comes_back_is_served_as_it_is_now() -> None:
    """And what is kept has a limit."""
    order = begun()
    order.want(0, at(2), [("x", egress(2, ""))], "xy")
    again = egress(3, "a")
    assert order.want(1, at(3), [("x", again)], "xy")[0] == [("x", again)]
    many = [f"n{number}" for number in range(KEPT_LIMIT + 5)]
    order.want(2, at(4), [("x", egress(4, many))], "xy")
    assert len(told(order.want(3, at(5), [("x", egress(5, ""))], "xy")[0])["x"]) == KEPT_LIMIT


some = st.sets(st.sampled_from("abcd"))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("change"), some, some, some),
        st.tuples(st.just("answer"), st.sampled_from(EGRESSES)),
        st.tuples(st.just("online"), st.sets(st.sampled_from(EGRESSES))),
        st.tuples(st.just("wait"), st.floats(0, 8)),
    ),
    max_size=25,
)


class World:
    """Egresses that answer when they like, and what everybody was told; `since` is when a listener was first wanted."""

    def __init__(self) -> None:
        self.order, self.now, self.g = PushOrder(), 0.0, 0
        self.online: set[str] = set(EGRESSES)
        self.told: dict[str, Snapshot] = {}
        self.holds: dict[str, set[str]] = {one: set() for one in EGRESSES}
        self.since: dict[tuple[str, str], float] = {}
        self.newest: dict[str, Snapshot] = {}

    def take(self, offers: list[Offer], first: Collection[str] = ()) -> None:
        # What egresses are told in the same turn they are told before.
        for who, snapshot in sorted(offers, key=lambda one: one[0] in SIDECARS):
            if who in SIDECARS and who not in first:
                self.may_be_told(who, snapshot)
            self.told[who] = snapshot
            if who in SIDECARS:
                over = set(snapshot.resources[LISTENER]) | (set("abcd") - set(self.newest[who].resources[LISTENER]))
                self.since = {key: time for key, time in self.since.items() if key[0] != who or key[1] not in over}

    def may_be_told(self, who: str, snapshot: Snapshot) -> None:
        for name in set(snapshot.resources[LISTENER]) - set(self.told[who].resources[LISTENER]):
            behind = all(name in self.holds[one] for one in self.online)
            assert behind or self.now >= self.since[who, name] + EGRESS_FIRST_SECONDS

    def step(self, step: Any) -> None:
        match step:
            case ("change", there, *used):
                self.g += 1
                self.newest |= {one: egress(self.g, there) for one in self.online}
                for who, names in zip(SIDECARS, used, strict=True):
                    self.newest[who] = sidecar(self.g, names & there)
                    for name in names & there:
                        self.since.setdefault((who, name), self.now)
                first = [one for one in SIDECARS if one not in self.told]
                offers = [(who, self.newest[who]) for who in (*SIDECARS, *sorted(self.online))]
                self.take(self.order.want(self.now, at(self.g), offers, self.online)[0], first)
            case ("answer", who) if who in self.online and who in self.told:
                self.holds[who] = services(self.told[who])
                self.take(self.order.acked(self.now, who, at(self.g)))
            case ("online", online):
                for who in self.online - online:
                    self.order.left(who)
                    self.told.pop(who, None)
                self.holds |= {who: set() for who in online - self.online}
                self.online = online
                self.step(("change", *(set("abcd") for _ in range(3))))
            case ("wait", seconds):
                end = self.now + seconds
                while (due := self.order.due()) is not None and due <= end:
                    self.now = max(self.now, due)
                    self.take(self.order.tick(self.now))
                self.now = end
            case _:
                pass


@settings(max_examples=150, deadline=None)
@given(steps)
def test_whatever_happens_sidecars_lead_to_what_egresses_serve(history: list[Any]) -> None:
    """No sidecar has a listener whose cluster an egress was not told or has dropped; all end with the newest."""
    world = World()
    for step in history:
        world.step(step)
        for who in world.told.keys() & SIDECARS:
            for one in world.online & world.told.keys():
                assert set(world.told[who].resources[LISTENER]) <= services(world.told[one])
    world.step(("wait", EGRESS_FIRST_SECONDS + GRACE_SECONDS))
    assert {who: one.resources for who, one in world.told.items()} == {
        who: world.newest[who].resources for who in world.told
    }
