"""The view of a mesh before and after each change of global's log: built step by step, and held to the whole one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shared.events.event import Change
from tests.builders import LogBuilder, ZoneBuilder
from zone_cp.view.project import project, project_next
from zone_cp.view.zone_view import MeshView


def steps(hub: LogBuilder, zone: ZoneBuilder, history: Iterable[Change]) -> Iterator[tuple[MeshView, MeshView]]:
    """Record one change after the other; the view of mesh `default` before and after each."""
    view = project(zone.state)
    for change in history:
        before, state = view, zone.state
        hub.append(change)
        zone.follow(hub)
        view = project_next(view, state, zone.state)
        assert view.meshes["default"] == project(zone.state).meshes["default"]
        yield before.meshes["default"], view.meshes["default"]
