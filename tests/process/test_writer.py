"""The writer of an origin's log: durable before folded, and never two truths."""

from __future__ import annotations

import pytest

from shared.events.fold import fold_all
from shared.events.log import Conflict, LogUnavailable
from shared.events.state import LogState
from shared.process.writer import LogWriter, event_time
from tests.builders import LogBuilder, applied, at, mesh
from tests.process.failing_log import LOST, REFUSED, FailingLog

pytestmark = pytest.mark.anyio


def writer(log: FailingLog, *, now: str = at(0)) -> LogWriter:
    return LogWriter(log, LogState(origin="global"), clock=lambda: now)


async def test_what_is_committed_is_in_the_log_and_in_the_state() -> None:
    """Append, then fold; preparing writes nothing, committing nothing writes nothing."""
    log = FailingLog()
    one = writer(log)
    events = one.prepare([applied(mesh("a")), applied(mesh("b"))], actor="ann", cause="c")
    assert (one.state.n, log.events) == (0, [])
    await one.commit(())
    assert log.appends == 0
    await one.commit(events)
    assert one.state == fold_all(LogState(origin="global"), log.events)
    assert [(event.n, event.actor, event.cause) for event in log.events] == [(1, "ann", "c"), (2, "ann", "c")]


async def test_time_never_runs_backwards() -> None:
    """A clock that was set back gives the moment just after the last event: no two writes have one time."""
    log = FailingLog()
    early = writer(log, now=at(100))
    await early.commit(early.prepare([applied(mesh("a"))], actor="ann"))
    late = writer(log, now=at(50))
    await late.catch_up()
    (event,) = late.prepare([applied(mesh("b"))], actor="ann")
    assert event.time == at(100.000001)


async def test_a_conflict_catches_up_and_is_raised() -> None:
    """Who came second has folded what it missed when it is told, and can decide anew."""
    log = FailingLog()
    one, other = writer(log), writer(log)
    mine = one.prepare([applied(mesh("mine"))], actor="ann")
    await other.commit(other.prepare([applied(mesh("theirs"))], actor="bob"))
    with pytest.raises(Conflict):
        await one.commit(mine)
    assert one.state == other.state
    assert {key.name for key in one.state.resources} == {"theirs"}


@pytest.mark.parametrize("fault, written", [(REFUSED, 0), (LOST, 1)])
async def test_what_was_not_acknowledged_is_not_folded(fault: str, written: int) -> None:
    """The state stays; the same events can be committed again, whether the log has them or not."""
    log = FailingLog()
    log.faults = [fault]
    one = writer(log)
    events = one.prepare([applied(mesh("a"))], actor="ann")
    with pytest.raises(LogUnavailable):
        await one.commit(events)
    assert (one.state.n, len(log.events)) == (0, written)
    await one.commit(events)
    assert (one.state.n, len(log.events)) == (1, 1)


async def test_catching_up_folds_only_what_is_new() -> None:
    """Twice is as once."""
    log = FailingLog()
    builder = LogBuilder()
    await log.append(builder.append(applied(mesh("a"))))
    one = writer(log)
    await one.catch_up()
    state = one.state
    await one.catch_up()
    assert one.state is state
    assert state == builder.state


def test_event_time_is_utc_with_microseconds() -> None:
    """Sorted as text it is sorted as time."""
    times = [event_time() for _ in range(3)]
    assert times == sorted(times)
    assert all(len(time) == len("2026-01-01T00:00:00.000000Z") and time.endswith("Z") for time in times)
