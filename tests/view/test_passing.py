"""MeshPassthroughs of a proxy, added up (spec 4 B1: lists that begin with `append` are concatenated)."""

from __future__ import annotations

from typing import Any

from shared.events.event import EventRef
from shared.events.state import Stored
from shared.model.policy import Policy
from shared.model.resource import key_of
from tests.builders import dataplane, resource
from zone_cp.view.policies import Passing, mesh_policies, passing

WEB = {"kind": "Dataplane", "name": "web-1"}


def policy(name: str, n: int, mode: str | None, *values: str, top: Any = None, **extra: Any) -> tuple[Policy, Stored]:
    default: dict[str, Any] = {"appendMatch": [{"type": "IP", "value": value} for value in values]}
    if mode is not None:
        default["passthroughMode"] = mode
    spec = {"targetRef": top or {"kind": "Mesh"}, "default": default}
    made = resource(type="MeshPassthrough", name=name, mesh="default", spec=spec, **extra)
    assert isinstance(made, Policy)
    event = EventRef("global", n)
    return made, Stored(key_of(made, ""), made, event, event)


def said(*policies: tuple[Policy, Stored]) -> Passing | None:
    return passing(mesh_policies(policies), dataplane())


def test_entries_are_added_up_and_the_more_specific_mode_holds() -> None:
    """Equal entries are one; the mode of who says one last holds; all are cited."""
    wide = policy("wide", 1, "All", "10.0.0.1", "10.0.0.2")
    narrow = policy("narrow", 2, "Matched", "10.0.0.2", "10.0.0.3", top=WEB)
    silent = policy("silent", 3, None, top=WEB)
    for order in ((wide, narrow, silent), (silent, narrow, wide)):
        found = said(*order)
        assert found is not None
        assert found.conf.passthrough_mode == "Matched"
        assert [one.value for one in found.conf.append_match or ()] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
        assert set(found.sources) == {EventRef("global", n) for n in (1, 2, 3)}


def test_who_is_not_selected_hears_nothing() -> None:
    """Other proxies' policies and those in shadow: the mesh's own setting holds."""
    other = policy("other", 1, "None", top={"kind": "Dataplane", "name": "job-1"})
    shadow = policy("shadow", 2, "None", labels={"kuma.io/effect": "shadow"})
    assert said(other, shadow) is None
