"""What differs between two moments for every proxy: what comparing everything, made from nothing, says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from shared.events.history import History
from shared.events.state import ZoneState
from shared.history.between import ZoneDifference, between, flipped
from tests.builders import applied, mes, resource
from tests.xds.test_fleet import PROXIES, Played, act, turns
from zone_cp.between import states_between
from zone_cp.replay import RedactedSecrets
from zone_cp.view.project import project, proxy_view
from zone_cp.xds import compile as compiling
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.inspect import short_type


def compiled(state: ZoneState) -> dict[str, dict[tuple[str, str], str]]:
    """Version by type and name, by online proxy; everything made from nothing."""
    view = project(state)
    found = {}
    for proxy, status in state.own.proxies.items():
        known = proxy_view(state, proxy) if status.online else None
        if known is not None:
            snapshot = compile_proxy(view, known, RedactedSecrets())
            found[proxy] = {
                (short_type(url), name): one.version
                for url, names in snapshot.resources.items()
                for name, one in names.items()
            }
    return found


def told(difference: ZoneDifference) -> dict[str, dict[tuple[str, str], str]]:
    """What a difference says became of resources, by proxy."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for group in difference.groups:
        for proxy in group.proxies:
            for change in group.changes:
                found.setdefault(proxy, {}).update({(change.kind, name): change.verb for name in change.names})
    return found


def expected(before: ZoneState, after: ZoneState) -> dict[str, dict[tuple[str, str], str]]:
    old, new = compiled(before), compiled(after)
    found: dict[str, dict[tuple[str, str], str]] = {}
    for proxy in old.keys() & new.keys():
        was, now = old[proxy], new[proxy]
        for name in was.keys() | now.keys():
            if was.get(name) != now.get(name):
                verb = "added" if name not in was else "removed" if name not in now else "changed"
                found.setdefault(proxy, {})[name] = verb
    return found


@settings(max_examples=40, deadline=None)
@given(turns)
def test_every_proxy_is_compared(history: list[tuple[list[tuple[str, int, bool]], bool, bool]]) -> None:
    """Whatever happened in between; and the way back says the opposite."""
    played = Played()
    for declared in PROXIES[::2]:
        played.connect(*declared)
    played.events()
    before = played.zone.state
    for batch, *_ in history:
        for one in batch:
            act(played, *one)
    played.events()
    after = played.zone.state
    found = states_between(before, after)
    assert told(found) == expected(before, after)
    assert found.faults == {}
    past = History.of(played.hub.events, {"east": played.zone.own.events})
    whole = between(past, "east", "0", None, scope="proxies")
    assert told(flipped(whole)) == told(between(past, "east", None, "0", scope="proxies"))


def _connected() -> Played:
    played = Played()
    for number in (0, 2, 3, 4):
        played.connect(*PROXIES[number])
    played.hub.append(*(applied(mes(f"s{number}", port=81)) for number in range(4)))
    played.events()
    return played


def test_only_what_a_change_concerns_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sidecars with one listener for all, one without and an egress: the egress twice, the one without twice."""
    played = _connected()
    before = played.zone.state
    played.hub.append(applied(mes("s1", port=81, endpoints=("203.0.113.9:1",))))
    played.events()
    compiled_ones: list[str] = []
    whole = compiling.compile_next

    def counted(held: Any, view: Any, proxy: Any, *rest: Any) -> Any:
        compiled_ones.append(proxy.resource.name)
        return whole(held, view, proxy, *rest)

    monkeypatch.setattr("zone_cp.xds.compile.compile_next", counted)
    monkeypatch.setattr("zone_cp.xds.fleet.compile_next", counted)
    found = states_between(before, played.zone.state)
    assert sorted(compiled_ones) == ["", "", "egress-1", "egress-1"]
    assert found.touched == (".egress-1",)


def test_proxies_to_which_the_same_happens_are_told_once() -> None:
    """A timeout for all: the three sidecars together, and with the fields."""
    played = _connected()
    before = played.zone.state
    spec = {"to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": "9s"}}}]}
    played.hub.append(applied(resource(type="MeshTimeout", name="t", mesh="default", spec=spec)))
    played.events()
    found = states_between(before, played.zone.state)
    (sidecars,) = (group for group in found.groups if len(group.proxies) == 3)
    assert sidecars.proxies == ("default.explicit", "default.web-1", "default.web-2")
    assert "9s" in [field.get("after") for change in sidecars.changes for field in change.fields]
    assert found.proxies == 4


def test_resources_and_views_are_compared_where_they_are_not_the_same() -> None:
    """One service of four, in the resources and in the view, which says what the zone made of it."""
    played = _connected()
    g = len(played.hub.events)
    played.hub.append(applied(mes("s1", port=82)))
    played.events()
    history = History.of(played.hub.events, {"east": played.zone.own.events})
    for scope, kind in (("resources", "MeshExternalService"), ("views", "ExternalService")):
        (group,) = between(history, "east", str(g), str(g + 1), scope=scope).groups
        (change,) = group.changes
        assert (change.kind, change.verb, len(change.names)) == (kind, "changed", 1)
        assert {"before": 81, "after": 82} in [
            {side: field[side] for side in ("before", "after")} for field in change.fields if "port" in field["path"]
        ]
