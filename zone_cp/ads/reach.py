"""Reach: how far all proxies of a zone have come together, kept as it moves. A value machine, no IO and no clock.

`head` is the moment that proxies which have all there is hold; it moves for all of them at once. Only those that do not
have all there is are kept one by one (`behind`), so a change costs what it touches, and asking costs the laggards.
Beside that the last pushes are remembered with their times, for `zonal trace`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import msgspec

from shared.events.progress import Answers, Push, Seen, has
from shared.events.state import Position

PUSHES_KEPT = 256
SEEN_KEPT = 256
NAMES_KEPT = 32
"""Touched proxies of a push that are remembered by name."""


class Where(msgspec.Struct, frozen=True):
    """How far a connected proxy has come: what it has answered, the newest it was sent of, whether it has all there is
    for it, so that it moves on with `head`.
    """

    reached: Position | None
    sent: Position | None
    current: bool


class _Answers(msgspec.Struct):
    first: str
    last: str
    count: int


class _Push(msgspec.Struct):
    after: Position
    position: Position
    offered_at: str
    touched: int
    names: tuple[str, ...]
    waiting: set[str]
    unsent: set[str]
    overtaken: int = 0
    gone: int = 0
    sent: tuple[str, str] = ("", "")
    acked: tuple[str, str] = ("", "")
    types: dict[str, _Answers] = {}

    def shown(self) -> Push:
        return Push(
            self.after,
            self.position,
            self.offered_at,
            self.touched,
            len(self.waiting),
            self.overtaken,
            self.gone,
            *self.sent,
            self.acked[0],
            "" if self.waiting else self.acked[1],
            tuple(Answers(name, one.first, one.last, one.count) for name, one in sorted(self.types.items())),
            self.names,
        )


class Reach:
    """Facts go in, each with the time `now` where that is remembered; `head`, `behind` and `pushes` come out."""

    def __init__(self) -> None:
        """Nobody is connected."""
        self.head: Position | None = None
        self.behind: dict[str, Position | None] = {}
        self.returning: dict[str, Position | None] = {}
        self._online: set[str] = set()
        self._pushed: Position | None = None
        self._pushes: deque[_Push] = deque()
        self._open: dict[str, list[_Push]] = {}
        self._seen: deque[Seen] = deque(maxlen=SEEN_KEPT)

    # --- facts come in -------------------------------------------------------------------------------------------

    def expect(self, proxies: Mapping[str, Position | None]) -> None:
        """Proxies that were connected in an earlier life, and how far they are known to have come."""
        self.returning = {proxy: reached for proxy, reached in proxies.items() if proxy not in self._online}

    def lose(self) -> None:
        """Who has not come back by now is offline."""
        self.returning = {}

    def saw(self, first: int, last: int, now: str) -> None:
        """The copy of global's log holds these events."""
        self._seen.append(Seen(first, last, now))

    def advanced(self, position: Position) -> None:
        """What proxies hold that have all there is holds at this moment too."""
        self.head = position

    def pushed(self, position: Position, touched: Iterable[str], now: str) -> None:
        """All changes up to `position` are compiled, and offered to the proxies that they touch."""
        after, self._pushed = self._pushed, position
        if after is None or after == position:
            return  # what a restart begins with, or news that is no event's
        names = tuple(touched)
        waiting = {proxy for proxy in names if proxy in self.behind}
        push = _Push(after, position, now, len(names), names[:NAMES_KEPT], waiting, set(waiting), types={})
        if len(self._pushes) >= PUSHES_KEPT:
            self._forget(self._pushes.popleft())
        self._pushes.append(push)
        for proxy in waiting:
            self._open.setdefault(proxy, []).append(push)

    def moved(self, proxy: str, where: Where | None, now: str) -> None:
        """A proxy was offered or sent something, has answered, has come or (None) gone."""
        if where is None:
            self._gone(proxy)  # where it is expected back, it still is
            return
        self.returning.pop(proxy, None)
        self._online.add(proxy)
        if where.current:
            self.behind.pop(proxy, None)
        else:
            self.behind[proxy] = where.reached
        if proxy in self._open:
            left = [push for push in self._open[proxy] if self._waits(push, proxy, where, now)]
            self._keep(proxy, left)

    def acked(self, proxy: str, kind: str, position: Position, now: str) -> None:
        """A proxy accepted a response of one type that was of this moment; to be told before `moved`."""
        for push in self._open.get(proxy, ()):
            if has(position, push.position):
                push.acked = (push.acked[0] or now, push.acked[1])
                known = push.types.setdefault(kind, _Answers(now, now, 0))
                known.last, known.count = now, known.count + 1

    # --- what follows --------------------------------------------------------------------------------------------

    @property
    def online(self) -> int:
        """Proxies that are connected, or expected back."""
        return len(self._online) + len(self.returning)

    def delivered(self, position: Position) -> bool:
        """Whether every proxy that is online has all of a moment."""
        late = (*self.behind.values(), *self.returning.values())
        return has(self.head, position) and all(has(reached, position) for reached in late)

    def pushes(self, count: int = PUSHES_KEPT) -> tuple[Push, ...]:
        """The last pushes, in order."""
        return tuple(push.shown() for push in list(self._pushes)[-count:])

    def seen(self, count: int = SEEN_KEPT) -> tuple[Seen, ...]:
        """When the last events of global came, in order."""
        return tuple(self._seen)[-count:]

    # --- inside --------------------------------------------------------------------------------------------------

    def _waits(self, push: _Push, proxy: str, where: Where, now: str) -> bool:
        if proxy in push.unsent and where.sent is not None and has(where.sent, push.position):
            push.unsent.discard(proxy)
            if where.sent == push.position:
                push.sent = (push.sent[0] or now, now)
            else:
                push.overtaken += 1
        if not where.current and not has(where.reached, push.position):
            return True
        push.waiting.discard(proxy)
        push.unsent.discard(proxy)
        push.acked = (push.acked[0] or now, now)
        return False

    def _gone(self, proxy: str) -> None:
        self._online.discard(proxy)
        self.behind.pop(proxy, None)
        for push in self._open.pop(proxy, ()):
            push.waiting.discard(proxy)
            push.unsent.discard(proxy)
            push.gone += 1

    def _forget(self, push: _Push) -> None:
        for proxy in push.waiting:
            self._keep(proxy, [one for one in self._open.get(proxy, ()) if one is not push])

    def _keep(self, proxy: str, left: list[_Push]) -> None:
        if left:
            self._open[proxy] = left
        else:
            self._open.pop(proxy, None)
