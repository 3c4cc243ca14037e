"""Judges the sizes of a document's tree (`limits.py`): how long lists, objects, keys and texts are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from shared.model.document import Field, Fields, Items, Node, Scalar, beneath, child
from shared.model.limits import ENTRIES_MAX, ITEMS_MAX, KEY_MAX, LABEL_VALUE_MAX, TAG_VALUE_MAX, TEXT_MAX, TEXTS
from shared.model.shape import Shape

_VALUES = {"matchLabels": LABEL_VALUE_MAX, "tags": TAG_VALUE_MAX}
"""Values of a map, by its field. What is too long in labels themselves is told with Kuma's sentence (`labels.py`)."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""YAML keeps them out of its text, too, but not out of its escapes (https://yaml.org/spec/1.2.2/#51-character-set)."""
_CONTROLS = "must hold no control characters"


def oversized(node: Node) -> tuple[Shape, ...]:
    """Everything in a canonical document that is larger than a limit, or text that nothing can be meant by.

    Nothing inside of what is too large is judged.
    """
    return tuple(_judge(node, "", TEXT_MAX))


def _judge(node: Node, name: str, most: int) -> Sequence[Shape]:
    """name: of the field that the node is the value of; most: characters of a text. Paths are made of faults alone."""
    match node:
        case Scalar(value=value):
            if not isinstance(value, str) or (len(value) <= most and not _CONTROL.search(value)):
                return ()
            too_long = f"has {len(value)} characters, at most {most} are possible"
            return (Shape("", too_long if len(value) > most else _CONTROLS, node.line, node.column),)
        case Items(items=items):
            if len(items) > ITEMS_MAX:
                return (_too_many(node, len(items), ITEMS_MAX),)
            found: list[Shape] = []
            for index, one in enumerate(items):
                if inner := _judge(one, name, most):
                    found += _within(f"[{index}]", inner)
            return found
        case Fields(fields=fields):
            return (
                _judge_fields(fields, name)
                if len(fields) <= ENTRIES_MAX
                else (_too_many(node, len(fields), ENTRIES_MAX),)
            )


def _judge_fields(fields: Sequence[Field], name: str) -> Sequence[Shape]:
    found: list[Shape] = []
    values = _VALUES.get(name)
    for field in fields:
        key = field.key
        if len(key) > KEY_MAX:
            reason = f"the key has {len(key)} characters, at most {KEY_MAX} are possible"
            found.append(Shape(child("", key), reason, field.line, field.column))
        elif _CONTROL.search(key):
            found.append(Shape(child("", key), f"the key {_CONTROLS}", field.line, field.column))
        elif inner := _judge(field.value, key, values or TEXTS.get(key, TEXT_MAX)):
            found += _within(child("", key), inner)
    return found


def _too_many(node: Node, count: int, most: int) -> Shape:
    return Shape("", f"has {count} entries, at most {most} are possible", node.line, node.column)


def _within(step: str, inner: Sequence[Shape]) -> Iterator[Shape]:
    for shape in inner:
        yield Shape(beneath(step, shape.path), shape.reason, shape.line, shape.column)
