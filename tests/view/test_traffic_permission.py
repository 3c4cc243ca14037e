"""TrafficPermissions on legacy ExternalServices: one of them decides, and who loses by that is told of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.event import Change, ResourceDeleted
from shared.model import manifest
from shared.model.resource import ResourceKey
from shared.model.validate import validate
from tests.builders import LogBuilder, ZoneBuilder, applied, external, mes, mesh, resource
from tests.view.stepping import steps
from zone_cp.view.project import project
from zone_cp.view.zone_view import MeshView

WORKLOADS = tuple(f"spiffe://default/{name}" for name in ("web", "job", "jobs"))
SERVICES = ("lines", "page")


def permission(name: str, sources: list[str], destinations: list[str]) -> Change:
    def selectors(services: list[str]) -> list[dict[str, Any]]:
        return [{"match": {"kuma.io/service": one}} for one in services]

    fields = {"sources": selectors(sources), "destinations": selectors(destinations)}
    return applied(resource(type="TrafficPermission", name=name, mesh="default", **fields))


def removed(name: str) -> Change:
    return ResourceDeleted(key=ResourceKey("TrafficPermission", "default", name))


def guard(allow: str) -> Change:
    spec = {
        "targetRef": {"kind": "MeshService", "name": "lines"},
        "rules": [{"default": {"allow": [{"spiffeID": {"type": "Exact", "value": allow}}]}}],
    }
    return applied(resource(type="MeshTrafficPermission", name="guard", mesh="default", spec=spec))


def world() -> tuple[LogBuilder, ZoneBuilder]:
    hub, zone = LogBuilder(), ZoneBuilder("east")
    hub.append(applied(mesh()), applied(mes("new")))
    hub.append(*(applied(external(one, f"{one}.example:443", protocol="tcp")) for one in SERVICES))
    zone.follow(hub)
    return hub, zone


def allowed(view: MeshView, service: str, workload: str) -> bool:
    found = next(one for one in view.services.values() if one.service == service)
    return found.permission is None or found.permission.allows(workload)


def who(*changes: Change) -> dict[str, set[str]]:
    """By service, the workloads that may use it."""
    hub, zone = world()
    hub.append(*changes)
    zone.follow(hub)
    view = project(zone.state).meshes["default"]
    assert next(one for one in view.services.values() if one.name == "new").permission is None
    return {one: {w.rpartition("/")[2] for w in WORKLOADS if allowed(view, one, w)} for one in SERVICES}


ALL = {"web", "job", "jobs"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], {"lines": ALL, "page": ALL}),
        ([permission("a", ["web"], ["lines"])], {"lines": {"web"}, "page": set()}),
        ([permission("a", ["*"], ["*"])], {"lines": ALL, "page": ALL}),
        # By name before `*`, whichever is newer.
        ([permission("a", ["web"], ["lines"]), permission("b", ["*"], ["*"])], {"lines": {"web"}, "page": ALL}),
        # Of two alike the newer.
        ([permission("b", ["web"], ["lines"]), permission("a", ["job"], ["lines"])], {"lines": {"job"}, "page": set()}),
        # A change does not make it newer.
        (
            [
                permission("b", ["web"], ["lines"]),
                permission("a", ["job"], ["lines"]),
                permission("b", ["jobs"], ["lines"]),
            ],
            {"lines": {"job"}, "page": set()},
        ),
        ([permission("a", ["web", "job"], ["lines", "page"])], {"lines": {"web", "job"}, "page": {"web", "job"}}),
        # A MeshTrafficPermission takes its place.
        ([permission("a", ["web"], ["*"]), guard(WORKLOADS[1])], {"lines": {"job"}, "page": {"web"}}),
    ],
)
def test_one_of_them_decides(changes: list[Change], expected: dict[str, set[str]]) -> None:
    """The one that names the service, the newest of those; a service that none is about is closed."""
    assert who(*changes) == expected


names = st.sampled_from("ab")
some = st.lists(st.sampled_from(("web", "job", "*")), min_size=1, max_size=2)
about = st.lists(st.sampled_from((*SERVICES, "other", "*")), min_size=1, max_size=2)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.builds(permission, names, some, about), names.map(removed)), max_size=8))
def test_everybody_who_loses_a_service_is_told_of(history: list[Change]) -> None:
    """Also when the view is built step by step, which gives the same as building it whole."""
    hub, zone = world()
    for before, after in steps(hub, zone, history):
        for workload in WORKLOADS:
            if any(allowed(before, one, workload) and not allowed(after, one, workload) for one in SERVICES):
                assert after.lost_by(workload) != before.lost_by(workload)


TEXT = """\
type: TrafficPermission
name: tp
mesh: default
sources: {sources}
destinations: {destinations}
"""


@pytest.mark.parametrize(
    ("sources", "destinations", "faults"),
    [
        ("[{match: {kuma.io/service: web}}]", "[{match: {kuma.io/service: '*'}}]", []),
        ("[]", "[{match: {}}]", [("sources", "must have at least one element"),
                                 ("destinations[0].match", "must have at least one tag")]),
        ("[{match: {version: v1}}]", "[{match: {kuma.io/service: ''}}]", [
            ("sources[0].match", 'mandatory tag "kuma.io/service" is missing'),
            ('sources[0].match["version"]', "only kuma.io/service can be told from a client's identity"),
            ('destinations[0].match["kuma.io/service"]', "tag value must be non-empty"),
        ]),
    ],
)  # fmt: skip
def test_what_is_refused(sources: str, destinations: str, faults: list[tuple[str, str]]) -> None:
    """What nobody could enforce is an error, not a wish."""
    parsed = manifest.parse(TEXT.format(sources=sources, destinations=destinations), "f")
    assert parsed.faults == ()
    assert [(one.path, one.reason) for one in validate(parsed.documents[0].resource)] == faults
