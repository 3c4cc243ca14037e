"""Holds and quarantines are state like any other: folded, kept in checkpoints, ended by events."""

from __future__ import annotations

from immutables import Map

from shared.events.checkpoint import decode_checkpoint, encode_checkpoint
from shared.events.event import PushHeld, PushReleased, QuarantineEnded, ResourceQuarantined
from shared.events.state import Position
from tests.builders import LogBuilder, settings

HELD = PushHeld(proxies=("a", "b", "c"), kept_g=3, kept_z=4, reason="would remove 20 of 30 clusters")
QUARANTINED = ResourceQuarantined(
    type_url="t", name="n", version="v1", kept_g=0, kept_z=0, proxy="a", reason="malformed"
)


def log(*changes: PushHeld | PushReleased | ResourceQuarantined | QuarantineEnded) -> LogBuilder:
    builder = LogBuilder("east")
    builder.append(settings(), *changes)
    return builder


def test_a_hold_lasts_until_it_is_released() -> None:
    """By itself it is gone; an operator's release is remembered, and a new hold forgets that."""
    state = log(HELD, PushReleased(proxies=("a", "d"), by="itself"), PushReleased(proxies=("b",), by="operator")).state
    assert {proxy: (hold.kept, hold.released) for proxy, hold in state.holds.items()} == {
        "b": (Position(3, 4), True),
        "c": (Position(3, 4), False),
    }
    again = log(HELD, PushReleased(proxies=("b",), by="operator"), HELD).state
    assert not any(hold.released for hold in again.holds.values())


def test_a_quarantine_is_of_one_version() -> None:
    """Another version of the resource has nothing to do with it."""
    other = QuarantineEnded(type_url="t", name="n", version="v2", by="itself")
    assert list(log(QUARANTINED, other).state.quarantined) == [("t", "n", "v1")]
    end = QuarantineEnded(type_url="t", name="n", version="v1", by="operator")
    assert log(QUARANTINED, end).state.quarantined == Map()


def test_a_checkpoint_keeps_them() -> None:
    """A state that is read back is the state that was written."""
    state = log(HELD, QUARANTINED).state
    assert decode_checkpoint(encode_checkpoint(state)) == (state, [])
