"""An index over one log: what each event is about, who wrote it and what it is, without keeping any of it decoded.

Pure. One column per question, one entry per event; texts stand once and are meant by number, so that a million
events take some twenty megabytes and a question is a walk over numbers.

`survivors` is what makes an as-of query cheap. Most events of a long log were overtaken by a later one about the same
thing. An apply of a resource leaves no trace once the resource is applied again, unless it created it or it may have
taken access from somebody (`narrowing`); what a proxy did before it connected last leaves none either. All other
events are kept: what they mean depends on their neighbours. The fold itself is the production one (`fold.fold_part`).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Sequence
from itertools import compress
from typing import NamedTuple, Protocol
from zlib import crc32

import msgspec

from shared.events import narrowing
from shared.events.state import LogState

FORMAT = 2
EVENTS_LIMIT = 2**32 - 1
CHANGES_LIMIT = 200
STRIDE = 7_000
"""Checkpoints stand at multiples of this after their base."""
OTHERS_PER_STRIDE = 2
"""With more events that no later one overtakes than a stride divided by this, a checkpoint is worth what it takes."""
SPAN_STRIDES = 5
"""At most so many lie between two checkpoints, however little there is to fold: the columns are walked as well."""

WITHHELD = "Withheld"
"""Type of the change of an event that its reader may not see (`reading`): nothing follows from it."""

_OTHER, _APPLIED, _DELETED, _CONNECTED, _DISCONNECTED, _NOTHING = range(6)
_CLASSES = {
    "ResourceApplied": _APPLIED,
    "ResourceDeleted": _DELETED,
    "ProxyConnected": _CONNECTED,
    "ProxyDisconnected": _DISCONNECTED,
    WITHHELD: _NOTHING,
}


class DamagedLog(Exception):
    """What stands at `n` is no event of this log."""

    def __init__(self, origin: str, n: int, reason: str) -> None:
        super().__init__(f"event {n} of {origin}: {reason}")
        self.origin = origin
        self.n = n


class _Typed(msgspec.Struct):
    type: str


class _Header(msgspec.Struct):
    """What is indexed of an event. Its field order is the event's."""

    id: str
    origin: str
    n: int
    seen: int
    time: str
    actor: str
    subject: str
    change: _Typed
    cause: str


class Lines(Protocol):
    """The encoded events, one after the other, a line feed behind each: bytes, or a mapped file."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Some of the bytes."""
        ...


class Lasting(NamedTuple):
    """Events of a part of a log that were not overtaken within it. others: to be folded. written: by its subject, what
    wrote or deleted a resource last; deleted: what deleted one last.
    """

    others: set[int]
    written: dict[int, int]
    deleted: dict[int, int]


class Image(msgspec.Struct, frozen=True, array_like=True):
    """An index as it is kept between processes: columns as bytes, texts in the order of their numbers."""

    format: int
    origin: str
    count: int
    ordered: bool
    first: str
    time: str
    seen: int
    subjects: list[str]
    actors: list[str]
    changes: list[str]
    subject_of: bytes
    actor_of: bytes
    change_of: bytes
    created_by: bytes
    id_of: bytes
    cause_of: bytes
    starts: bytes


_header_decoder = msgspec.json.Decoder(_Header)


def mark(identifier: str) -> int:
    """What an id is found by; 0 for no id."""
    return crc32(identifier.encode())


class Numbers(dict[str, int]):
    """Texts and the number each one got when it came first; `texts` holds them in that order."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.texts = list(texts)
        super().__init__((text, number) for number, text in enumerate(self.texts))

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self.texts)
        self.texts.append(text)
        return number


class LogIndex:
    """The columns of one origin's log. Event n's entry stands at n - 1; `starts` has one entry more.

    first is the id of the first event. ordered: neither time nor seen ever goes back, as in every log that Zonal wrote.
    created_by: for an event about a resource, the n of the event that created it (its own for a creation). id_of,
    cause_of: `mark` of the event's id and of its cause's; two ids may have one mark, so what is found is looked at.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.first = ""
        self.ordered = True
        self.subjects, self.actors, self.changes = Numbers(), Numbers(), Numbers()
        self.subject_of, self.actor_of, self.change_of = array("I"), array("I"), bytearray()
        self.created_by = array("I")
        self.id_of, self.cause_of = array("I"), array("I")
        self.starts = array("Q", (0,))
        self._time, self._seen = "", 0
        self._alive: dict[int, int] | None = {}
        self._accesses, self._told = set[int](), 0

    def __len__(self) -> int:
        return len(self.change_of)

    def extend(self, lines: Sequence[bytes]) -> None:
        """Take the next events, encoded; each will be followed by one more byte where it is kept. Raises DamagedLog."""
        headers = self._headers(lines)
        if not headers:
            return
        self.first = self.first or headers[0].id
        self.subject_of.extend([self.subjects[header.subject] for header in headers])
        self.actor_of.extend([self.actors[header.actor] for header in headers])
        changes = [self.changes[header.change.type] for header in headers]
        if len(self.changes) > CHANGES_LIMIT:
            raise DamagedLog(self.origin, len(self) + 1, f"more than {CHANGES_LIMIT} kinds of changes")
        self.change_of.extend(changes)
        self.id_of.extend([crc32(header.id.encode()) for header in headers])  # `mark`, a million times
        self.cause_of.extend([crc32(header.cause.encode()) for header in headers])
        start = self.starts[-1]
        ends = []
        for line in lines:
            start += len(line) + 1
            ends.append(start)
        self.starts.extend(ends)
        self._extend_created(len(headers))
        times = [header.time for header in headers]
        self.ordered = self.ordered and all(map(str.__le__, [self._time, *times], times))
        self._time = max(self._time, *times)

    def _headers(self, lines: Sequence[bytes]) -> list[_Header]:
        n = len(self)
        if n + len(lines) > EVENTS_LIMIT:
            raise DamagedLog(self.origin, n + 1, f"a log holds at most {EVENTS_LIMIT} events")
        headers = []
        for line in lines:
            n += 1
            try:
                header = _header_decoder.decode(line)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise DamagedLog(self.origin, n, f"not an event: {error}") from None
            if header.n != n or header.origin != self.origin:
                raise DamagedLog(self.origin, n, f"is event {header.n} of {header.origin}")
            if header.seen < self._seen:
                self.ordered = False
            self._seen = header.seen
            headers.append(header)
        return headers

    def _extend_created(self, count: int) -> None:
        """Column `created_by` of the newest `count` events."""
        applied, deleted = self.changes["ResourceApplied"], self.changes["ResourceDeleted"]
        if self._alive is None:
            self._alive = self._alive_at(len(self) - count)
        alive = self._alive
        created: list[int] = []
        n = len(self) - count
        for subject, change in zip(self.subject_of[n:], self.change_of[n:], strict=True):
            n += 1
            if change == applied:
                created.append(alive.setdefault(subject, n))
            elif change == deleted:
                created.append(alive.pop(subject, n))
            else:
                created.append(0)
        self.created_by.extend(created)

    def _alive_at(self, n: int) -> dict[int, int]:
        """Resources that exist after event n, by subject: the event that created each."""
        applied, deleted = self.changes["ResourceApplied"], self.changes["ResourceDeleted"]
        about = bytes(change in (applied, deleted) for change in range(256))
        chosen = self.change_of[:n].translate(about)
        last = dict(compress(zip(self.subject_of[:n], range(n), strict=True), chosen))
        return {subject: self.created_by[at] for subject, at in last.items() if self.change_of[at] == applied}

    # --- questions ----------------------------------------------------------------------------------------------

    def before(self, numbers: Collection[int]) -> dict[int, int]:
        """For events by n, the last one before it that is about the same; those that are the first have none."""
        waiting: dict[int, list[int]] = {}
        for n in sorted(numbers, reverse=True):
            waiting.setdefault(self.subject_of[n - 1], []).append(n)
        found: dict[int, int] = {}
        last = max(numbers, default=0)
        subjects = self.subject_of[:last]
        subjects.reverse()
        for n, subject in compress(zip(range(last, 0, -1), subjects, strict=True), map(waiting.__contains__, subjects)):
            asking = waiting[subject]
            while asking and asking[0] > n:
                found[asking.pop(0)] = n
            if not asking:
                del waiting[subject]
                if not waiting:
                    break
        return found

    def lasting(self, after: int, until: int) -> Lasting:
        """Which events with after < n <= until last: what was overtaken is not among them."""
        numbers = range(after + 1, until + 1)
        if not self.ordered or not numbers:
            return Lasting(set(numbers), {}, {})
        subjects, changes = self.subject_of[after:until], bytes(self.change_of[after:until])

        def chosen(*classes: int) -> bytes:
            return changes.translate(self._choice(classes))

        def last(*classes: int) -> dict[int, int]:
            return dict(compress(zip(subjects, numbers, strict=True), chosen(*classes)))

        others = set(compress(numbers, chosen(_OTHER)))
        written, deleted = last(_APPLIED, _DELETED), last(_DELETED)
        if access := self._access():
            others.update(compress(numbers, map(access.__contains__, subjects)))
            for subject in access:
                written.pop(subject, None)
                deleted.pop(subject, None)
        connected = last(_CONNECTED)
        others.update(connected.values())
        ends = compress(zip(subjects, numbers, strict=True), chosen(_DISCONNECTED))
        others.update(n for subject, n in ends if n > connected.get(subject, 0))
        return Lasting(others, written, deleted)

    def survivors(self, base: LogState, until: int) -> Sequence[int]:
        """The events after `base` and up to `until` that must be folded to know the state at `until`; it is the last.

        An overtaken change that nobody can read is not among them: it is missing in `LogState.skipped`, nowhere else.
        """
        after = base.n
        if not self.ordered or until <= after:
            return range(after + 1, until + 1)
        found = self.lasting(after, until)
        kept = found.others
        kept.update(found.written.values())
        kept.update(created for n in found.written.values() if (created := self.created_by[n - 1]) > after)
        kept.update(found.deleted.values())
        kept.add(until)
        return sorted(kept)

    def next_checkpoint(self, after: int, stride: int = STRIDE) -> int | None:
        """The first place after `after`, in strides, that many events must be folded for; None: not yet."""
        others = 0
        choice = self._choice((_OTHER,))
        for place in range(after + stride, len(self) + 1, stride):
            others += self.change_of[place - stride : place].translate(choice).count(1)
            if OTHERS_PER_STRIDE * others > stride or place - after >= SPAN_STRIDES * stride:
                return place
        return None

    def _access(self) -> set[int]:
        """Subjects whose every event is folded: what gives and takes access."""
        texts = self.subjects.texts
        for number in range(self._told, len(texts)):
            if texts[number].rsplit(".", 2)[-2:-1] in ([kind] for kind in narrowing.KINDS):
                self._accesses.add(number)
        self._told = len(texts)
        return self._accesses

    def _choice(self, classes: Iterable[int]) -> bytes:
        """A table for `translate`: 1 where a change's number belongs to one of `classes`."""
        wanted = set(classes)
        table = bytearray(256)
        for name, number in self.changes.items():
            table[number] = _CLASSES.get(name, _OTHER) in wanted
        return bytes(table)

    def without(self, hidden: Iterable[int]) -> LogIndex:
        """A copy in which the events `hidden` are withheld: neither what they are about nor who wrote them is in it."""
        index = LogIndex.restored(self.image())
        nobody, nothing, withheld = index.actors[""], index.subjects[""], index.changes[WITHHELD]
        for n in hidden:
            index.actor_of[n - 1], index.subject_of[n - 1], index.change_of[n - 1] = nobody, nothing, withheld
            index.cause_of[n - 1] = mark("")
        for numbers, column in ((index.actors, index.actor_of), (index.subjects, index.subject_of)):
            used = set(column)
            numbers.texts[:] = [text if number in used else "" for number, text in enumerate(numbers.texts)]
        index.actors, index.subjects = Numbers(index.actors.texts), Numbers(index.subjects.texts)
        return index

    # --- keeping ------------------------------------------------------------------------------------------------

    def image(self) -> Image:
        """What to keep."""
        return Image(
            FORMAT,
            self.origin,
            len(self),
            self.ordered,
            self.first,
            self._time,
            self._seen,
            self.subjects.texts,
            self.actors.texts,
            self.changes.texts,
            self.subject_of.tobytes(),
            self.actor_of.tobytes(),
            bytes(self.change_of),
            self.created_by.tobytes(),
            self.id_of.tobytes(),
            self.cause_of.tobytes(),
            self.starts.tobytes(),
        )

    @classmethod
    def restored(cls, image: Image) -> LogIndex:
        """The index that `image` was made of. Raises ValueError for one of another format, or with uneven columns."""
        if image.format != FORMAT:
            raise ValueError(f"the index has format {image.format}, this program reads {FORMAT}")
        index = cls(image.origin)
        index.first, index.ordered, index._time, index._seen = image.first, image.ordered, image.time, image.seen
        index.subjects, index.actors, index.changes = map(Numbers, (image.subjects, image.actors, image.changes))
        index.change_of = bytearray(image.change_of)
        index.starts = array("Q")
        for column, data in (
            (index.subject_of, image.subject_of),
            (index.actor_of, image.actor_of),
            (index.created_by, image.created_by),
            (index.id_of, image.id_of),
            (index.cause_of, image.cause_of),
            (index.starts, image.starts),
        ):
            column.frombytes(data)
        columns = (index.subject_of, index.actor_of, index.change_of, index.created_by, index.id_of, index.cause_of)
        if any(len(column) != image.count for column in columns) or len(index.starts) != image.count + 1:
            raise ValueError("the columns of the index are not of one length")
        index._alive = None
        return index
