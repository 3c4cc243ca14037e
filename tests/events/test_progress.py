"""What a zone's one word about all its proxies says of a single change."""

from __future__ import annotations

import pytest

from shared.events.event import GLOBAL
from shared.events.progress import (
    Change,
    Laggard,
    Progress,
    Push,
    Refused,
    Seen,
    Wanted,
    outstanding,
    stuck,
    traced,
    wanted,
)
from shared.events.state import Position

AT = "2026-01-01T00:00:05Z"
ZONES = ("east", "west")
SEVEN = Change.of(GLOBAL, 7, 0)


def progress(g: int, *laggards: Laggard, behind: int = 0, **further: object) -> Progress:
    return Progress("east", AT, Position(g, 3), 4, behind or len(laggards), laggards, **further)  # type: ignore[arg-type]


def refusal(since: Position | None, *events: str, proxies: tuple[str, ...] = ("a",)) -> Refused:
    return Refused("Cluster", "mes/x", "bad", since, events, proxies, len(proxies))


@pytest.mark.parametrize(
    ("said", "state", "missing"),
    [
        (None, "not seen", 0),
        (progress(6), "not seen", 0),
        (progress(6, seen=(Seen(7, 9, AT),)), "seen", 0),
        (progress(7), "delivered", 0),
        (progress(9, Laggard("a", "sent", reached=Position(7, 0))), "delivered", 0),
        (progress(9, Laggard("a", "sent", reached=Position(6, 9))), "delivering", 1),
        (progress(9, Laggard("a", "returning")), "delivering", 1),
        (progress(9, Laggard("a", "held"), behind=40, rest=Position(7, 0)), "delivering", 1),
        (progress(9, Laggard("a", "held"), behind=40, rest=Position(6, 0)), "delivering", 40),
        (progress(9, Laggard("a", "held"), behind=40), "delivering", 40),
    ],
)
def test_a_word_about_all_tells_of_one_change(said: Progress | None, state: str, missing: int) -> None:
    """It is delivered once nobody is behind it; proxies that are behind something later do not matter."""
    found = traced("east", SEVEN, said)
    assert (found.state, found.missing_count) == (state, missing)


@pytest.mark.parametrize(
    ("refused", "counts"),
    [
        (refusal(Position(7, 0), "7"), True),
        (refusal(None, "3", "7"), True),
        (refusal(None, "3", "8"), False),
        (refusal(Position(7, 0), "5"), True),
        (refusal(Position(6, 9), "5"), False),
        (refusal(Position(9, 9), "9"), False),
    ],
)
def test_what_is_refused_counts_against_the_change_that_brought_it(refused: Refused, counts: bool) -> None:
    """A change that the version follows from, or that came with it and nothing later: neither older nor newer ones."""
    found = traced("east", SEVEN, progress(9, refused=(refused,)))
    assert (found.state == "delivering") is counts
    assert stuck([found], wanted("all", ZONES)) is counts


def test_a_zones_event_is_there_with_its_own_sequence() -> None:
    """It counts in the zone's log, after the g that it has seen."""
    change = Change.of("east", 4, 7)
    assert traced("east", change, progress(9)).state == "not seen"
    assert traced("east", Change.of("east", 3, 7), progress(9)).state == "delivered"


def test_the_push_that_brought_it() -> None:
    """The one whose moments hold it; of an older change nothing is made up."""
    pushes = (Push(Position(5, 3), Position(6, 3), AT), Push(Position(6, 3), Position(8, 3), AT))
    said = progress(9, pushes=pushes, seen=(Seen(5, 8, AT),))
    found = traced("east", SEVEN, said)
    assert (found.push, found.seen_at) == (pushes[1], AT)
    assert traced("east", Change.of(GLOBAL, 4, 0), said).push is None
    assert not traced("east", Change.of(GLOBAL, 4, 0), said).seen_at


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("all", Wanted(False, None)),
        ("", Wanted(False, None)),
        ("offline", Wanted(False, None, True)),
        ("zones", Wanted(True, ())),
        ("zones,west", Wanted(True, ("west",))),
        ("east, offline", Wanted(False, ("east",), True)),
    ],
)
def test_what_can_be_waited_for(text: str, means: Wanted) -> None:
    """Words with commas; an unknown one is refused with those that are known."""
    assert wanted(text, ZONES) == means
    with pytest.raises(ValueError, match=r"north: no zone that is known here \(east, west\)"):
        wanted(f"{text},north", ZONES)


def test_who_is_missing_is_named() -> None:
    """Zones that have not seen it, and the proxies of those that matter, with the reason."""
    east = traced("east", SEVEN, progress(9, Laggard("a", "held", "too much"), offline=1, offline_names=("b",)))
    west = traced("west", SEVEN, Progress("west", AT, Position(3, 1)))
    cut = f"west: has not seen it (the zone last spoke at {AT}, of g3.z1)"
    held = "east: a held (too much)"
    zones = (east, west)
    assert outstanding(zones, wanted("all", ZONES)) == (held, cut)
    assert outstanding(zones, wanted("zones", ZONES)) == (cut,)
    assert outstanding(zones, wanted("east", ZONES)) == (held,)
    assert outstanding(zones, wanted("east,offline", ZONES)) == (held, "east: offline: b")
    assert stuck(zones, wanted("east", ZONES))
    assert not stuck(zones, wanted("all", ZONES)), "the link may come back"
    assert outstanding((traced("west", SEVEN, None),), wanted("zones", ZONES)) == (
        "west: has not seen it (it never spoke)",
    )
