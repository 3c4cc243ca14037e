"""Differences of trees: by field, members of lists by name; enough to make one tree of the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from shared.history.difference import FieldChange, Item, Order, difference, expected_order, fields_between
from shared.history.difference import _name as name_of

scalars = st.one_of(st.booleans(), st.integers(0, 3), st.sampled_from(["a", "b", "1"]))
named = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("abcd")}, optional={"port": st.integers(0, 3), "x": scalars}),
    max_size=4,
)
addressed = st.lists(
    st.fixed_dictionaries({"address": st.sampled_from("ab"), "port": st.integers(0, 2)}, optional={"w": scalars}),
    max_size=4,
)
values = st.recursive(
    st.one_of(scalars, named, addressed, st.lists(scalars, max_size=5)),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b.c", "name", "to"]), inner, max_size=3), st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


def patched(value: Any, changes: Sequence[FieldChange]) -> Any:
    """`value` with the changes made to it, step by step, as a reader of them would."""
    root = {"": copy.deepcopy(value)}
    for at, ordered in _lists(changes):
        _mend(root, at, changes, ordered)
    for change in changes:
        if not any(isinstance(step, Item | Order) for step in change.steps[-1:]):
            _set(root, ("", *change.steps), change.after)
    return _trimmed(root[""])


def _lists(changes: Sequence[FieldChange]) -> list[tuple[tuple[Any, ...], FieldChange | None]]:
    """Places of lists whose members came, went or moved; inner ones first."""
    found: dict[tuple[Any, ...], FieldChange | None] = {}
    for change in changes:
        if change.steps and isinstance(change.steps[-1], Item):
            found.setdefault(change.steps[:-1], None)
        elif change.steps and isinstance(change.steps[-1], Order):
            found[change.steps[:-1]] = change
    return sorted(found.items(), key=lambda item: -len(item[0]))


def _mend(root: Any, at: tuple[Any, ...], changes: Sequence[FieldChange], ordered: FieldChange | None) -> None:
    members = _get(root, ("", *at))
    mine = [one for one in changes if one.steps[:-1] == at and isinstance(one.steps[-1], Item)]
    fields = next((one.steps[-1].fields for one in mine if isinstance(one.steps[-1], Item)), None)
    if fields is None:
        fields = next(f for f in _candidates(members) if [_n(one, f) for one in members] == list(ordered.before))  # type: ignore[union-attr]
    held = {_n(one, fields): one for one in members}
    old = list(held)
    for change in mine:
        step = change.steps[-1]
        assert isinstance(step, Item)
        if change.after is UNSET:
            del held[step.name]
        else:
            held[step.name] = change.after
    names = list(ordered.after) if ordered is not None else expected_order(old, held)
    members[:] = [held[name] for name in names]


def _candidates(members: list[Any]) -> list[str]:
    keys = [key for key in ("name", "address", "port") if all(isinstance(m, dict) and key in m for m in members)]
    return ["", *keys, "address, port"]


def _n(value: Any, fields: str) -> str:
    return name_of(value, tuple(fields.split(", ")) if fields else ())


def _get(root: Any, steps: tuple[Any, ...]) -> Any:
    for step in steps:
        named = isinstance(step, Item)
        root = next(one for one in root if _n(one, step.fields) == step.name) if named else root[step]
    return root


class _Gone:
    pass


def _set(root: Any, steps: tuple[Any, ...], value: Any) -> None:
    place, last = _get(root, steps[:-1]), steps[-1]
    if isinstance(place, list):
        if last == len(place):
            place.append(value)
        else:
            place[last] = _Gone if value is UNSET else value
    elif value is UNSET:
        del place[last]
    else:
        place[last] = value


def _trimmed(value: Any) -> Any:
    if isinstance(value, list):
        return [_trimmed(one) for one in value if one is not _Gone]
    return {key: _trimmed(one) for key, one in value.items()} if isinstance(value, dict) else value


@given(values, values)
def test_a_difference_applied_to_the_one_gives_the_other(before: Any, after: Any) -> None:
    """Nothing is left out, and nothing told that does not differ."""
    changes = fields_between(before, after)
    assert repr(patched(before, changes)) == repr(_sorted_like(after, patched(before, changes)))
    assert (changes == ()) == (repr(before) == repr(_sorted_like(after, before)))
    assert fields_between(after, after) == ()


def _sorted_like(value: Any, like: Any) -> Any:
    """The value with the keys of its objects in the order of another, which means nothing."""
    if isinstance(value, dict) and isinstance(like, dict) and value.keys() == like.keys():
        return {key: _sorted_like(value[key], like[key]) for key in like}
    if isinstance(value, list) and isinstance(like, list) and len(value) == len(like):
        return [_sorted_like(one, other) for one, other in zip(value, like, strict=True)]
    return value


def _told(before: Any, after: Any) -> list[dict[str, Any]]:
    return [field.plain() for field in fields_between(before, after)]


def test_members_are_matched_by_name_and_not_by_place() -> None:
    """One that came in front of the others is one addition, not a change of all."""
    two = [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]
    three = [{"name": "c"}, {"name": "a", "weight": 1}, {"name": "b", "weight": 3}]
    assert _told({"to": two}, {"to": three}) == [
        {"path": "to[name=b].weight", "before": 2, "after": 3},
        {"path": "to[name=c]", "after": {"name": "c"}},
        {"path": "to (order)", "before": ["a", "b", "c"], "after": ["c", "a", "b"]},
    ]


def test_plain_values_are_matched_by_themselves() -> None:
    """And only where each stands once; else by place."""
    assert _told(["a", "b"], ["b"]) == [{"path": "[a]", "before": "a"}]
    assert _told(["a", "a"], ["a"]) == [{"path": "[1]", "before": "a"}]


def test_trees_are_compared_by_kind_and_name() -> None:
    """Added and removed as a whole, changed by field."""
    before: dict[str, dict[str, Any]] = {"Cluster": {"x": {"a": 1}, "y": {}}}
    after: dict[str, dict[str, Any]] = {"Cluster": {"x": {"a": 2}}, "Listener": {"l": {}}}
    assert [(one.kind, one.name, one.verb, len(one.fields)) for one in difference(before, after)] == [
        ("Cluster", "x", "changed", 1),
        ("Cluster", "y", "removed", 0),
        ("Listener", "l", "added", 0),
    ]
