"""Selectors and default generators (decision 17, spec 1-resources.md §2.3 and §2.6)."""

from __future__ import annotations

import pytest
from immutables import Map

from shared.model.resource import HostnameGenerator, HostnameGeneratorSpec, HostnameSelector, LabelSelector
from shared.naming.hostname import default_generators, hostname_for, selects
from tests.builders import generator, labelled, mes


def test_a_selector_wants_every_label_and_its_own_kind() -> None:
    """Empty selects all of the kind; another kind selects no MeshExternalService."""
    labels = Map({"a": "1", "b": "2"})
    assert selects(generator(), labels)
    assert selects(generator(match={"a": "1", "b": "2"}), labels)
    assert not selects(generator(match={"a": "1", "c": "3"}), labels)
    other = HostnameSelector(mesh_service=LabelSelector())
    spec = HostnameGeneratorSpec(selector=other, template="{{ .Name }}.x")
    assert not selects(HostnameGenerator(name="ms", spec=spec), labels)


@pytest.mark.parametrize(
    ("zone", "name", "origin"),
    [("", "synced-mesh-external-service", ""), ("east", "local-mesh-external-service", "east")],
)
def test_the_default_generators_are_kumas(zone: str, name: str, origin: str) -> None:
    """Global's serves what is declared on global, the zone's what is declared in the zone."""
    (default,) = default_generators(zone)
    assert default.name == name
    for declared_in in ("", "east"):
        service = labelled(mes(), declared_in)
        assert selects(default, service.labels) == (declared_in == origin)
    assert hostname_for(default, mes(), "east") == "payments.extsvc.mesh.local"
