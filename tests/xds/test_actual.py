"""Envoy's config dump and what is intended are compared by meaning, not by letter."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from zone_cp.xds.actual import differences, parse_dump


def found(want: Any, have: Any, short: str = "Cluster") -> list[tuple[str, Any, Any]]:
    told = differences({short: {"a": want}}, {short: {"a": have}})
    return [(one.path, one.intended, one.actual) for one in told]


@pytest.mark.parametrize(
    "want, have",
    [
        ({"connect_timeout": "0.25s"}, {"connect_timeout": "0.250s"}),
        ({"size": 64}, {"size": "64"}),
        ({"inline_bytes": "text"}, {"inline_bytes": base64.b64encode(b"text").decode()}),
        ({"private_key": "redacted"}, {"private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="}}),
        ({"x": {"@type": "envoy.X"}}, {"x": {"@type": "type.googleapis.com/envoy.X"}}),
        ({"x": ""}, {}),
        ({}, {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"}),
    ],
)
def test_another_way_to_say_the_same_is_no_difference(want: Any, have: Any) -> None:
    """Durations, long numbers, bytes, keys, type URLs and defaults."""
    assert found(want, have) == []


@pytest.mark.parametrize(
    "want, have, told",
    [
        ({"timeout": "1s"}, {"timeout": "2s"}, ("timeout", "1s", "2s")),
        ({"on": True}, {}, ("on", True, None)),
        ({}, {"on": True}, ("on", None, True)),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ("a[0].b", 1, 2)),
        ({"a": [1]}, {"a": [1, 2]}, ("a", [1], [1, 2])),
    ],
)
def test_a_difference_is_told_with_its_path(want: Any, have: Any, told: tuple[str, Any, Any]) -> None:
    """What was meant, and what is there."""
    assert found(want, have) == [told]


def test_a_resource_that_is_missing_or_too_many_is_a_difference_of_its_own() -> None:
    """Secrets and assignments apart, of which Envoy has some from elsewhere."""
    told = list(differences({"Cluster": {"a": {}}}, {"Cluster": {"b": {}}, "Secret": {"token": {}}}))
    assert [(one.name, one.intended, one.actual) for one in told] == [("a", "present", None), ("b", None, "present")]


def test_assignments_may_carry_what_envoy_worked_out() -> None:
    """A health status and a policy nobody sent."""
    have = {"policy": {"overprovisioning_factor": 140}, "cluster_name": "a"}
    assert found({"cluster_name": "a"}, have, "ClusterLoadAssignment") == []


def test_only_dynamic_resources_of_a_dump_are_taken() -> None:
    """Listeners as they serve, clusters active and warming; static ones are the bootstrap's."""
    dump = {
        "configs": [
            {
                "static_clusters": [{"cluster": {"name": "ads"}}],
                "dynamic_active_clusters": [{"cluster": {"name": "a"}}],
                "dynamic_warming_clusters": [{"cluster": {"name": "b"}}],
            },
            {"dynamic_listeners": [{"name": "l", "active_state": {"listener": {"name": "l"}}}]},
        ]
    }
    assert parse_dump(dump) == {
        "Cluster": {"a": {"name": "a"}, "b": {"name": "b"}},
        "Listener": {"l": {"name": "l"}},
    }
