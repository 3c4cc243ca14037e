from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.value_rules import regular_expression


def told(pattern):
    return [reason for _, reason in regular_expression(pattern, "p")]


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "",
            "/v[0-9]+/.*",
            "(?i)abc",
            "(?P<n>a|b)[^]a-z\\]]{3}\\x41\\.",
            "(a{100}){10}",
            "(?i-s:a)(?:b|)*?",
            "[[:alpha:]_]",
        ),
        *("{", "a{2", "]", "a{,3}", "\\_\\-\\/", "(a+)+$", "[a&&b]"),
    ],
)
def test_what_both_have(pattern):
    """What Python and RE2 both read is let pass."""
    assert told(pattern) == []


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("\\u00e9", "it has no \\u here"),
        ("\\N{DIGIT ONE}", "it has no \\N here"),
        ("a\\Z", "it has no \\Z here"),
        ("(a)\\1", "it has no \\1 here"),
        ("\\é", "it has no \\é here"),
        ("[\\b]", "it has no \\b here"),
        ("a{1001}", "counts of repetitions may come to 1000 at most"),
        ("((a{2}){20}b){26}", "counts of repetitions may come to 1000 at most"),
        ("(\\W{10}){100}(.{100}){10}" * 4, "too large once repetitions are written out"),
        ("(?x)a", "of what begins with (? it knows names (?P<n>), the flags i, m and s, and (?:)"),
        ("(?=a)", "of what begins with (? it knows names (?P<n>), the flags i, m and s, and (?:)"),
        ("a*+", "no possessive repetitions"),
        ("[[:nope:]]", "it has no class [:nope:]"),
        ("[[:alpha:]", "a set is not closed"),
    ],
)
def test_what_only_python_has(pattern, reason):
    """Envoy would refuse all routes of the mesh for it."""
    assert told(pattern) == [f"must be a regular expression of RE2: {reason}"]


def test_long_patterns_are_not_looked_at():
    """However deep they nest."""
    assert told("(" * 201 + ")" * 201) == ["must be a regular expression of RE2, of at most 200 characters"]


@given(st.text(alphabet="a.|()[]{}*+?^$\\-:<>=!PimsxdZ1,é&", max_size=30))
def test_any_pattern_is_judged(pattern):
    """None raises, and what is accepted is one for Python as well."""
    if not told(pattern):
        re.compile(pattern)
