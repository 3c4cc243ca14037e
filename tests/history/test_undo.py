"""Undo: what an event changed is put back, what came later stays, and the undo of an undo is the same again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.decide import Decision, decide_write
from shared.events.event import GLOBAL, Change, DataKeyWrapped, Event, ResourceApplied, VipLeased
from shared.events.history import History
from shared.history.undo import CannotUndo, Undo, undo
from shared.model.resource import MeshExternalService, Resource, ResourceKey, Sealed, Secret
from tests.builders import LogBuilder, applied, deleted, mes, mesh, service_key

NAMES = ("a", "b", "c")


def _history(log: LogBuilder, zones: dict[str, Sequence[Event]] | None = None) -> History:
    return History.of(log.events, zones or {})


def _undone(log: LogBuilder, n: int, *, batch: bool = False) -> Undo:
    """Work an undo out and write it as a plane does."""
    found = undo(_history(log), GLOBAL, n, batch=batch)
    _write(log, found)
    return found


def _write(log: LogBuilder, found: Undo) -> None:
    assert not found.is_conflicting
    decision = decide_write([command for command, _ in found.writes()], log.state)
    assert isinstance(decision, Decision), decision
    if decision.changes:
        log.append(*decision.changes, seconds=log.seconds + 1, actor="undoer")


def _now(log: LogBuilder) -> dict[ResourceKey, Resource]:
    return {key: stored.resource for key, stored in log.state.resources.items()}


def _service(log: LogBuilder, name: str = "payments") -> MeshExternalService:
    found = _now(log)[service_key(name)]
    assert isinstance(found, MeshExternalService)
    return found


services = st.builds(
    lambda name, port, endpoints, team: mes(
        name, port=port, endpoints=tuple(f"203.0.113.{tail}:{8000 + tail}" for tail in endpoints), labels={"team": team}
    ),
    st.sampled_from(NAMES),
    st.sampled_from([80, 81]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
    st.sampled_from(["x", "y"]),
)
secrets = st.builds(
    lambda name, digest: Secret(
        name=name, mesh="default", sealed=Sealed(kid="k1", nonce="n", ciphertext=f"c{digest}", digest=digest)
    ),
    st.sampled_from(NAMES),
    st.sampled_from(["one", "two"]),
)
writes = st.lists(st.tuples(st.booleans(), st.one_of(services, secrets)), min_size=1, max_size=12)


def _written(history: list[tuple[bool, Resource]]) -> LogBuilder:
    log = LogBuilder()
    log.append(applied(mesh()), DataKeyWrapped(kid="k1", recipient=GLOBAL, wrapped="w"))
    for is_deletion, resource in history:
        change: Change = deleted(resource) if is_deletion else applied(resource)
        key = change.key if is_deletion else None  # type: ignore[union-attr]
        if key is None or key in log.state.resources:
            log.append(change, seconds=log.seconds + 1)
    return log


@settings(max_examples=300, deadline=None)
@given(writes, writes, st.data())
def test_the_undo_of_an_undo_is_the_same_again(
    history: list[tuple[bool, Resource]], later: list[tuple[bool, Resource]], data: st.DataObject
) -> None:
    """Of any event of any history, unless it conflicts, in which case nothing is to be written."""
    log = _written(history)
    n = data.draw(st.integers(3, max(3, len(log.events))))
    if n > len(log.events):
        return
    before = _now(log)
    found = undo(_history(log), GLOBAL, n)
    if found.is_conflicting:
        assert not found.writes()
        return
    _write(log, found)
    if not found.writes():
        assert _now(log) == before
        return
    again = undo(_history(log), GLOBAL, len(log.events))
    _write(log, again)
    assert _now(log) == before


@settings(max_examples=200, deadline=None)
@given(writes)
def test_the_undo_of_the_last_event_is_what_was_before_it(history: list[tuple[bool, Resource]]) -> None:
    """And of the one before it, when that is undone next; back to the beginning."""
    log = _written(history)
    states = [_now(_upto(log, n)) for n in range(2, len(log.events) + 1)]
    for n in range(len(log.events), 2, -1):
        _undone(log, n)
        assert _now(log) == states[n - 3]


def _upto(log: LogBuilder, n: int) -> LogBuilder:
    part = LogBuilder()
    for event in log.events[:n]:
        part.append(event.change)
    return part


def test_only_what_the_event_changed_is_put_back() -> None:
    """A label and an endpoint that came later stay; the port and the endpoint of the event go back."""
    log = LogBuilder()
    log.append(applied(mesh()), applied(mes(port=80, endpoints=("10.0.0.1:1", "10.0.0.2:2"))))
    log.append(applied(mes(port=81, endpoints=("10.0.0.1:1", "10.0.0.2:22"))))
    log.append(applied(mes(port=81, endpoints=("10.0.0.9:9", "10.0.0.1:1", "10.0.0.2:22"), labels={"team": "x"})))
    found = _undone(log, 3)
    assert {one["path"] for one in found.steps[0].fields} == {
        "spec.match.port",
        "spec.endpoints[address=10.0.0.2].port",
    }
    service = _service(log)
    assert service.spec.match.port == 80
    assert [(one.address, one.port) for one in service.spec.endpoints or ()] == [
        ("10.0.0.9", 9), ("10.0.0.1", 1), ("10.0.0.2", 2),
    ]  # fmt: skip
    assert service.labels["team"] == "x"


def test_a_later_edit_of_the_same_field_is_told_three_ways() -> None:
    """And nothing is to be written, not even what could be."""
    log = LogBuilder()
    log.append(applied(mesh()), *(applied(mes(port=port)) for port in (80, 81, 82)))
    found = undo(_history(log), GLOBAL, 3)
    (conflict,) = found.steps[0].conflicts
    assert (conflict.path, conflict.before, conflict.this, conflict.now) == ("spec.match.port", 80, 81, 82)
    assert not found.writes()
    created = undo(_history(log), GLOBAL, 2)
    assert [(one.path, one.this, one.now) for one in created.steps[0].conflicts] == [("spec.match.port", 80, 82)]


def test_what_was_written_together_is_undone_together_or_not_at_all() -> None:
    """The mesh with what was made in it; one conflict holds all of it up."""
    log = LogBuilder()
    log.append(applied(mesh("other")))
    wrap = DataKeyWrapped(kid="k1", recipient=GLOBAL, wrapped="w")
    log.append(applied(mesh()), wrap, applied(mes("a")), applied(mes("b")), seconds=5, actor="alice")
    log.append(applied(mesh("later")), seconds=6, actor="alice")
    with pytest.raises(CannotUndo, match="holds 2 resources"):
        undo(_history(log), GLOBAL, 2)
    found = undo(_history(log), GLOBAL, 4, batch=True)
    assert [(step.event.n, step.action) for step in found.steps] == [(5, "delete"), (4, "delete"), (2, "delete")]
    assert found.versions == "5-4-2"
    _write(log, found)
    assert {key.name for key in _now(log)} == {"other", "later"}
    n = len(log.events)
    assert next((step.event.n, step.action) for step in _undone(log, n, batch=True).steps) == (n, "create")
    assert {key.name for key in _now(log)} == {"other", "later", "default", "a", "b"}
    log.append(applied(mes("a", port=99)), seconds=log.seconds + 1)
    held = undo(_history(log), GLOBAL, n + 1, batch=True)
    assert held.is_conflicting


def test_facts_are_not_undone() -> None:
    """The refusal says what they follow from."""
    log = LogBuilder()
    log.append(applied(mesh()), applied(mes()))
    east = LogBuilder("east")
    east.append(VipLeased(key=service_key(), protocol_class="http", ip="242.0.0.7"), seen=2, cause=log.events[1].id)
    with pytest.raises(CannotUndo, match=r"east:1 records a fact .*VIP 242\.0\.0\.7.*follows from event 2"):
        undo(_history(log, {"east": east.events}), "east", 1)


def test_a_secret_comes_back_as_the_ciphertext_that_the_log_holds() -> None:
    """While its data key is there; without it the refusal says so."""
    log = LogBuilder()
    old, new = (Sealed(kid=f"k{n}", nonce="n", ciphertext=f"c{n}", digest=f"d{n}") for n in (1, 2))
    wraps = [DataKeyWrapped(kid=f"k{n}", recipient=GLOBAL, wrapped="w") for n in (1, 2)]
    log.append(applied(mesh()), *wraps)
    for sealed in (old, new):
        log.append(applied(Secret(name="tls", mesh="default", sealed=sealed)))
    found = _undone(log, 5)
    last = log.events[-1].change
    assert isinstance(last, ResourceApplied)
    assert isinstance(last.resource, Secret)
    assert last.resource.sealed == old
    assert "c1" not in str(found.steps[0].fields)
    lost = LogBuilder()
    lost.append(applied(mesh()), *(applied(Secret(name="tls", mesh="default", sealed=one)) for one in (old, new)))
    with pytest.raises(CannotUndo, match="data key that is not there any more: k1"):
        undo(_history(lost), GLOBAL, 3)


def test_what_is_as_before_already_needs_nothing() -> None:
    """Put back by hand, or by an undo before."""
    log = LogBuilder()
    log.append(applied(mesh()), applied(mes(port=80)), applied(mes(port=81)), applied(mes(port=80)))
    assert [step.action for step in undo(_history(log), GLOBAL, 3).steps] == ["nothing"]
