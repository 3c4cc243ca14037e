"""Three ways of looking at a value: before, what a step made of it, and now."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from shared.model.merge import Conflict, matched, taken_back

scalars = st.one_of(st.sampled_from(["x", "y", "", "443"]), st.integers(0, 3))
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["name", "address", "port", "a/b"]), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(values, values, values)
def test_what_nobody_touched_since_becomes_what_it_was(one: Any, other: Any, third: Any) -> None:
    """A step that changed nothing takes nothing back; taking back a taking back is the same again."""
    assert taken_back(one, other, other) == (one, [])
    assert taken_back(one, one, third) == (third, [])
    assert taken_back(one, other, one) == (one, [])
    merged, conflicts = taken_back(one, other, third)
    if not conflicts:
        assert taken_back(third, merged, merged) == (third, [])


@settings(max_examples=200, deadline=None)
@given(st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_an_item_is_matched_once(before: list[Any], after: list[Any]) -> None:
    """No item is two, and equal lists are matched in turn."""
    pairs = matched(before, after)
    assert len({one for one, _ in pairs}) == len({other for _, other in pairs}) == len(pairs)
    assert matched(before, before) == [(index, index) for index in range(len(before))]


def test_items_are_taken_back_one_by_one() -> None:
    """What came goes, what went comes back where it was, what others added stays; a changed one is a conflict."""
    a, b, c, d = ({"address": name, "port": 1} for name in "abcd")
    assert taken_back([a, b], [a, c], [a, c, d]) == ([a, b, d], [])
    assert taken_back([a], [a, b], [d, a, b]) == ([d, a], [])
    assert taken_back([a, b, c], [a, c], [a, c, d]) == ([a, b, c, d], [])
    now = [a, {"address": "b", "port": 7}]
    assert taken_back([a], [a, b], now) == (now, [Conflict("[1]", UNSET, b, now[1])])
    assert taken_back([a, b], [a], now) == (now, [Conflict("[1]", b, UNSET, now[1])])
    assert taken_back([a, b], [b, a], [b, a, c])[1] == [Conflict("", [a, b], [b, a], [b, a, c])]
    assert taken_back([a, b], now, [a, c]) == ([a, c], [])
    assert taken_back([a, b], now, [a])[1] == [Conflict("[1]", b, now[1], UNSET)]
