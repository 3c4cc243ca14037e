"""What a proxy keeps whose push is held: never more access than it was kept with, and never what was lost since."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from shared.events.event import ProxyConnected
from shared.events.history import History
from shared.events.state import Position
from shared.model.resource import ResourceKey, key_of
from tests.builders import LogBuilder, ZoneBuilder, applied, deleted, egress, mes, mesh, traffic_permission
from tests.zone_cp.judged import lets_in
from zone_cp.kept import kept_view
from zone_cp.replay import RedactedSecrets, known_proxy, view_at
from zone_cp.view.zone_view import ZoneView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, Snapshot

EGRESS = ".egress-1"
WORKLOADS = ("spiffe://default/web", "spiffe://default/job")
SERVICES = ("s0", "s1")
workloads = st.sets(st.sampled_from(WORKLOADS))
steps = st.one_of(
    st.tuples(st.just("permit"), st.integers(0, 1), st.sampled_from((*SERVICES, "")), workloads, workloads),
    st.tuples(st.just("lift"), st.integers(0, 1)),
    st.tuples(st.just("forbid"), st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from(SERVICES)),
)


def _take(hub: LogBuilder, step: tuple[Any, ...]) -> None:
    match step:
        case ("permit", number, name, allow, deny):
            hub.append(applied(traffic_permission(f"p{number}", name, allow, deny)))
        case ("lift", number):
            stored = hub.state.resources.get(ResourceKey("MeshTrafficPermission", "default", f"p{number}"))
            if stored is not None:
                hub.append(deleted(stored.resource))
        case ("forbid", said):
            hub.append(applied(mesh(forbid=said)))
        case ("delete", name):
            stored = hub.state.resources.get(ResourceKey("MeshExternalService", "default", name))
            if stored is not None:
                hub.append(deleted(stored.resource))
        case _:
            raise AssertionError(step)


def _ways(snapshot: Snapshot) -> set[tuple[str, str]]:
    """By cluster, who is led there."""
    filters = {name.split("/")[1]: one.body for name, one in snapshot.resources[EXTENSION_CONFIG].items()}
    services = [name for name in snapshot.resources[CLUSTER] if name.startswith("mes/")]
    return {(name, who) for name in services for who in WORKLOADS if lets_in(filters[name.split("/")[1]], name, who)}


@settings(max_examples=80, deadline=None)
@given(before=st.lists(steps, max_size=4), after=st.lists(steps, max_size=4))
def test_only_who_may_then_and_now(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    """By the bytes of a zone egress's filters. Where nothing was said since, those are the very same bytes."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()))
    for number, name in enumerate(SERVICES):
        hub.append(applied(mes(name, protocol="http" if number else "tcp")))
    for step in before:
        _take(hub, step)
    zone.follow(hub)
    zone.apply(egress())
    zone.write(ProxyConnected(proxy=EGRESS, key=key_of(egress(), "east"), connection="1"))
    zone.follow(hub)
    kept = Position(hub.state.n, zone.own.state.n)
    for step in after:
        _take(hub, step)
    zone.follow(hub)
    now = Position(hub.state.n, zone.own.state.n)
    history = History.of(hub.events, {"east": zone.own.events})
    known = known_proxy(history.state("east", kept), EGRESS)

    def compiled(view: ZoneView) -> Snapshot:
        return compile_proxy(view, known, RedactedSecrets())

    then, present = view_at(history, "east", kept), view_at(history, "east", now)
    result = compiled(kept_view(then, present))
    was, may = _ways(compiled(then)), _ways(compiled(present))
    there = set(compiled(present).resources[CLUSTER])
    assert set(result.resources[CLUSTER]) == set(compiled(then).resources[CLUSTER]), "nothing is taken away"
    assert _ways(result) <= was
    assert {one for one in _ways(result) if one[0] in there} == {one for one in was if one[0] in there} & may
    if not after:
        assert result.resources == compiled(then).resources
