from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.model.repeated import repeated_keys

TWICE = "is given twice, first in line 1"


def told(text):
    return [(one.line, one.column, one.path, one.reason.split(" ", 3)[3]) for one in repeated_keys(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "b": {"a": 2}}', []),
        ('{"a": 1, "a": 2}', [(1, 10, "a", TWICE)]),
        ('{"a": {},\n "\\u0061": 2}', [(2, 2, "a", TWICE)]),
        (
            '{"resources": [{"b": "},]"},\n  {"x/y": {"b": [1, {"c": 1,\n"c": 2}]}}]}',
            [(3, 1, 'resources[1]["x/y"].b[1].c', "is given twice, first in line 2")],
        ),
        ('{"a": "\\"", "a": ["a", "a"], "a": "a"}', [(1, 13, "a", TWICE), (1, 30, "a", TWICE)]),
        ('[[], {"": 1, "": 2}]', [(1, 14, '[1][""]', TWICE)]),
    ],
)
def test_repeated_keys_of_json(text, found):
    """Each key that stands there before, however it is spelled, with its place and path."""
    assert told(text) == found


VALUES = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(st.text(max_size=2), inner), max_size=4),
    max_leaves=20,
)


class Pairs(dict[object, object]):
    """An object that is written with all its pairs, repeated keys too."""

    def __init__(self, pairs):
        super().__init__(enumerate(pairs))
        self.pairs = pairs

    def items(self):
        return self.pairs


def _objects(value):
    """Lists of pairs become objects; gives the value and how many keys are repeated in it."""
    if isinstance(value, list):
        made = [_objects(one[1] if isinstance(one, tuple) else one) for one in value]
        count = sum(n for _, n in made)
        if value and all(isinstance(one, tuple) for one in value):
            keys = [key for key, _ in value]
            pairs = [(key, one) for key, (one, _) in zip(keys, made, strict=True)]
            return Pairs(pairs), count + len(keys) - len(set(keys))
        return [one for one, _ in made], count
    return value, 0


@given(VALUES, st.sampled_from([None, 1]))
def test_any_json_is_judged(value, indent):
    """Exactly the repeated keys are found, whatever the text, and each stands where it is said to."""
    made, count = _objects(value)
    text = json.dumps(made, indent=indent)
    found = repeated_keys(text)
    assert len(found) == count
    for one in found:
        assert text.splitlines()[one.line - 1][one.column - 1] == '"'
