"""The made-up past: the same again, in valid chains, and something that planes could have written."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from shared.events.event import GLOBAL, Event, decode_event
from shared.events.fold import check, fold
from shared.events.state import LogState, Position, ZoneState
from shared.history.generate import ZONES, Size, generated
from zone_cp.view.project import project

SMALL = Size(events=4000, resources=200, proxies=20)


def _logs(size: Size, seed: int) -> dict[str, list[Event]]:
    logs: dict[str, list[Event]] = {}
    for piece in generated(size, seed):
        log = logs.setdefault(piece.origin, [])
        assert piece.first == len(log) + 1
        log += map(decode_event, piece.lines)
        assert [event.subject for event in log[piece.first - 1 :]] == list(piece.subjects)
    return logs


def test_a_made_up_past_is_a_valid_one() -> None:
    """Every event continues its chain, sizes are as asked, and a zone's view can be made of it."""
    states = {}
    logs = _logs(SMALL, 1)
    for origin, events in logs.items():
        state = LogState(origin)
        for event in events:
            assert check(state, event) is None
            state = fold(state, event)
        states[origin] = state
    assert SMALL.events <= sum(map(len, logs.values())) < SMALL.events + 10
    assert 150 < sum(len(state.resources) for state in states.values()) <= SMALL.resources
    assert sum(len(states[zone].proxies) for zone in ZONES) == SMALL.proxies
    assert len(Counter(type(event.change).__name__ for event in chain(*logs.values()))) > 10
    east = ZoneState("east", states[GLOBAL], states["east"])
    assert east.position == Position(states[GLOBAL].n, states["east"].n)
    assert len(project(east).meshes["default"].services) > 100


def test_a_seed_gives_the_same_past_again() -> None:
    """Byte for byte; another seed gives another."""
    once, again = (list(generated(SMALL, 7)) for _ in range(2))
    assert once == again
    assert once != list(generated(SMALL, 8))


def test_too_small_a_deployment_is_refused() -> None:
    """With what is the least."""
    with pytest.raises(ValueError, match="at least 100 resources"):
        next(generated(Size(events=10, resources=10, proxies=4)))
