"""What one stream's client loads on demand: clusters that only go to who names or holds them, and their tombstones.

A client names whatever its own clients ask of it, so what a name leaves behind is bounded: at most MAX_TOMBSTONES
stand at once, and the one that was asked for longest ago goes first. Its removal frees the cluster in Envoy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from zone_cp.xds.snapshot import Encoded
from zone_cp.xds.tombstone import Tombstone, tombstone

MAX_TOMBSTONES = 256


class OnDemand:
    """Names by prefix ("": nothing is loaded on demand), and the tombstones that stand, oldest first."""

    __slots__ = ("_prefix", "_returning", "_standing")

    def __init__(self) -> None:
        """Nothing is loaded on demand."""
        self._prefix = ""
        self._standing: dict[str, None] = {}
        self._returning: dict[str, None] = {}

    def switch(self, prefix: str) -> bool:
        """Take this prefix from now on; whether it is another one than before."""
        changed, self._prefix = prefix != self._prefix, prefix
        return changed

    @property
    def idle(self) -> bool:
        """Whether nothing is loaded on demand, and nothing of it is left."""
        return not (self._prefix or self._standing or self._returning)

    def covers(self, name: str) -> bool:
        """Whether the resource goes only to who names or holds it."""
        return bool(self._prefix) and name.startswith(self._prefix)

    def returns_with(self, names: Iterable[str]) -> None:
        """A new stream begins with these names of things that its client does not hold."""
        self._returning.update(dict.fromkeys(names))

    def answer(self, name: str, *, refused: bool) -> Tombstone | None:
        """What to give for a name that nothing can be sent for, None to say that nothing is there.

        Names of earlier streams, whose tombstones are gone, are not given new ones: nobody may ever use them again.
        """
        if not self.covers(name) or name in self._returning:
            self._returning.pop(name, None)
            return None
        return tombstone(name, refused=refused)

    def stands(self, name: str) -> bool:
        """Whether the client was given a tombstone for this name."""
        return name in self._standing

    def lay(self, name: str) -> Iterator[str]:
        """A tombstone was given; yields the names whose tombstones have to go for it."""
        self._standing.pop(name, None)
        self._standing[name] = None
        for oldest in tuple(islice(self._standing, max(0, len(self._standing) - MAX_TOMBSTONES))):
            del self._standing[oldest]
            yield oldest

    def lift(self, name: str) -> None:
        """Something else was given, or the client holds it no more."""
        self._standing.pop(name, None)
        self._returning.pop(name, None)


NOTHING_ON_DEMAND = OnDemand()
"""For types that never are; not to be changed."""


def accepted(sent: Iterable[Encoded]) -> tuple[tuple[str, str], ...]:
    """Name and version of what a client accepts with this; what stands in for something refused accepts nothing."""
    return tuple((one.name, one.version) for one in sent if not (isinstance(one, Tombstone) and one.refused))
