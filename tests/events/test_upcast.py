"""Upcasters: any number of earlier schemas is read as today's. There is one schema yet, so the tests make theirs up."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import Event, Unreadable, decode_event, encode_event
from shared.events.fold import check, fold, fold_all
from shared.events.state import LogState
from shared.events.upcast import CURRENT, NoUpcaster, Schema
from tests.events.changes import east_log, logs

NEWEST = 4


def _older(change: dict[str, Any], v: int) -> dict[str, Any]:
    """What a program of schema v would have written: fields nested, then renamed, then a type spelled otherwise."""
    if v < 4:
        change = {"type": change["type"], "fields": {key: one for key, one in change.items() if key != "type"}}
    if v < 3:
        change = {"type": change["type"], "with": change["fields"]}
    if v < 2:
        change = {"kind": change["type"], "with": change["with"]}
    return change


def _one(change: dict[str, Any]) -> dict[str, Any]:
    return {"type": change.pop("kind"), **change}


def _two(change: dict[str, Any]) -> dict[str, Any]:
    return {"type": change["type"], "fields": change["with"]}


def _three(change: dict[str, Any]) -> dict[str, Any]:
    return {"type": change["type"], **change["fields"]}


MADE_UP = Schema(NEWEST, {1: _one, 2: _two, 3: _three})


def _line(event: Event, v: int) -> bytes:
    """The event as it was written in schema v; its hashes are those of what it held then."""
    plain = msgspec.json.decode(encode_event(event))
    return msgspec.json.encode(plain | {"v": v, "change": _older(plain["change"], v)})


@settings(max_examples=40, deadline=None)
@given(logs, st.data())
def test_a_log_of_mixed_schemas_folds_as_one_of_todays(made: list[Any], data: st.DataObject) -> None:
    """Each event may be of any schema: what the log amounts to is the same but for the hash that ends it."""
    events = east_log(made).events
    seen = [data.draw(st.integers(1, NEWEST)) for _ in events]
    read = [decode_event(_line(event, v), MADE_UP) for event, v in zip(events, seen, strict=True)]
    assert [event.change for event in read] == [event.change for event in events]
    assert [event.v for event in read] == seen, "the header is what was hashed, and stays"
    ours, theirs = fold_all(LogState("east"), events), fold_all(LogState("east"), read)
    assert msgspec.structs.replace(theirs, head=ours.head) == ours


@given(st.integers(1, NEWEST), st.integers(1, NEWEST))
def test_upcasting_in_steps_is_upcasting_at_once(v: int, between: int) -> None:
    """v to w, then w to the newest, for every w."""
    change = {"type": "ResourceDeleted", "key": {"kind": "Mesh"}}
    middle = max(v, between)
    half = Schema(middle, MADE_UP.upcasters).upcast(_older(change, v), v)
    assert half == _older(change, middle)
    assert MADE_UP.upcast(half, middle) == MADE_UP.upcast(_older(change, v), v) == change


def test_what_no_upcaster_reads_is_unreadable() -> None:
    """A schema before the first, one whose upcaster fails, and one of a later program: each with its reason."""
    (event,) = east_log([]).append(_any())
    with pytest.raises(NoUpcaster, match="schema 0"):
        MADE_UP.upcast({}, 0)
    for v, reason in ((0, "nothing reads schema 0"), (2, "schema 2"), (9, "schema 9, this program reads up to 4")):
        plain = msgspec.json.decode(encode_event(event)) | {"v": v}
        found = decode_event(msgspec.json.encode(plain), MADE_UP)
        assert isinstance(found.change, Unreadable)
        assert reason in found.change.reason
        assert not found.change.skippable
    later = msgspec.structs.replace(event, v=CURRENT.version + 1)
    assert isinstance(decode_event(encode_event(later)).change, Unreadable)


def test_an_older_event_is_no_fault_of_the_chain() -> None:
    """Its payload is not the one that was hashed any more; its header is."""
    log = east_log([_any()])
    old = msgspec.structs.replace(log.events[0], v=0)
    assert check(LogState("east"), old) is None
    assert fold(LogState("east"), old).n == 1


@pytest.mark.parametrize("mark, skippable", [(b"", False), (b',"skippable":true', True), (b',"skippable":1', False)])
def test_a_change_says_of_itself_that_it_may_be_passed_over(mark: bytes, skippable: bool) -> None:
    """Whoever does not know its type reads that mark all the same."""
    (event,) = east_log([]).append(_any())
    plain = msgspec.json.decode(encode_event(event), type=dict[str, msgspec.Raw])
    plain["change"] = msgspec.Raw(b'{"type":"OfALaterProgram"%s}' % mark)
    change = decode_event(msgspec.json.encode(plain)).change
    assert isinstance(change, Unreadable)
    assert change.skippable is skippable


def _any() -> Any:
    from tests.builders import settings as zone_settings

    return zone_settings()
