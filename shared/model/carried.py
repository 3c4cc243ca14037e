"""What several protocols have in common: the most telling one that all of them can be carried as."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

Protocol: TypeAlias = Literal["tcp", "http", "http2", "grpc"]

_CARRIED: dict[str, tuple[Protocol, ...]] = {
    "http": ("http", "tcp"),
    "http2": ("http2", "tcp"),
    "grpc": ("grpc", "http2", "tcp"),
    "tcp": ("tcp",),
}
"""What each protocol can be carried as, the most telling first."""


def carried_as(word: str | None) -> Protocol:
    """The protocol that a tag or field means; what is not HTTP is tcp."""
    return _CARRIED[word][0] if word in _CARRIED else "tcp"


def in_common(protocols: Iterable[Protocol]) -> Protocol:
    """Of several protocols the most telling that all are carried as. Raises ValueError for none."""
    spoken = set(protocols)
    first = _CARRIED[min(spoken)]
    return next(one for one in first if all(one in _CARRIED[other] for other in spoken))
