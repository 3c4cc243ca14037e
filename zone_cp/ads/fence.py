"""Fence: no proxy is given an older moment than one it has had (decision 33). Pure.

What each proxy has had is known from an earlier life of the control plane: its marks. Within one life a zone's state
never goes back, so a mark is looked at until its proxy was given something that is not older, and then forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shared.events.state import LogState, Position, ZoneState


class Mark(msgspec.Struct, frozen=True):
    """A moment with the incarnations of the two logs that it counts in: global's and the zone's own."""

    hub: str
    own: str
    g: int
    z: int

    @property
    def position(self) -> Position:
        """The moment alone."""
        return Position(self.g, self.z)


def mark_of(state: ZoneState) -> Mark:
    """The moment of a state."""
    return Mark(state.hub.incarnation, state.own.incarnation, state.hub.n, state.own.n)


class Fence:
    """The marks that proxies have not passed yet."""

    def __init__(self) -> None:
        """Nothing is known of an earlier life."""
        self._marks: dict[str, Mark] = {}

    def recall(self, marks: Mapping[str, Mark]) -> None:
        """marks: by proxy, the newest moment it had ACKed in an earlier life."""
        self._marks = dict(marks)

    def mark(self, proxy: str) -> Mark | None:
        """What the proxy had ACKed in an earlier life, until it is given something that is not older."""
        return self._marks.get(proxy)

    def behind(self, proxy: str, now: Mark) -> str:
        """Why what holds at `now` is older than what the proxy has had, "" when it is not; compared per component."""
        mark = self._marks.get(proxy)
        if mark is None:
            return ""
        if mark.hub and mark.hub != now.hub:
            return f"it has had {mark.position} of an earlier incarnation of global's log"
        if mark.own and mark.own != now.own:
            return f"it has had {mark.position} of an earlier incarnation of the zone's log"
        if now.g < mark.g or now.z < mark.z:
            return f"it has had {mark.position}, and the state here is of {now.position}"
        return ""

    def forget(self, proxy: str) -> None:
        """It was given something newer, or an operator says that it may have what there is."""
        self._marks.pop(proxy, None)


def lost(marks: Mapping[str, Mark], own: LogState) -> int:
    """Up to which event the zone's own log has been longer than it is, 0 when it has lost nothing: it was restored."""
    witnessed = [mark.z for mark in marks.values() if mark.own and (mark.own == own.incarnation or not own.n)]
    most = max(witnessed, default=0)
    return most if most > own.n else 0
