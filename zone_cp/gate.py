"""NameGate: which hostnames may be answered, as differences (decision 27)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import TypeAlias

import msgspec
from immutables import Map

from shared.events.state import Position
from zone_cp.view.names import NO_NAMES, Names, changed, differing

Tables: TypeAlias = Map[str, Names]
"""Per mesh: what hostnames resolve to."""

PENDING_LIMIT = 256
"""Tables that wait for ACKs; further ones wait together."""


class _Wanted(msgspec.Struct):
    position: Position
    tables: Tables
    waiting: set[str]


class NameGate:
    """Decides which hostnames may be answered: removals at once, additions when every egress has ACKed.

    Sans-IO: `want`, `acked` and `refuse` return the tables to publish now. Only names are looked at in which something
    differs of what is wanted, answered for or refused; for any other the outcome is what it was.
    """

    def __init__(self) -> None:
        """Nothing is wanted yet."""
        self._pending: deque[_Wanted] = deque()
        self._answered: Tables = Map()
        self._published: Tables = Map()
        self._wanted: Tables = Map()
        self._refused: frozenset[str] = frozenset()

    def want(self, position: Position, tables: Tables, egresses: Iterable[str]) -> Tables:
        """New tables at `position`, to be ACKed by `egresses` first (none: no egress can delay them)."""
        before, self._wanted = self._wanted, tables
        online = set(egresses)
        for earlier in self._pending:
            earlier.waiting &= online  # nothing waits for an egress that went offline
        if tables is not before:  # else they wait already, or have been answered
            if len(self._pending) >= PENDING_LIMIT:
                self._pending.popleft()  # the next one has all its names, and waits for no more than it did
            self._pending.append(_Wanted(position, tables, online))
        return self._settle(_dirty(before, tables))

    def acked(self, proxy: str, position: Position) -> Tables:
        """An egress holds everything up to `position`."""
        for wanted in self._pending:
            if position.reaches(wanted.position):
                wanted.waiting.discard(proxy)
        return self._settle({})

    def refuse(self, vips: frozenset[str]) -> Tables:
        """An egress NACKed what is behind these VIPs: an answer, but nothing to give a new name to."""
        moved, self._refused = vips ^ self._refused, vips
        if not moved:
            return self._settle({})
        both = (*self._answered.items(), *self._wanted.items())
        found = ((mesh, [name for name, vip in names.table.items() if vip in moved]) for mesh, names in both)
        return self._settle(_merged(found))

    def _settle(self, dirty: dict[str, set[str]]) -> Tables:
        before = self._answered
        while self._pending and not self._pending[0].waiting:
            self._answered = self._pending.popleft().tables
        if self._answered is not before:
            dirty = _merged([*dirty.items(), *_dirty(before, self._answered).items()])
        for mesh in [one for one in self._published if one not in self._answered]:
            self._published = self._published.delete(mesh)
        for mesh in self._answered:
            if mesh in dirty or mesh not in self._published:
                self._published = self._published.set(mesh, self._kept(mesh, dirty.get(mesh, ())))
        return self._published

    def _kept(self, mesh: str, names: Collection[str]) -> Names:
        # A name whose VIP changed goes first and comes back with the next ACK. A refused service that is published
        # already serves its last good configuration and keeps its name (decision 28).
        wanted = self._wanted.get(mesh, NO_NAMES).table
        published = self._published.get(mesh, NO_NAMES)
        answered = self._answered[mesh].table
        updates: dict[str, str | None] = {}
        for name in names:
            vip = answered.get(name)
            kept = wanted.get(name) == vip and (vip not in self._refused or published.table.get(name) == vip)
            updates[name] = vip if kept else None
        return changed(published, updates)


def _dirty(before: Tables, after: Tables) -> dict[str, set[str]]:
    if before is after:
        return {}
    meshes = {*before, *after}
    return _merged((one, differing(before.get(one, NO_NAMES), after.get(one, NO_NAMES))) for one in meshes)


def _merged(found: Iterable[tuple[str, Collection[str]]]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for mesh, names in found:
        if names:
            merged.setdefault(mesh, set()).update(names)
    return merged
