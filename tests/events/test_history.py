"""Moments in history: what `--at` means, and that state at a moment is the fold up to it."""

from __future__ import annotations

import pytest

from shared.events.history import History, NoSuchMoment
from shared.events.state import Position
from tests.builders import LogBuilder, ZoneBuilder, applied, at, generator, mes, mesh


def _history() -> History:
    hub = LogBuilder()
    hub.append(applied(mesh()), applied(generator()), seconds=0)
    zones = {"east": ZoneBuilder("east"), "west": ZoneBuilder("west")}
    for number in range(3):
        hub.append(applied(mes(f"s{number}")), seconds=10 * (number + 1))
        zones["east"].follow(hub)
    zones["west"].follow(hub)
    return History.of(hub.events, {name: zone.own.events for name, zone in zones.items()})


def test_a_moment_is_the_last_one_when_none_is_named() -> None:
    """Both logs to their ends."""
    history = _history()
    assert history.position("east") == Position(5, len(history.zones["east"]))


def test_a_global_sequence_names_where_the_zone_was_once_it_had_decided_on_it() -> None:
    """At g the zone holds every event it recorded with seen <= g, and none with more."""
    history = _history()
    for g in range(6):
        position = history.position("east", str(g))
        assert position.g == g
        own = history.zones["east"]
        assert all(event.seen <= g for event in own.events(until=position.z))
        assert all(event.seen > g for event in own.events(after=position.z))


def test_a_zone_sequence_implies_its_global_one() -> None:
    """`east:4` is (seen of east's event 4, 4); for another zone it is that g."""
    history = _history()
    seen = history.zones["east"].event(4).seen
    assert history.position("east", "east:4") == Position(seen, 4)
    assert history.position("west", "east:4") == history.position("west", str(seen))


def test_a_time_names_what_had_happened_by_then() -> None:
    """Events at that very time are in; a shorter time names its beginning."""
    history = _history()
    assert history.position("east", at(20)).g == 4
    assert history.position("east", at(19)).g == 3
    assert history.position("east", at(0)[:10]).g == 0


@pytest.mark.parametrize(
    ("asked", "g"),
    [
        ("2026-01-01T00:00:20Z", 4),  # that whole second
        ("2026-01-01T00:00:19Z", 3),
        ("2026-01-01T00:00:20", 3),  # its beginning
        ("2026-01-01T02:00:20+02:00", 4),
        ("2025-12-31T19:00:20.000000-05:00", 4),
        ("2026-01-01T02:00:20Z", 5),
        ("2026-01-01", 0),
        ("2026-01-01 00:00:25", 4),
        ("2025-01-01", 0),
        ("2099-01-01T00:00:00Z", 5),
    ],
)
def test_a_time_may_be_said_in_any_zone(asked: str, g: int) -> None:
    """An offset is an offset: as text, 02:00:20+02:00 is later than every event of that hour."""
    assert _history().position("east", asked).g == g


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("99", "it has 1 to 5"),
        ("north:1", "zones: east, west"),
        ("east:99", "has no event 99"),
        ("soon", "no moment"),
        ("2026-13-45T00:00:00Z", "no moment"),
        ("2026-01-01T25:00:00Z", "no moment"),
        ("0001-01-01T00:00:00+14:00", "no moment"),
    ],
)
def test_a_moment_that_is_not_there_is_refused_with_those_that_are(asked: str, said: str) -> None:
    """The message says what one may ask for."""
    with pytest.raises(NoSuchMoment, match=said):
        _history().position("east", asked)


def test_state_at_a_moment_is_the_fold_up_to_it() -> None:
    """Nothing of later events is in it."""
    history = _history()
    state = history.state("east", history.position("east", "4"))
    assert sorted(key.name for key in state.hub.kinds["MeshExternalService"]) == ["s0", "s1"]
    assert len(state.own.leases) == 2
    assert state.position == history.position("east", "4")
