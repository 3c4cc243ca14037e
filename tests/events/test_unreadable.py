"""Poison: who cannot read an event stops before it, until the log says that it may be passed over."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from shared.events.checkpoint import decode_checkpoint, encode_checkpoint
from shared.events.event import (
    Event,
    EventSkipped,
    Unreadable,
    ZoneSettingsChanged,
    decode_event,
    encode_event,
    event_hash,
)
from shared.events.fold import check, fold, fold_all
from shared.events.history import History, NoSuchMoment
from shared.events.reading import Reader, past_for
from shared.events.state import LogState, Position, ZoneState
from shared.events.stop import Held, NotSkipped, Stop, first_unread, readable, refuse_skip, tombstone
from tests.builders import LogBuilder, applied, mesh
from zone_cp.decide import decide

SETTINGS = ZoneSettingsChanged(cidr="242.0.0.0/8", quarantine_seconds=600, compiler="1")


def _poisoned() -> list[bytes]:
    log = LogBuilder()
    for name in ("first", "second", "third"):
        log.append(applied(mesh(name)))
    raw = [encode_event(event) for event in log.events]
    raw[1] = raw[1].replace(b'"ResourceApplied"', b'"OfALaterProgram"')
    return raw


def test_an_unknown_change_is_read_as_unreadable_with_the_hash_of_its_header() -> None:
    """The chain goes on behind it: its header, payload hash included, is what the next event's prev covers."""
    events = [decode_event(one) for one in _poisoned()]
    assert isinstance(events[1].change, Unreadable)
    assert "OfALaterProgram" in events[1].change.reason
    assert events[2].prev == event_hash(events[1])


def test_folding_passes_over_it_and_remembers() -> None:
    """State holds what came before and after, and that event 2 was not read; nothing is a fault of the chain."""
    state = LogState(origin="global")
    events = [decode_event(one) for one in _poisoned()]
    for event in events:
        assert check(state, event) is None
        state = fold(state, event)
    assert {key.name for key in state.resources} == {"first", "third"}
    assert set(state.unread) == {2}
    assert not state.skipped
    assert state == fold_all(LogState(origin="global"), events)
    stop = first_unread(state)
    assert stop is not None
    assert (stop.event, first_unread(state, {("global", 2): "why"})) == ("2", None)
    assert decode_checkpoint(encode_checkpoint(state)) == (state, [])


def test_a_tombstone_behind_it_lets_every_reader_of_the_log_pass() -> None:
    """What was not read is skipped then, with the operator's reason, however the log is cut into parts."""
    log = LogBuilder()
    for name in ("first", "second", "third"):
        log.append(applied(mesh(name)))
    log.append(tombstone("global", 2, "nobody needs it"))
    raw = [encode_event(event) for event in log.events]
    raw[1] = _poisoned()[1]
    events = [decode_event(one) for one in raw]
    whole = fold_all(LogState("global"), events)
    assert (dict(whole.skipped), dict(whole.unread)) == ({("global", 2): "nobody needs it"}, {})
    assert [readable(events[:until], {}) for until in range(1, 5)] == [1, 1, 1, 4]
    for cut in range(5):
        assert fold_all(fold_all(LogState("global"), events[:cut]), events[cut:]) == whole
        held = Held(lambda _: None)
        taken = held.take(0, events[:cut], {})
        taken += held.take(len(taken), events, {})
        assert taken == events


def test_a_tombstone_behind_another_stop_waits_with_it() -> None:
    """Nobody has the first event without its tombstone; what is told of is the one that has none."""
    log = LogBuilder()
    for name in ("first", "second", "third"):
        log.append(applied(mesh(name)))
    log.append(tombstone("global", 2, "why"), tombstone("global", 3, "why"))
    raw = [encode_event(event) for event in log.events]
    for n in (2, 3):
        raw[n - 1] = raw[n - 1].replace(b'"ResourceApplied"', b'"OfALaterProgram"')
    events = [decode_event(one) for one in raw]
    assert [readable(events[:until], {}) for until in range(1, 6)] == [1, 1, 1, 1, 5]
    assert readable(events[:4], {("global", 3): "why"}) == 4
    assert readable(events[:3], {("global", 2): "why"}) == 2
    told: list[Stop] = []
    held, taken, state = Held(told.append), list[Event](), LogState("global")
    for event in events:
        part = held.take(len(taken), [event], {})
        taken += part
        state = fold_all(state, part)
        assert first_unread(state) is None
    assert taken == events
    assert [stop.event for stop in told] == ["2", "3"]


def _history(*, skipped: bool) -> History:
    """Global's second event cannot be read, and may be passed over since its fourth."""
    log = LogBuilder()
    for name in ("first", "second", "third"):
        log.append(applied(mesh(name)))
    if skipped:
        log.append(tombstone("global", 2, "it was about mesh second"))
    raw = [encode_event(event) for event in log.events]
    raw[1] = raw[1].replace(b'"ResourceApplied"', b'"OfALaterProgram"')
    east = LogBuilder("east")
    east.append(SETTINGS, seen=len(raw))
    return History.of([decode_event(one) for one in raw], {"east": east.events})


def test_a_moment_behind_what_cannot_be_read_is_not_worked_out() -> None:
    """Those before it are. With a tombstone later in the log those behind it are too: a zone may have gone by them."""
    bare, skipped = _history(skipped=False), _history(skipped=True)
    for history in (bare, skipped):
        assert history.state("east", Position(1, 0)).hub.n == 1
    for g in (2, 3):
        with pytest.raises(NoSuchMoment, match="zonal skip 2"):
            bare.state("east", Position(g, 1))
        names = {key.name for key in skipped.state("east", Position(g, 1)).hub.resources}
        assert names == ({"first", "third"} if g == 3 else {"first"})


@pytest.mark.parametrize("limits", [{"meshes": frozenset({"first"})}, {"zones": frozenset({"east"})}])
def test_who_may_see_less_gets_by_as_well_and_learns_no_reason(limits: dict[str, frozenset[str]]) -> None:
    """A reason may quote what the event was about."""
    reader, history = Reader(**limits), _history(skipped=True)
    narrowed = History(past_for(reader, history.hub), {"east": past_for(reader, history.zones["east"])})
    assert narrowed.state("east", Position(4, 1)).hub.n == 4
    reasons = set(narrowed.hub.state(4).skipped.values())
    assert reasons == ({""} if reader.meshes else {"it was about mesh second"})


def test_what_is_held_is_told_once_and_handed_on_once() -> None:
    """Batches that come twice, or behind the stop, are held once; each stop is told of once."""
    told: list[Stop] = []
    held = Held(told.append)
    events = [decode_event(one) for one in _poisoned()]
    assert held.take(0, events[:2], {}) == events[:1]
    assert held.take(1, events, {}) == []
    assert [stop.event for stop in told] == ["2"]
    assert held.take(1, events[1:], {("global", 2): "why"}) == events[1:]
    assert held.stop is None
    assert held.take(3, events, {}) == []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_little_of_what_is_behind_a_stop_is_kept_and_nothing_is_lost(data: st.DataObject) -> None:
    """Whatever is poison, wherever tombstones stand: all is taken in the same parts as by who keeps everything."""
    log, count = LogBuilder(), data.draw(st.integers(5, 40))
    for number in range(count):
        skips = data.draw(st.integers(0, number)) if number else 0
        log.append(tombstone("global", skips, "why") if skips else applied(mesh(f"m{number}")))
    bad = data.draw(st.sets(st.integers(1, count)))
    raw = [encode_event(event) for event in log.events]
    for n in bad:
        raw[n - 1] = raw[n - 1].replace(b'"ResourceApplied"', b'"OfALaterProgram"')
    events = [decode_event(one) for one in raw]
    limit = data.draw(st.integers(1, 6))
    small, whole = Held(lambda _: None, limit=limit), Held(lambda _: None)
    at = reached = 0
    passed: dict[tuple[str, int], str] = {}
    while at < count:
        part = events[at : at + data.draw(st.integers(1, 8))]
        at += len(part)
        if data.draw(st.booleans()) and whole.stop is not None:
            passed["global", whole.stop.n] = "own"
        expected = whole.take(reached, part, passed)
        small.hold(reached, part)
        taken: list[Event] = []
        while True:
            while (lacking := small.lacking(reached + len(taken), passed)) is not None:
                small.fill(events[lacking[0] : lacking[1]])
            more = small.take(reached + len(taken), (), passed)
            taken += more
            if not more:
                break
        assert taken == expected
        reached += len(taken)
        assert small.stop == whole.stop
        stop = small.stop
        assert len(small) <= max(limit, 0 if stop is None else stop.n - reached)


def test_an_event_that_says_so_is_passed_over() -> None:
    """Whoever does not know it goes on, and the zone records once that it did."""
    raw = _poisoned()
    raw[1] = raw[1].replace(b'"type":"OfALaterProgram"', b'"type":"OfALaterProgram","skippable":true')
    events = [decode_event(one) for one in raw]
    assert readable(events, {}) == 3
    hub = fold_all(LogState(origin="global"), events[:2])
    assert set(hub.skipped) == {("global", 2)}
    own = LogState(origin="east", settings=SETTINGS)
    changes = decide(ZoneState("east", hub, own), events[1], SETTINGS)
    assert [type(one) for one in changes] == [EventSkipped]
    again = msgspec.structs.replace(own, skipped=own.skipped.set(("global", 2), "seen"))
    assert decide(ZoneState("east", hub, again), events[1], SETTINGS) == ()


def test_a_skip_is_of_what_stops() -> None:
    """Another event is not passed over by mistake."""
    stop = Stop("global", 2, "why")
    refuse_skip("zone east", "global", 2, [stop])
    with pytest.raises(NotSkipped, match="zone east stops before event 2"):
        refuse_skip("zone east", "global", 3, [stop])
    with pytest.raises(NotSkipped, match="event east:3 cannot be passed over here: global reads all events"):
        refuse_skip("global", "east", 3, [])


def test_what_is_no_envelope_is_refused() -> None:
    """Bytes that are not an event at all raise: the chain's reader refuses them before anybody folds."""
    with pytest.raises(msgspec.ValidationError):
        decode_event(b'{"id":"x"}')
