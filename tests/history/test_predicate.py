"""What can be asked of a moment without an Envoy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.event import ProxyConnected
from shared.events.halving import Line, bisection
from shared.events.history import History
from shared.history.predicate import BadPredicate, predicate
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, ZoneBuilder, applied, dataplane, deleted, egress, generator, mes, mesh


@pytest.fixture(scope="module")
def history() -> History:
    """A service that comes, moves and goes, in a zone with an egress."""
    hub, zone = LogBuilder(), ZoneBuilder()
    zone.apply(egress(), dataplane())
    key = ResourceKey("ZoneEgress", "", "egress-1", "east")
    zone.write(ProxyConnected(".egress-1", key, "1", (), "/ca.pem"))
    hub.append(applied(mesh()), applied(generator()))
    hub.append(applied(mes()), applied(mes(endpoints=("203.0.113.1:9999",))), deleted(mes()))
    for number in range(1, 6):
        zone.follow(hub, until=number)
    return History.of(hub.events, {"east": zone.own.events})


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ("resource mes/payments exists", "bgg b"),
        ("resource mes/default/payments missing", "gbb g"),
        ("resource mes/other/payments exists", "bbb b"),
        ("field mes/payments spec.endpoints[0].port == 8080", "bgb b"),
        ("field mes/payments spec.endpoints[0].port != 9999", "ggb g"),
        ("hostname payments.ext.local resolves", "bgg b"),
        ("hostname PAYMENTS.ext.local. resolves", "bgg b"),
        ("hostname payments.ext.local resolves to 1.2.3.4", "bbb b"),
        ("cluster payments present", "bgg b"),
        ("cluster payments.ext.local absent", "gbb g"),
        ("listener egress present", "ggg g"),
        ("field cluster/payments load_assignment.cluster_name == x", "bbb b"),
    ],
)
def test_a_predicate_holds_or_not_at_a_moment(history: History, text: str, outcomes: str) -> None:
    """Before the service, with it, after it moved, after it was deleted."""
    holds = predicate(text, ".egress-1")
    found = [holds(history, "east", history.position("east", str(g))).outcome[0] for g in (2, 3, 4, 5)]
    assert "".join(found) == outcomes.replace(" ", "")


def test_a_moment_before_the_proxy_was_known_is_skipped(history: History) -> None:
    """Neither present nor absent would be true."""
    verdict = predicate("cluster payments absent", ".egress-1")(history, "east", history.position("east", "east:1"))
    assert verdict.outcome == "skip"
    assert "no proxy" in verdict.reason


@pytest.mark.parametrize("text", ["", "cluster x", "field mes x == 1", "resource nonsense/x exists", 'hostname "x'])
def test_what_is_no_predicate_is_refused(text: str) -> None:
    """With the forms there are, or what is wrong."""
    with pytest.raises(BadPredicate):
        predicate(text, "web")
    with pytest.raises(BadPredicate, match="--proxy"):
        predicate("cluster x present")


@given(st.data())
def test_bisect_finds_a_planted_event_in_any_position(data: st.DataObject) -> None:
    """Line 14: the one write among others that changed a field, by who wrote it."""
    length, now = data.draw(st.integers(1, 30)), 8080
    planted = data.draw(st.integers(0, length - 1))
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(generator()), applied(mes()))
    for number in range(length):
        if number == planted:
            now = 9999
            hub.append(applied(mes(endpoints=("203.0.113.1:9999",))), actor="mallory")
        else:
            which = data.draw(st.sampled_from(["payments", "other"]))
            hub.append(applied(mes(which, endpoints=(f"203.0.113.1:{now}",), labels={"n": str(number)})))
    zone.follow(hub)
    history = History.of(hub.events, {"east": zone.own.events})
    line = Line(history, "east")
    holds = predicate("field mes/payments spec.endpoints[0].port == 8080")
    halves = bisection(line.number(history.position("east", "3")), len(line))
    number = next(halves)
    while True:
        try:
            number = halves.send(holds(history, "east", line.position(number)))
        except StopIteration as ended:
            found = ended.value
            break
    assert line.event(found.bad).actor == "mallory"
