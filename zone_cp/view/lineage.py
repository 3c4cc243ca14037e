"""Lineage: which earlier maps a map was made from, and the names in which they differ.

Persistent maps share what did not change, but cannot say what did. Whoever makes the next map knows the names it
touched; a lineage keeps the last few of these steps, so that a reader who knows one of the earlier maps looks at
those names only. A reader who has fallen behind further compares everything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

STEPS_MAX = 64
"""Steps that are kept; each keeps alive what only the map before it held."""
NAMES_MAX = 1024
"""Names that a step may name: beyond them the reader does as well to compare everything."""


class Step(msgspec.Struct, frozen=True):
    """From `before`, recognised by identity, to the map after it only `names` changed, came or went."""

    before: Mapping[str, Any]
    names: tuple[str, ...]


class Lineage(msgspec.Struct, frozen=True):
    """The steps that led to a map, newest first."""

    steps: tuple[Step, ...] = ()

    def then(self, before: Mapping[str, Any], names: Collection[str]) -> Lineage:
        """The lineage of the next map; this one is of `before`."""
        if len(names) > NAMES_MAX:
            return UNKNOWN
        return Lineage((Step(before, tuple(names)), *self.steps[: STEPS_MAX - 1]))

    def since(self, earlier: Mapping[str, Any] | None) -> Collection[str] | None:
        """Names that may differ from `earlier`, each once; None when it is not among the maps before."""
        if self.steps and self.steps[0].before is earlier:
            return self.steps[0].names
        names: dict[str, None] = {}
        for step in self.steps if earlier is not None else ():
            names.update(dict.fromkeys(step.names))
            if step.before is earlier:
                return names
        return None


UNKNOWN = Lineage()
