"""The events that something follows from."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain
from typing import TypeAlias

from shared.events.event import EventRef

Sources: TypeAlias = tuple[EventRef, ...]
FEW = 8
"""So many are compared sooner than hashed."""


def joined(first: Sources, *further: Collection[EventRef]) -> Sources:
    """All of them, each event once; `first` has none twice."""
    for group in further:
        if len(group) + len(further) > FEW:
            return tuple(dict.fromkeys(chain(first, *further)))
        for one in group:
            if one not in first:
                first = (*first, one)
    return first
