"""Who lost access to external services: told of everybody who did, and of nobody who kept what he had."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import Change, ResourceDeleted
from shared.events.fold import fold_all
from shared.events.narrowing import NARROWED_LIMIT
from shared.events.state import LogState
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, ZoneBuilder, applied, mes, mesh, resource
from tests.view.stepping import steps
from zone_cp.view.project import project
from zone_cp.view.zone_view import MeshView

WORKLOADS = tuple(f"spiffe://default/{name}" for name in ("web", "job", "jobs"))
TARGETS: tuple[dict[str, Any], ...] = (
    {"kind": "MeshExternalService", "name": "lines"},
    {"kind": "MeshExternalService", "name": "page"},
    {"kind": "MeshExternalService", "labels": {"team": "a"}},
)
matches = st.sampled_from(
    [{"type": "Exact", "value": one} for one in WORKLOADS] + [{"type": "Prefix", "value": "spiffe://default/job"}]
)
entries = st.lists(matches.map(lambda one: {"spiffeID": one}), max_size=2)


def permission(name: str, target: int, allow: Any, deny: Any, *, shadow: bool = False) -> Change:
    spec = {"targetRef": TARGETS[target], "rules": [{"default": {"allow": allow, "deny": deny}}]}
    labels = {"kuma.io/effect": "shadow"} if shadow else {}
    return applied(resource(type="MeshTrafficPermission", name=name, mesh="default", labels=labels, spec=spec))


def removed(name: str) -> Change:
    return ResourceDeleted(key=ResourceKey("MeshTrafficPermission", "default", name))


def histories(targets: st.SearchStrategy[int]) -> st.SearchStrategy[list[Change]]:
    names = st.sampled_from("ab")
    written = st.builds(permission, names, targets, entries, entries, shadow=st.sampled_from([False, False, True]))
    toggled = st.booleans().map(lambda forbid: applied(mesh(forbid=forbid)))
    return st.lists(st.one_of(written, names.map(removed), toggled), max_size=8)


def world() -> tuple[LogBuilder, ZoneBuilder]:
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()), applied(mes("lines", protocol="tcp", labels={"team": "a"})), applied(mes("page")))
    zone.follow(hub)
    return hub, zone


def allowed(view: MeshView, workload: str) -> bool:
    service = next(one for one in view.services.values() if one.name == "lines")
    return not view.forbid_external if service.permission is None else service.permission.allows(workload)


@settings(max_examples=300, deadline=None)
@given(histories(st.integers(0, 2)))
def test_everybody_who_loses_a_tcp_service_is_told_of(history: list[Change]) -> None:
    """Whatever order permissions and the mesh's default change in; also when the view is built step by step."""
    hub, zone = world()
    for before, after in steps(hub, zone, history):
        for workload in WORKLOADS:
            if allowed(before, workload) and not allowed(after, workload):
                assert after.lost_by(workload) != before.lost_by(workload)


@settings(max_examples=300, deadline=None)
@given(histories(st.just(0)))
def test_who_keeps_a_service_is_not_told_of(history: list[Change]) -> None:
    """No permission on a service closes a connection of a workload that may still use it."""
    hub, zone = world()
    for change in history:
        before = project(zone.state).meshes["default"]
        hub.append(change)
        zone.follow(hub)
        after = project(zone.state).meshes["default"]
        toggled = before.forbid_external != after.forbid_external
        for workload in WORKLOADS:
            if allowed(before, workload) and allowed(after, workload) and not toggled:
                assert after.lost_by(workload) == before.lost_by(workload)


@settings(max_examples=30, deadline=None)
@given(histories(st.integers(0, 2)))
def test_folding_many_events_at_once_finds_the_same(history: list[Change]) -> None:
    """The fold has a fast path for runs of writes."""
    hub, _ = world()
    hub.append(*history)
    assert fold_all(LogState(origin="global"), hub.events).narrowed == hub.state.narrowed


def test_what_is_remembered_has_a_limit() -> None:
    """The group that lost something longest ago is forgotten first."""
    hub, _ = world()
    for n in range(NARROWED_LIMIT + 2):
        entry = {"spiffeID": {"type": "Exact", "value": f"spiffe://default/w{n}"}}
        hub.append(permission("a", 0, [], [entry]))
    known = hub.state.narrowed["default"]
    assert len(known) == NARROWED_LIMIT
    assert "spiffe://default/w0" not in {one.who.value for one in known}
