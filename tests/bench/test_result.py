"""What bench.json says and how runs come together in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bench.result import Goal, Result, encoded, merged, percentile, result

RATIO = Goal(on="ratio", op="<=", bound=3.0)
NONE = Goal(on="value", op="<=", bound=None)


def document(before: bytes | None, **results: Result) -> dict[str, Any]:
    """bench.json after a run that gave `results`."""
    found: dict[str, Any] = json.loads(encoded(merged(before, results, commit="abc", cpus=2)))
    return found


def test_a_document_has_the_schema_of_the_issue() -> None:
    """A document carries schema 1, commit, CPUs, and per result exactly the fields that were agreed."""
    found = document(None, apply=result(2500.4, "us", limit=1000.0, goal=RATIO))
    assert found == {
        "schema": 1,
        "commit": "abc",
        "cpus": 2,
        "results": {
            "apply": {
                "value": 2500,
                "unit": "us",
                "limit": 1000,
                "ratio": 2.5,
                "goal": 3.0,
                "goal_on": "ratio",
                "goal_op": "<=",
                "met": True,
            }
        },
    }


def test_values_and_limits_are_whole_numbers() -> None:
    """A value and its limit are written without a fraction."""
    text = encoded(merged(None, {"x": result(12.7, "MB", limit=3.2, goal=NONE)}, commit="", cpus=1)).decode()
    assert '"value": 13,' in text
    assert '"limit": 3,' in text


def test_the_ratio_is_value_over_limit_in_either_direction() -> None:
    """A ratio is always value/limit, also where more is better."""
    assert result(50, "1/s", limit=100, goal=Goal(on="ratio", op=">=", bound=0.5)).ratio == 0.5


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [
        (3000, RATIO, True),
        (3001, RATIO, False),
        (3000, Goal(on="value", op=">=", bound=3000), True),
        (2999, Goal(on="value", op=">=", bound=3000), False),
        (2999, NONE, None),
    ],
)
def test_a_goal_is_met_up_to_its_bound(value: int, goal: Goal, met: bool | None) -> None:
    """A goal holds for the value or the ratio, including the bound; without one nothing is met or missed."""
    assert result(value, "us", limit=1000, goal=goal).met is met


def test_a_goal_on_a_ratio_without_a_limit_is_not_judged() -> None:
    """Where nothing was measured to compare with, nothing is said."""
    found = result(5, "us", goal=RATIO)
    assert (found.limit, found.ratio, found.met) == (None, None, None)


@pytest.mark.parametrize(("value", "limit"), [(0, None), (float("nan"), None), (5, 0.0), (5, float("inf"))])
def test_what_measures_nothing_is_refused(value: float, limit: float | None) -> None:
    """Zero, infinite and undefined numbers are failures of a measurement, not results."""
    with pytest.raises(ValueError, match="no measurement"):
        result(value, "us", limit=limit, goal=NONE)


def test_a_partial_run_keeps_the_other_results() -> None:
    """A run replaces what it measured and leaves the rest as it stood."""
    one, two = result(1, "us", goal=NONE), result(2, "us", goal=NONE)
    first = encoded(merged(None, {"a": one, "b": one}, commit="old", cpus=4))
    found = document(first, b=two)
    assert found["commit"] == "abc"
    assert [found["results"][name]["value"] for name in ("a", "b")] == [1, 2]


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"[]",
        b'{"schema":1}',
        b'{"schema":2,"commit":"","cpus":1,"results":{}}',
        b'{"schema":1,"commit":"","cpus":1,"results":{"a":{"value":"fast"}}}',
    ],
)
def test_an_unreadable_file_is_replaced(before: bytes) -> None:
    """A file that is damaged or of another schema is written anew."""
    found = document(before, x=result(1, "us", goal=NONE))
    assert list(found["results"]) == ["x"]


def test_percentiles_are_samples() -> None:
    """p50 and p99 are members of the sample, by nearest rank."""
    samples = list(range(1, 201))
    assert (percentile(samples, 50), percentile(samples, 99), percentile(samples, 100)) == (100, 198, 200)
    assert percentile([7.5], 1) == 7.5


@given(st.lists(st.integers(), min_size=1), st.integers(1, 100))
def test_enough_samples_are_within_a_percentile(samples: list[int], percent: int) -> None:
    """At least `percent` of the samples do not exceed the percentile, and no smaller sample can say that."""
    found = percentile(samples, percent)
    share = sum(one <= found for one in samples) * 100
    assert share >= percent * len(samples)
    assert all(
        sum(one <= other for one in samples) * 100 < percent * len(samples) for other in samples if other < found
    )


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1], 0), ([1], 101)])
def test_percentiles_of_nothing_are_refused(samples: list[int], percent: int) -> None:
    """There is no percentile of no samples, nor outside (0, 100]."""
    with pytest.raises(ValueError, match=r"samples|within"):
        percentile(samples, percent)
