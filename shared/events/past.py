"""The past of one log: any of its events, and its state at any of them, without reading all the others.

Pure. The encoded events, the index over them and the checkpoints may come from anywhere; the state at n is the fold of
the nearest state known before it (in memory, or a checkpoint that the log's own chain confirms) and of the events
since then that left a trace.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import compress
from typing import Protocol

from shared.events.checkpoint import CheckpointFault, decode_checkpoint, encode_checkpoint
from shared.events.event import (
    NO_HASH,
    Envelope,
    Event,
    EventSkipped,
    HostnameClaimed,
    HostnameQuarantined,
    ProxyConnected,
    Unreadable,
    VipLeased,
    VipQuarantined,
    decode_envelope,
    decode_event,
    encode_event,
    event_hash,
)
from shared.events.fold import fold_all, fold_part
from shared.events.index import STRIDE, Lines, LogIndex, mark
from shared.events.search import Wanted, found
from shared.events.sketch import Sketch, Sketcher
from shared.events.state import LogState

_SKIPPED = str(EventSkipped.__struct_config__.tag)
STATES_LIMIT = 4
"""States that are held in memory for the next question. One of 10,000 resources takes some 25 MB."""

NEAR_STRIDES = 2
"""Strides of events that are folded once more so that two states share what stayed."""


class Checkpoints(Protocol):
    """Where checkpoints of one log are kept. Losing them costs time only."""

    def places(self) -> Sequence[int]:
        """The n of each."""
        ...

    def load(self, n: int) -> bytes | None:
        """The one at n, if it is still there."""
        ...

    def save(self, n: int, data: bytes) -> None:
        """Keep one, if there is room."""
        ...

    def drop(self, n: int) -> None:
        """Forget one that is of no use."""
        ...


class PastLog:
    """One origin's log up to its end. Event n is `event(n)` for 1 <= n <= len(log). `stride`: of checkpoints."""

    def __init__(
        self, index: LogIndex, lines: Lines, checkpoints: Checkpoints | None = None, *, stride: int = STRIDE
    ) -> None:
        self.origin = index.origin
        self._stride = stride
        self.index = index
        self._lines = lines
        self._checkpoints = checkpoints
        self._states: OrderedDict[int, LogState] = OrderedDict()
        self._let_go: list[object] = []
        self._laid = False
        self._tombstones: tuple[int, dict[tuple[str, int], str]] | None = None

    @classmethod
    def of(cls, origin: str, events: Sequence[Event]) -> PastLog:
        """A log in memory."""
        encoded = [encode_event(event) for event in events]
        index = LogIndex(origin)
        index.extend(encoded)
        return cls(index, b"".join(line + b"\n" for line in encoded))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lines(self) -> Lines:
        """The encoded events."""
        return self._lines

    @property
    def numbers(self) -> range:
        """The n of every event."""
        return range(1, len(self) + 1)

    def raw(self, n: int) -> bytes:
        """Event n as it stands in the log. Raises IndexError."""
        if not 1 <= n <= len(self):
            raise IndexError(f"{self.origin} has no event {n}")
        starts = self.index.starts
        return self._lines[starts[n - 1] : starts[n] - 1]

    def envelope(self, n: int) -> Envelope:
        """Event n without its change. Raises IndexError."""
        return decode_envelope(self.raw(n))

    def event(self, n: int) -> Event:
        """Event n. Raises IndexError."""
        return decode_event(self.raw(n))

    def before(self, n: int) -> Event | None:
        """The event before n about the same thing; None where n is the first."""
        at = self.index.before([n]).get(n)
        return None if at is None else self.event(at)

    def events(self, after: int = 0, until: int | None = None) -> Iterator[Event]:
        """Events with after < n <= until, in order."""
        for n in range(after + 1, (len(self) if until is None else min(until, len(self))) + 1):
            yield self.event(n)

    def find(self, wanted: Wanted, *, newest_first: bool = False) -> Iterator[int]:
        """The n of every event that is wanted; of those that may be, only facts about resources are decoded."""
        return found(self.index, wanted, self._holder, newest_first=newest_first)

    def _holder(self, n: int) -> tuple[str, str, str]:
        """Mesh, kind and name of the resource that a fact is about."""
        change = self.event(n).change
        match change:
            case VipLeased() | VipQuarantined() | HostnameClaimed() | HostnameQuarantined() | ProxyConnected():
                return change.key.mesh, change.key.kind, change.key.name
            case _:
                return "", "", ""

    def of_id(self, identifier: str) -> int | None:
        """The n of the event with an id; None when it is not in this log."""
        return next(
            (n for n in self._marked(self.index.id_of, {identifier}) if self.envelope(n).id == identifier), None
        )

    def caused_by(self, ids: Collection[str], after: int = 0) -> Iterator[int]:
        """The n of every event after `after` whose cause is one of `ids`."""
        return (n for n in self._marked(self.index.cause_of, ids, after) if self.envelope(n).cause in ids)

    def _marked(self, column: Sequence[int], ids: Collection[str], after: int = 0) -> Iterator[int]:
        marks = {mark(one) for one in ids}
        return compress(range(after + 1, len(self) + 1), map(marks.__contains__, column[after:]))

    def tombstones(self) -> dict[tuple[str, int], str]:
        """Which events, by origin and sequence, are passed over by whom this log tells so, and why."""
        if self._tombstones is None or self._tombstones[0] != len(self):
            kind = self.index.changes.get(_SKIPPED)
            chosen = map(kind.__eq__, self.index.change_of) if kind is not None else ()
            changes = (self.event(n).change for n in compress(self.numbers, chosen))
            self._tombstones = len(self), {one.skips: one.reason for one in changes if isinstance(one, EventSkipped)}
        return self._tombstones[1]

    def before_seen(self, g: int) -> int:
        """The last event that was written before global's event g was seen."""
        return bisect_left(self.numbers, g, key=lambda n: self.envelope(n).seen)

    def before_time(self, time: str) -> int:
        """The last event before a time (as events carry it)."""
        return bisect_left(self.numbers, time, key=lambda n: self.envelope(n).time)

    def up_to_time(self, time: str) -> int:
        """The last event that is not after a time."""
        return bisect_right(self.numbers, time, key=lambda n: self.envelope(n).time)

    def head(self, n: int) -> str:
        """Hash of event n: what the log's chain says its state at n must name."""
        if not n:
            return NO_HASH
        return self.envelope(n + 1).prev if n < len(self) else event_hash(self.envelope(n))

    def state(self, n: int) -> LogState:
        """The fold of the first n events. Raises IndexError."""
        if not 0 <= n <= len(self):
            raise IndexError(f"{self.origin} has no event {n}")
        if not self._laid:
            self._laid = True
            self._lay_checkpoints()
        held = max((place for place in self._states if place <= n), default=0)
        if held and n - held <= self._near(self._states[held]):
            # As quick as a checkpoint, and it shares with the state that is held all that did not change since.
            return self._remember(self._on(self._states[held], n))
        sketch = self._sketch(held, n)
        if sketch is None and held:
            return self._remember(self._on(self._states[held], n))
        sketcher, base = self._sketcher, sketch or self._nothing
        later = sketcher.advanced(base, n)
        self._let_go += (base, later)
        return self._remember(sketcher.state(later))

    def state_after(self, before: LogState, n: int) -> LogState:
        """The same, made from an earlier state of this log where that is near: all that did not change since is the
        very same object in both, which comparing them hangs on. Raises IndexError.
        """
        if not before.n < n <= len(self) or n - before.n > NEAR_STRIDES * self._stride:
            return self.state(n)
        return self._remember(self._on(before, n))

    def grown(self, lines: Lines) -> None:
        """Tell that the index has grown, and where the lines stand now."""
        self._lines = lines
        self._laid = False

    @property
    def _sketcher(self) -> Sketcher:
        return Sketcher(self.index, self._lines)

    @property
    def _nothing(self) -> Sketch:
        return Sketch(LogState(origin=self.origin), {})

    def _lay_checkpoints(self) -> None:
        """Add those that are missing, so that no question has many more events to fold."""
        if self._checkpoints is None:
            return
        sketch = self._sketch(0, len(self)) or self._nothing
        while (place := self.index.next_checkpoint(sketch.rest.n, self._stride)) is not None:
            sketch = self._sketcher.advanced(sketch, place)
            self._checkpoints.save(place, encode_checkpoint(sketch.rest, sketch.written.values()))

    def _near(self, state: LogState) -> int:
        # To read a checkpoint takes about as long as to fold half of what it holds.
        size = len(state.resources) + len(state.vips) + len(state.claims) + len(state.proxies)
        return max(self._stride, size // 2)

    def _sketch(self, after: int, until: int) -> Sketch | None:
        """That of the last checkpoint with after < n <= until."""
        if (kept := self._checkpoints) is not None:
            for place in sorted(kept.places(), reverse=True):
                if after < place <= until and (sketch := self._confirmed(kept, place)) is not None:
                    return sketch
        return None

    def _confirmed(self, kept: Checkpoints, place: int) -> Sketch | None:
        """The checkpoint at `place`, if the chain of this log goes on from there."""
        data = kept.load(place)
        if data is None:
            return None
        with suppress(CheckpointFault):
            rest, written = decode_checkpoint(data)
            if (rest.origin, rest.n, rest.head) == (self.origin, place, self.head(place)):
                self._let_go.append(written)
                return self._sketcher.of(rest, written)
        kept.drop(place)
        return None

    def tidy(self) -> None:
        """Free what the last answers have left over: it takes a quarter of the time of an answer, so it waits till now,
        or for STATES_LIMIT more answers.
        """
        self._let_go.clear()

    def _on(self, state: LogState, n: int) -> LogState:
        """Fold what came after `state` up to n."""
        kept = self.index.survivors(state, n)
        starts, lines = self.index.starts, self._lines
        events = [decode_event(lines[starts[number - 1] : starts[number] - 1]) for number in kept]
        if len(kept) < n - state.n and any(isinstance(one.change, Unreadable) and one.subject for one in events):
            # What such a change would have overtaken stands after all.
            return fold_all(state, self.events(state.n, n))
        after = fold_part(state, events)
        self._let_go += (state, events)
        return after

    def _remember(self, state: LogState) -> LogState:
        self._states[state.n] = state
        self._states.move_to_end(state.n)
        if len(self._states) > STATES_LIMIT:
            self._let_go.append(self._states.popitem(last=False))
        if len(self._let_go) > 3 * STATES_LIMIT:
            self.tidy()
        return state
