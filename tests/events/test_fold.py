"""The fold, the chain and the subjects."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.compose import compose
from shared.events.event import (
    GLOBAL,
    Change,
    Event,
    LogRestored,
    ProxyConnected,
    ProxyDisconnected,
    VipReleased,
    decode_event,
    encode_event,
)
from shared.events.fold import check, fold, fold_all
from shared.events.state import LogState
from shared.events.subject import escape, subject_for, unescape
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, applied, at, deleted, mes, mesh, service_key
from tests.events.changes import east_log, logs


@settings(max_examples=80, deadline=None)
@given(logs, st.integers(0, 30))
def test_head_and_tail_give_what_the_whole_gives(history: list[Change], cut: int) -> None:
    """A checkpoint plus the tail is the whole log, one by one or in bulk."""
    log = east_log(history)
    head = fold_all(LogState("east"), log.events[:cut])
    assert fold_all(head, log.events[cut:]) == log.state
    assert fold_all(LogState("east"), log.events) == log.state


@settings(max_examples=80, deadline=None)
@given(logs, st.data())
def test_redelivery_is_harmless(history: list[Change], data: st.DataObject) -> None:
    """An event that was folded already changes nothing: the state is the same object."""
    log = east_log(history)
    state = LogState("east")
    for event in log.events:
        state = fold(state, event)
        again = data.draw(st.sampled_from(log.events[: state.n]))
        assert check(state, again) is None
        assert fold(state, again) is state
        assert fold_all(state, [again, again]) is state
    assert state == log.state


@settings(max_examples=50, deadline=None)
@given(logs)
def test_events_survive_the_log(history: list[Change]) -> None:
    """What is read back is what was written, and folds the same."""
    log = east_log(history)
    read = [decode_event(encode_event(event)) for event in log.events]
    assert read == log.events
    assert fold_all(LogState("east"), read) == log.state


def _two() -> tuple[LogState, Event, Event]:
    log = LogBuilder()
    first, second = log.append(applied(mesh()), applied(mes()))
    return fold(LogState(GLOBAL), first), first, second


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("origin", {"origin": "east"}),
        ("gap", {"n": 3}),
        ("prev", {"prev": "0" * 64}),
        ("payload", {"payload_hash": "0" * 64}),
        ("payload", {"change": applied(mes("other"))}),
        ("incarnation", {"incarnation": "another"}),
        ("incarnation", {"incarnation": ""}),
        ("seen", {"seen": 1}),
    ],
)
def test_an_event_that_does_not_continue_the_chain_is_named(kind: str, fields: dict[str, object]) -> None:
    """Each rule of the chain is checked on its own."""
    state, _, second = _two()
    fault = check(state, msgspec.structs.replace(second, **fields))
    assert fault is not None
    assert fault.kind == kind


def test_another_event_at_the_same_place_is_a_fork() -> None:
    """A hub that was rolled back and went on differently is noticed at the last event."""
    state, first, _ = _two()
    fault = check(state, msgspec.structs.replace(first, actor="somebody else"))
    assert fault is not None
    assert fault.kind == "fork"


def test_a_restored_log_begins_an_incarnation() -> None:
    """LogRestored continues the chain with an incarnation of its own; a reader that knew more sees a fork."""
    log = LogBuilder()
    log.append(applied(mesh()), applied(mes("a")), applied(mes("b")))
    kept = fold_all(LogState(GLOBAL), log.events[:2])
    (restored,) = compose(kept, [LogRestored(lost_from=2, lost_to=3)], ids=["restore"], time=at(9), actor="ops")
    assert check(kept, restored) is None
    after = fold(kept, restored)
    assert after.incarnation == "restore" != kept.incarnation
    fault = check(log.state, restored)
    assert fault is not None
    assert fault.kind == "fork"


def test_folding_after_a_gap_is_a_programming_error() -> None:
    """The reader checks; the fold refuses to guess."""
    _, _, second = _two()
    with pytest.raises(ValueError, match="cannot be folded"):
        fold(LogState(GLOBAL), second)


def test_a_resource_remembers_its_creation() -> None:
    """`created` stays while the resource lives and is new after a delete."""
    log = LogBuilder()
    log.append(applied(mes()), applied(mes(port=81)))
    stored = log.state.resources[service_key()]
    assert (stored.created.n, stored.last.n) == (1, 2)
    log.append(deleted(mes()), applied(mes()))
    assert log.state.resources[service_key()].created.n == 4
    assert log.state.kinds["MeshExternalService"] == log.state.resources


def test_only_the_latest_connection_takes_a_proxy_offline() -> None:
    """A proxy that reconnected stays online when its former stream ends."""
    log = LogBuilder("east")
    key = ResourceKey("Dataplane", "default", "web-1", "east")
    log.append(ProxyConnected(proxy="p", key=key, connection="1"), ProxyConnected(proxy="p", key=key, connection="2"))
    log.append(ProxyDisconnected(proxy="p", connection="1"))
    assert log.state.proxies["p"].online
    log.append(ProxyDisconnected(proxy="p", connection="2"))
    assert not log.state.proxies["p"].online


@given(st.text(max_size=20))
def test_names_become_subject_tokens_and_come_back(name: str) -> None:
    """The escape is reversible and leaves nothing that NATS gives a meaning."""
    token = escape(name)
    assert unescape(token) == name
    assert token
    assert not set(token) & set(".*> \t\r\n\0")
    assert token.isascii()


def test_subjects_are_readable() -> None:
    """One subject per resource, lease, name and proxy."""
    assert subject_for(GLOBAL, applied(mes())) == "mesh.v1.default.MeshExternalService.payments"
    assert subject_for(GLOBAL, applied(mesh())) == "mesh.v1._.Mesh.default"
    assert subject_for("east", deleted(mes(), "east")) == "zone.v1.east.default.MeshExternalService.payments"
    assert subject_for("east", VipReleased(ip="242.0.0.5")) == "zone.v1.east._.Vip.242=2E0=2E0=2E5"
