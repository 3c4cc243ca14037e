"""Poison: an event whose change cannot be read stops nobody, and the log says that it was skipped."""

from __future__ import annotations

import msgspec
import pytest

from shared.events.event import EventSkipped, Unreadable, ZoneSettingsChanged, decode_event, encode_event, event_hash
from shared.events.fold import check, fold, fold_all
from shared.events.state import LogState, ZoneState
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


def test_folding_skips_it_and_goes_on() -> None:
    """State holds what came before and after, and that event 2 was skipped; nothing is a fault of the chain."""
    state = LogState(origin="global")
    events = [decode_event(one) for one in _poisoned()]
    for event in events:
        assert check(state, event) is None
        state = fold(state, event)
    assert {key.name for key in state.resources} == {"first", "third"}
    assert set(state.skipped) == {("global", 2)}
    assert state == fold_all(LogState(origin="global"), events)


def test_a_zone_records_what_it_skipped_once() -> None:
    """Deciding about it gives one EventSkipped; deciding again about the folded result gives nothing."""
    hub = fold_all(LogState(origin="global"), [decode_event(one) for one in _poisoned()[:2]])
    poison = decode_event(_poisoned()[1])
    own = LogState(origin="east", settings=SETTINGS)
    changes = decide(ZoneState("east", hub, own), poison, SETTINGS)
    assert [type(one) for one in changes] == [EventSkipped]
    again = msgspec.structs.replace(own, skipped=own.skipped.set(("global", 2), "seen"))
    assert decide(ZoneState("east", hub, again), poison, SETTINGS) == ()


def test_what_is_no_envelope_is_refused() -> None:
    """Bytes that are not an event at all raise: the chain's reader refuses them before anybody folds."""
    with pytest.raises(msgspec.ValidationError):
        decode_event(b'{"id":"x"}')
