"""Nonces: what a response is called on its stream. Equal for streams that are told the same at the same moment.

`<position>.<type>.<k>`, where k counts the responses of a type at that moment on that stream. A nonce has to be unique
on its stream only (design/xds.md §2), and streams with different pasts say the same of a new moment: so their responses
are the same bytes. Removals may be told of an older moment than what was sent last; they are called by the
serial of the stream instead, which nothing was called before.
"""

from __future__ import annotations

from functools import lru_cache

from shared.events.state import Position

NONCES_KEPT = 64
"""Nonces that are remembered, for the next stream that is told the same."""


class Nonces:
    """The nonces of one stream."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        """Nothing was said yet."""
        self._last: dict[str, tuple[Position, int]] = {}

    def next(self, type_url: str, position: Position, serial: int) -> str:
        """The nonce of the next response of a type; serial is of this response and no other on the stream."""
        position_before, count = self._last.get(type_url, (None, 0))
        if position_before is not None and position < position_before:
            return f"{position}.r{serial}"
        count = count + 1 if position == position_before else 0
        self._last[type_url] = (position, count)
        return _text(position, type_url, count)


@lru_cache(maxsize=NONCES_KEPT)
def _text(position: Position, type_url: str, count: int) -> str:
    return f"{position}.{type_url.rpartition('.')[2]}.{count}"
