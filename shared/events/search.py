"""Finding events of a log by what they are about, who wrote them and when, from the index alone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import compress, repeat
from operator import and_

import msgspec

from shared.events.index import WITHHELD, LogIndex
from shared.events.subject import place_of


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events: all conditions hold, None holds always. Several words in one condition: one of them.

    kinds: kinds of resource, or of what an event is about (`Vip`, `Hostname`, `Proxy`, …). names, meshes: of it.
    changes: kinds of change (`ResourceApplied`, …). actors: whoever wrote it. after, until: after < n <= until.
    """

    kinds: frozenset[str] | None = None
    names: frozenset[str] | None = None
    meshes: frozenset[str] | None = None
    changes: frozenset[str] | None = None
    actors: frozenset[str] | None = None
    after: int = 0
    until: int | None = None


def found(index: LogIndex, wanted: Wanted, *, newest_first: bool = False) -> Iterator[int]:
    """The n of every event that is wanted, in order; withheld ones never are."""
    first, last = max(wanted.after, 0), len(index) if wanted.until is None else min(wanted.until, len(index))
    numbers: Sequence[int] = range(first + 1, last + 1)
    step = -1 if newest_first else 1
    chosen: list[Iterator[int]] = []
    if wanted.kinds is not None or wanted.names is not None or wanted.meshes is not None:
        about = bytes(_is_about(wanted, subject) for subject in index.subjects.texts)
        chosen.append(map(about.__getitem__, index.subject_of[first:last][::step]))
    for words, texts, column in (
        (wanted.actors, index.actors.texts, index.actor_of),
        (wanted.changes, index.changes.texts, index.change_of),
    ):
        if words is not None:
            among = bytes(text in words for text in texts)
            chosen.append(map(among.__getitem__, column[first:last][::step]))
    if WITHHELD in index.changes:
        readable = bytes(text != WITHHELD for text in index.changes.texts)
        chosen.append(map(readable.__getitem__, index.change_of[first:last][::step]))
    selected: Iterable[int] = repeat(1) if not chosen else reduce(lambda one, other: map(and_, one, other), chosen)
    return compress(numbers[::step], selected)


def _is_about(wanted: Wanted, subject: str) -> bool:
    mesh, kind, name = place_of(subject)
    return (
        (wanted.kinds is None or kind in wanted.kinds)
        and (wanted.names is None or name in wanted.names)
        and (wanted.meshes is None or mesh in wanted.meshes)
    )
