"""Blame: each field is whose event set it last."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.blame import blamed
from shared.events.history import History, NoSuchMoment
from shared.history.blame import blame
from shared.model import codec
from tests.builders import LogBuilder, ZoneBuilder, applied, deleted, generator, mes, mesh, service_key


def _told(log: LogBuilder, **asked: str) -> dict[str, tuple[str, str]]:
    found = blame(History.of(log.events, {}), "MeshExternalService", "default", "payments", **asked)
    return {one.path: (one.event, one.by) for one in found.fields}


def test_each_field_is_whose_event_set_it() -> None:
    """An item that another one came before stays whose it was; computed labels are the system's."""
    log = LogBuilder()
    log.append(applied(mesh()), applied(mes(endpoints=("10.0.0.1:1",))), actor="alice")
    log.append(applied(mes(endpoints=("10.0.0.9:9", "10.0.0.1:1"), labels={"team": "x"})), actor="bob")
    log.append(applied(mes(endpoints=("10.0.0.9:8", "10.0.0.1:1"), labels={"team": "x"})), actor="carol")
    told = _told(log)
    assert told["spec.endpoints[1].address"] == ("2", "alice")
    assert told["spec.endpoints[0].address"] == ("3", "bob")
    assert told["spec.endpoints[0].port"] == ("4", "carol")
    assert told["labels.team"] == ("3", "bob")
    assert told['labels["kuma.io/origin"]'] == ("2", "system")
    assert _told(log, at="2")["spec.endpoints[0].address"] == ("2", "alice")


def test_what_was_deleted_and_made_again_begins_anew() -> None:
    """And what is gone names who took it away."""
    log = LogBuilder()
    log.append(applied(mesh()), applied(mes(port=80)), actor="alice")
    log.append(applied(mes(port=81)), actor="bob")
    log.append(deleted(mes()), actor="carol")
    with pytest.raises(NoSuchMoment, match="was deleted by event 4 of carol"):
        _told(log)
    assert _told(log, at="3")["spec.match.port"] == ("3", "bob")
    log.append(applied(mes(port=81)), actor="dave")
    assert set(_told(log).values()) == {("5", "dave"), ("5", "system")}
    with pytest.raises(NoSuchMoment, match="there was no"):
        _told(log, at="1")


def test_what_zones_gave_it_is_told_with_its_cause() -> None:
    """VIP and names, by the events that leased and claimed them."""
    hub, east = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()), applied(generator()), applied(mes()), actor="alice")
    east.follow(hub)
    found = blame(History.of(hub.events, {"east": east.own.events}), "MeshExternalService", "default", "payments")
    assert {(one.zone, one.what) for one in found.facts} == {("east", "vip"), ("east", "hostname by all")}
    assert {one.value for one in found.facts} == {east.vip(service_key()), "payments.ext.local"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda port, tails, team: mes(
                port=port, endpoints=tuple(f"10.0.0.{tail}:{tail}" for tail in tails), labels={"team": team}
            ),
            st.sampled_from([80, 81]),
            st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True),
            st.sampled_from(["x", "y"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_field_has_had_its_value_since_the_event_that_is_blamed(versions: list[object]) -> None:
    """Every field of the resource is told once; and it changed in that event, or came with it."""
    log = LogBuilder()
    for version in versions:
        log.append(applied(version))  # type: ignore[arg-type]
    lines = list(blamed(log.events))
    last = codec.to_plain(log.events[-1].change)["resource"]
    assert [one.value for one in lines] == list(_leaves(last))
    for line in lines:
        n = line.event.n
        then = [one for one in blamed(log.events[:n]) if one.event.n == n]
        assert line.value in [one.value for one in then]
        if n > 1:
            before, after = (_leaves(codec.to_plain(one.change)) for one in log.events[n - 2 : n])
            assert len(then) < len(after) or before != after


def _leaves(value: object) -> list[object]:
    if isinstance(value, dict) and value:
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, list) and value:
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]
