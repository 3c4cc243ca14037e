"""What a client's messages mean, and what is sent to it: the words that the streams and their callers share."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from shared.events.state import Position
from zone_cp.xds.snapshot import Encoded

MAX_SUSPECTS_ALONE = 32


class RemoteProtocolError(Exception):
    """The client broke the protocol; the stream cannot go on. `limit` tells an exceeded limit from nonsense."""

    def __init__(self, message: str, *, limit: bool = False) -> None:
        """Say what the client did."""
        super().__init__(message)
        self.limit = limit


class Acked(msgspec.Struct, frozen=True, gc=False):
    """The client accepted a response: it holds `versions` (name, version) and no longer holds `removed`."""

    type_url: str
    nonce: str
    position: Position
    versions: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]


class Nacked(msgspec.Struct, frozen=True, gc=False):
    """The client refused a response made of `names`. `rejected` (name, version) is the culprit once it is certain."""

    type_url: str
    nonce: str
    position: Position
    message: str
    names: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]


Fact: TypeAlias = Acked | Nacked


class Sent(msgspec.Struct, frozen=True, gc=False):
    """A response in flight. serial counts the responses of the stream."""

    serial: int
    position: Position
    upserts: tuple[Encoded, ...]
    removed: tuple[str, ...]


class Due(msgspec.Struct, frozen=True, gc=False):
    """What must be sent now: resources, and names to be declared nonexistent."""

    upserts: tuple[Encoded, ...] = ()
    absent: tuple[str, ...] = ()


Part: TypeAlias = tuple[tuple[Encoded, ...], tuple[str, ...]]
"""What one response changes: resources to hold, and names to hold no more."""


def split_suspects(names: tuple[str, ...], message: str) -> list[tuple[str, ...]]:
    """Smaller groups for a refused response: those Envoy's message names alone, the rest together, or halves."""
    blamed = [name for name in names if name in message]
    rest = tuple(name for name in names if name not in message)
    if blamed and rest and len(blamed) <= MAX_SUSPECTS_ALONE:
        return [rest, *((name,) for name in blamed)]
    middle = len(names) // 2
    return [names[:middle], names[middle:]]
