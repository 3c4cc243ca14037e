"""Finding events of a log by what they are about, who wrote them and when, mostly from the index alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import reduce
from itertools import compress, repeat
from operator import and_, mul
from typing import TypeAlias

import msgspec

from shared.events.index import WITHHELD, LogIndex
from shared.events.subject import place_of

FACTS = frozenset({"Vip", "Hostname", "Proxy"})
"""What a zone records about a resource, which is named inside of the event only."""

_NO, _YES, _PERHAPS = range(3)

Holder: TypeAlias = Callable[[int], tuple[str, str, str]]
"""Mesh, kind and name of the resource that the fact n is about."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which events: all conditions hold, None holds always. Several words in one condition: one of them.

    kinds: kinds of resource, or of what an event is about (`Vip`, `Hostname`, `Proxy`, …). names, meshes: of it.
    changes: kinds of change (`ResourceApplied`, …). actors: whoever wrote it. after, until: after < n <= until.
    Names and actors may hold `*` and `?`. Facts about a resource are found by the resource as well.
    """

    kinds: frozenset[str] | None = None
    names: frozenset[str] | None = None
    meshes: frozenset[str] | None = None
    changes: frozenset[str] | None = None
    actors: frozenset[str] | None = None
    after: int = 0
    until: int | None = None


def found(index: LogIndex, wanted: Wanted, holder: Holder, *, newest_first: bool = False) -> Iterator[int]:
    """The n of every event that is wanted, in order; withheld ones never are."""
    first, last = max(wanted.after, 0), len(index) if wanted.until is None else min(wanted.until, len(index))
    numbers: Sequence[int] = range(first + 1, last + 1)
    step = -1 if newest_first else 1
    chosen: list[Iterator[int]] = []
    for words, texts, column in (
        (wanted.actors, index.actors.texts, index.actor_of),
        (wanted.changes, index.changes.texts, index.change_of),
    ):
        if words is not None:
            among = bytes(_is_one(text, words) for text in texts)
            chosen.append(map(among.__getitem__, column[first:last][::step]))
    if WITHHELD in index.changes:
        readable = bytes(text != WITHHELD for text in index.changes.texts)
        chosen.append(map(readable.__getitem__, index.change_of[first:last][::step]))
    selected: Iterable[int] = repeat(1) if not chosen else reduce(lambda one, other: map(and_, one, other), chosen)
    if wanted.kinds is None and wanted.names is None and wanted.meshes is None:
        yield from compress(numbers[::step], selected)
        return
    about = bytes(_is_about(wanted, *place_of(subject)) for subject in index.subjects.texts)
    said = bytes(map(mul, map(about.__getitem__, index.subject_of[first:last][::step]), selected))
    for place, n in compress(enumerate(numbers[::step]), said):
        if said[place] == _YES or _is_about(wanted, *holder(n)) == _YES:
            yield n


def _is_about(wanted: Wanted, mesh: str, kind: str, name: str) -> int:
    if (
        (wanted.kinds is None or kind in wanted.kinds)
        and (wanted.names is None or _is_one(name, wanted.names))
        and (wanted.meshes is None or mesh in wanted.meshes)
    ):
        return _YES
    return _PERHAPS if kind in FACTS else _NO


def _is_one(text: str, words: Collection[str]) -> bool:
    return text in words or any(fnmatchcase(text, word) for word in words if "*" in word or "?" in word)
