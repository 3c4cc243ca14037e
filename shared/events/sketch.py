"""A state in outline: what a question about the past begins with. Pure.

Most of a state are resources, and most of a log are events that write one anew. So a sketch does not hold them: it
names the event that wrote each last, and says which one created it. All else (`rest`) is a fold as everywhere. To go on
from a sketch, events that write resources are counted and not read; only those that are left at the end are. Reading
them makes the state: exactly the fold of all events.

What gives and takes access stands in the rest, since every event about it counts (`narrowing`); so does everything of a
log that is not `ordered`. Where an event about a resource turns out to be one that cannot be read, that resource is
folded from all events about it: what cannot be read overtakes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import compress

import msgspec
from immutables import Map

from shared.events.event import (
    GLOBAL,
    Event,
    EventRef,
    ResourceApplied,
    Unreadable,
    decode_envelope,
    decode_event,
    event_hash,
    ref,
)
from shared.events.fold import fold_part
from shared.events.index import Lines, LogIndex
from shared.events.state import LogState, Stored
from shared.model.resource import ResourceKey, key_of


class Written(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A resource by its events: the one that wrote it last, and the one that created it (None: the same)."""

    n: int
    created: EventRef | None = None


class Sketch(msgspec.Struct, frozen=True):
    """A state at `rest.n`. written: by the number of the resource's subject in the index."""

    rest: LogState
    written: Mapping[int, Written]


class Sketcher:
    """Makes sketches of one log, and states of them."""

    def __init__(self, index: LogIndex, lines: Lines) -> None:
        self._index = index
        self._lines = lines

    def of(self, rest: LogState, written: Iterable[Written]) -> Sketch:
        """A sketch as it was kept. Raises IndexError for another log's."""
        subjects = self._index.subject_of
        return Sketch(rest, {subjects[one.n - 1]: one for one in written})

    def advanced(self, before: Sketch, until: int) -> Sketch:
        """The sketch at a later moment."""
        after = before.rest.n
        found = self._index.lasting(after, until)
        rest = fold_part(before.rest, self._events(sorted(found.others)))
        written = dict(before.written)
        odd = {subject for subject, n in found.deleted.items() if _is_unreadable(self._event(n))}
        for subject, n in found.written.items():
            if found.deleted.get(subject) == n:
                written.pop(subject, None)
                continue
            created, earlier = self._index.created_by[n - 1], before.written.get(subject)
            if created == n:
                written[subject] = Written(n)
            elif created <= after and earlier is not None and earlier.created is not None:
                written[subject] = Written(n, earlier.created)
            elif created > after or (earlier is not None and earlier.n == created):
                event = self._event(created)
                written[subject] = Written(n, ref(event))
                if _is_unreadable(event):
                    odd.add(subject)
            else:
                odd.add(subject)
        for subject in odd:
            rest, stored = self._alone(rest, subject, until)
            written.pop(subject, None)
            if stored is not None:
                written[subject] = Written(stored.last.n, stored.created)
        return Sketch(self._at(rest, until), written)

    def state(self, sketch: Sketch) -> LogState:
        """The state that is sketched."""
        rest, zone = sketch.rest, "" if self._index.origin == GLOBAL else self._index.origin
        found: dict[ResourceKey, Stored] = {}
        starts, lines = self._index.starts, self._lines
        for subject, one in sketch.written.items():
            event = decode_event(lines[starts[one.n - 1] : starts[one.n] - 1])
            change = event.change
            if isinstance(change, ResourceApplied):
                key = key_of(change.resource, zone)
                cited = EventRef(event.origin, event.n, event.id, event.time, event.actor)
                found[key] = Stored(key, change.resource, one.created or cited, cited)
            else:
                rest, stored = self._alone(rest, subject, rest.n)
                if stored is not None:
                    found[stored.key] = stored
        kinds: dict[str, dict[ResourceKey, Stored]] = {}
        for key, stored in found.items():
            kinds.setdefault(key.kind, {})[key] = stored
        return msgspec.structs.replace(
            rest,
            resources=rest.resources.update(found),
            kinds=rest.kinds.update({kind: Map(members) for kind, members in kinds.items()}),
        )

    def _alone(self, rest: LogState, subject: int, until: int) -> tuple[LogState, Stored | None]:
        """A resource by all events about it, and the rest with those that cannot be read."""
        about = map(subject.__eq__, self._index.subject_of[:until])
        alone = fold_part(LogState(rest.origin), self._events(compress(range(1, until + 1), about)))
        unread = {n: why for n, why in alone.unread.items() if (rest.origin, n) not in rest.skipped}
        rest = msgspec.structs.replace(
            rest, unread=rest.unread.update(unread), skipped=Map({**alone.skipped, **rest.skipped})
        )
        return rest, next(iter(alone.resources.values()), None)

    def _at(self, rest: LogState, n: int) -> LogState:
        """The rest, its last event being n, which may be one that it does not hold."""
        if rest.n == n:
            return rest
        last = decode_envelope(self._lines[self._index.starts[n - 1] : self._index.starts[n] - 1])
        time, seen = max(rest.time, last.time), max(rest.seen, last.seen)
        return msgspec.structs.replace(
            rest, n=n, head=event_hash(last), incarnation=last.incarnation, time=time, seen=seen
        )

    def _events(self, numbers: Iterable[int]) -> list[Event]:
        starts, lines = self._index.starts, self._lines
        return [decode_event(lines[starts[n - 1] : starts[n] - 1]) for n in numbers]

    def _event(self, n: int) -> Event:
        (event,) = self._events((n,))
        return event


def _is_unreadable(event: Event) -> bool:
    return isinstance(event.change, Unreadable)
