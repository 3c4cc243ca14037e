"""Bisection finds what it is to find, wherever it stands."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.halving import Bisection, Found, Line, NotAsClaimed, Verdict, bisection, steps_left
from shared.events.history import History
from shared.events.state import Position
from tests.builders import LogBuilder, ZoneBuilder, applied, generator, mes, mesh

GOOD, BAD, SKIP = Verdict("good"), Verdict("bad"), Verdict("skip")


def run(one: Bisection, judge) -> Found:
    """Answer what is asked for."""
    wanted = next(one)
    while True:
        try:
            wanted = one.send(judge(wanted))
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]


@given(st.data())
def test_a_planted_event_is_found_in_any_position(data: st.DataObject) -> None:
    """Of any number of events, at any place, in no more steps than halving takes."""
    length = data.draw(st.integers(1, 5_000))
    planted = data.draw(st.integers(1, length))
    found = run(bisection(0, length), lambda m: BAD if m >= planted else GOOD)
    assert (found.good, found.bad) == (planted - 1, planted)
    assert found.steps <= steps_left(0, length)


@given(st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda line: line[0] and not line[-1]))
def test_in_any_history_a_change_from_good_to_bad_is_found(line: list[bool]) -> None:
    """Also where it goes back and forth."""
    found = run(bisection(0, len(line) - 1), lambda m: GOOD if line[m] else BAD)
    assert found.bad == found.good + 1
    assert line[found.good]
    assert not line[found.bad]


@given(st.data())
def test_what_cannot_be_judged_is_named_and_nothing_else(data: st.DataObject) -> None:
    """Skipped moments leave the events around them in question; where none hides the change, it is found."""
    length = data.draw(st.integers(1, 200))
    planted = data.draw(st.integers(1, length))
    skipped = data.draw(st.sets(st.integers(1, length - 1))) if length > 1 else set()
    found = run(bisection(0, length), lambda m: SKIP if m in skipped else BAD if m >= planted else GOOD)
    assert found.good < planted <= found.bad
    assert {*range(found.good + 1, found.bad)} <= skipped


def test_ends_that_are_not_as_claimed_are_told() -> None:
    """Before anything else is tried."""
    with pytest.raises(NotAsClaimed, match="the good moment is not good: it is bad"):
        run(bisection(1, 9), lambda _: BAD)
    with pytest.raises(NotAsClaimed, match="the bad moment is not bad: it is good"):
        run(bisection(1, 9), lambda _: GOOD)
    with pytest.raises(NotAsClaimed, match=r"it cannot be judged \(no upstream\)"):
        run(bisection(1, 9), lambda _: Verdict("skip", "no upstream"))
    with pytest.raises(NotAsClaimed, match="earlier"):
        run(bisection(3, 3), lambda _: GOOD)


@cache
def history() -> tuple[History, list[Position]]:
    """A zone that decides about some of global's events, and every moment it was at."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(generator()))
    zone.follow(hub)
    zone.apply(mes("local"))
    for number in range(5):
        hub.append(applied(mes(f"one-{number}")), applied(mes(f"one-{number}", port=81)), seconds=number)
        zone.follow(hub)
    events = sorted((*hub.events, *zone.own.events), key=lambda one: (one.seen or one.n, one.origin != "global", one.n))
    moments = [Position(0, 0)]
    for event in events if zone.own.events[0].seen else [zone.own.events[0], *[e for e in events if e.id != "east-1"]]:
        g, z = moments[-1].g, moments[-1].z
        moments.append(Position(g + 1, z) if event.origin == "global" else Position(g, z + 1))
    return History.of(hub.events, {"east": zone.own.events}), moments


def test_moments_of_a_zone_stand_in_the_order_in_which_it_was_at_them() -> None:
    """Each differs from the one before by one event, and that is the event named."""
    past, moments = history()
    line = Line(past, "east")
    assert len(line) == len(moments) - 1
    assert [line.position(m) for m in range(len(line) + 1)] == moments
    assert [line.number(position) for position in moments] == list(range(len(moments)))
    for m in range(1, len(moments)):
        event = line.event(m)
        at = moments[m].g if event.origin == "global" else moments[m].z
        assert event.n == at


def test_a_moment_that_the_zone_never_was_at_is_the_last_it_was_at_by_then() -> None:
    """A zone that was cut off had seen less of global's log than there was."""
    past, moments = history()
    line = Line(past, "east")
    early = next(position for position in moments if position.g == 4)
    assert line.position(line.number(Position(len(past.hub), early.z))) in moments
    last = past.zones["east"].envelope(len(past.zones["east"]))
    assert line.position(line.number(Position(0, last.n))) == Position(last.seen, last.n)
