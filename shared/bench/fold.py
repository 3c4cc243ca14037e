"""How fast a log is folded, beside how fast its events can be read and decoded at all."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from shared.bench.services import service
from shared.events.compose import compose
from shared.events.event import (
    GLOBAL,
    Change,
    Event,
    ResourceApplied,
    ResourceDeleted,
    decode_event,
    encode_event,
    event_hash,
)
from shared.events.fold import fold_all
from shared.events.state import LogState
from shared.model.labels import computed
from shared.model.resource import key_of
from shared.process.collector import collector_paused

EVENTS = 100_000
SERVICES = 10_000
ROUNDS = 3
"""The best of so many: what disturbs a computation only makes it slower."""
STEPS = 1 + ROUNDS
_TIME = "2026-01-01T00:00:00.000000Z"


def measure(step: Callable[[int], None]) -> tuple[float, float]:
    """Events per second: folded, and only read and decoded. `step` is told what is done, of `STEPS`."""
    with tempfile.TemporaryDirectory(prefix="zonal-bench-") as place:
        path = Path(place) / "events"
        with path.open("wb") as out:
            for event in _log(EVENTS):
                out.write(encode_event(event) + b"\n")
        step(1)
        folded = decoded = 0.0
        for _ in range(ROUNDS):
            decoded = max(decoded, EVENTS / _seconds(_decode, path))
            folded = max(folded, EVENTS / _seconds(_fold, path))
            step(1)
    return folded, decoded


def _seconds(work: Callable[[Path], None], path: Path) -> float:
    with collector_paused():  # as every replay of the product does
        started = time.perf_counter()
        work(path)
        return time.perf_counter() - started


def _decode(path: Path) -> None:
    with path.open("rb") as lines:
        for line in lines:
            decode_event(line)


def _fold(path: Path) -> None:
    with path.open("rb") as lines:
        state = fold_all(LogState(origin=GLOBAL), map(decode_event, lines))
    if state.n != EVENTS:
        raise RuntimeError(f"{state.n} of {EVENTS} events were folded")


def _log(count: int) -> Iterator[Event]:
    """A log of services that are made, moved again and again, and now and then deleted."""
    state = LogState(origin=GLOBAL)
    changes = islice(_changes(), count)
    while batch := tuple(islice(changes, 1000)):
        ids = tuple(uuid.uuid4().hex for _ in batch)
        events = compose(state, batch, ids=ids, time=_TIME, actor="bench")
        yield from events
        # Composing needs the end of the chain only, not what the events amount to.
        last = events[-1]
        state = LogState(origin=GLOBAL, n=last.n, head=event_hash(last), incarnation=last.incarnation, time=_TIME)


def _changes() -> Iterator[Change]:
    turn = 0
    while True:
        for number in range(SERVICES):
            one = computed(service(number, turn), "")
            if turn and (number + turn) % 20 == 0:
                yield ResourceDeleted(key=key_of(one, ""))
            yield ResourceApplied(resource=one)
        turn += 1
