"""Trees of plain data that remember where they were written: what a manifest is before it is a resource.

YAML is read from the parser's events, not through a loader: depth, size and aliases are bounded while
reading, every node keeps its line and column, and scalars follow YAML 1.2 (`no` is text, `010` is ten).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import msgspec
import yaml

from shared.model.limits import DEPTH_MAX, FILE_BYTES_MAX, KEY_MAX, NODES_MAX, NUMBER_DIGITS_MAX, RESOURCES_MAX

_SHOWN = 40
TOO_DEEP = f"nested deeper than {DEPTH_MAX} levels"

_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+\Z")
_OCT = re.compile(r"0o[0-7]+\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")

_STR_TAGS = frozenset({"tag:yaml.org,2002:str", "!"})
_CORE_TAGS = _STR_TAGS | {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "seq", "map")}


class Scalar(msgspec.Struct, frozen=True):
    """Text, number, boolean or null at `line:column` (from 1; 0 when it did not come from a file)."""

    value: str | int | float | bool | None
    line: int = 0
    column: int = 0


class Items(msgspec.Struct, frozen=True):
    """A sequence."""

    items: tuple[Node, ...]
    line: int = 0
    column: int = 0


class Field(msgspec.Struct, frozen=True):
    """One entry of a mapping; line and column are those of the key."""

    key: str
    value: Node
    line: int = 0
    column: int = 0


class Fields(msgspec.Struct, frozen=True):
    """A mapping, in the order it was written."""

    fields: tuple[Field, ...]
    line: int = 0
    column: int = 0

    def get(self, key: str) -> Node | None:
        """The value under `key`, or None."""
        for field in self.fields:
            if field.key == key:
                return field.value
        return None

    def text(self, key: str) -> str | None:
        """The value under `key` where it is text, or None."""
        node = self.get(key)
        return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else None

    def without(self, *keys: str) -> Fields:
        """The same mapping without `keys`."""
        return Fields(tuple(field for field in self.fields if field.key not in keys), self.line, self.column)


Node: TypeAlias = Scalar | Items | Fields


class Malformed(Exception):
    """The text is not the YAML we accept; says where and why. `path` is that of what is at fault, "" where none is."""

    def __init__(self, line: int, column: int, reason: str, path: str = "") -> None:
        super().__init__(f"{line}:{column}: {reason}")
        self.line = line
        self.column = column
        self.reason = reason
        self.path = path


def child(path: str, key: str) -> str:
    """Path of a field: `spec.match`; keys that are not names are quoted: `labels["a/b"]`."""
    if key.isidentifier() and len(key) <= KEY_MAX:
        return f"{path}.{key}" if path else key
    return entry(path, key)


def entry(path: str, key: str) -> str:
    """Path of what a map holds under a key: `labels["a"]`."""
    return f"{path}[{_quoted(key)}]"


def given_twice(key: str, line: int) -> str:
    """What is said of a key that stands in `line` before."""
    return f"the key {_quoted(key)} is given twice, first in line {line}"


def _quoted(key: str) -> str:
    # Paths are shown in terminals: no character of a key may move their cursor.
    return msgspec.json.encode(key if len(key) <= KEY_MAX else f"{key[:_SHOWN]}…").decode()


def beneath(path: str, rest: str) -> str:
    """The path of what stands at `rest`, seen from `path`."""
    return f"{path}.{rest}" if path and rest and not rest.startswith("[") else path + rest


def read(text: str) -> Iterator[Node]:
    """The documents of a YAML (or JSON) text, empty ones left out. Raises Malformed at the first fault."""
    if len(text) > FILE_BYTES_MAX or len(text.encode("utf-8", "surrogatepass")) > FILE_BYTES_MAX:
        raise Malformed(1, 1, f"the file is larger than {FILE_BYTES_MAX} bytes")
    composer = _Composer()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            composer.take(event)
            if composer.finished is not None:
                document, composer.finished = composer.finished, None
                if not (isinstance(document, Scalar) and document.value is None):
                    yield document
    except Malformed as malformed:
        malformed.path = beneath(composer.path, malformed.path)
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Malformed(line, column, f"not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise Malformed(1, 1, f"not valid YAML: {str(error).splitlines()[0]}") from None


def from_plain(value: Any, depth: int = DEPTH_MAX) -> Node:
    """The tree of decoded JSON; it has no lines. Raises Malformed where it nests deeper than `depth`."""
    match value:
        case dict() | list() | tuple() if depth == 0:
            raise Malformed(0, 0, TOO_DEEP)
        case dict():
            return Fields(tuple(Field(str(key), from_plain(item, depth - 1)) for key, item in value.items()))
        case list() | tuple():
            return Items(tuple(from_plain(item, depth - 1) for item in value))
        case _:
            return Scalar(value)


def plain(node: Node) -> Any:
    """Dicts, lists and scalars."""
    match node:
        case Scalar():
            return node.value
        case Items():
            return [plain(item) for item in node.items]
        case Fields():
            return {field.key: plain(field.value) for field in node.fields}


class _Open:
    """A collection that is being read."""

    def __init__(self, event: Any, *, mapping: bool) -> None:
        self.line = event.start_mark.line + 1
        self.column = event.start_mark.column + 1
        self.anchor = event.anchor
        self.mapping = mapping
        self.items: list[Node] = []
        self.fields: list[Field] = []
        self.keys: dict[str, int] = {}
        self.key: Scalar | None = None
        self.size = 1
        self.depth = 0

    def add(self, placed: _Anchored) -> None:
        node = placed.node
        self.size += placed.size
        self.depth = max(self.depth, placed.depth)
        if not self.mapping:
            self.items.append(node)
        elif self.key is None:
            self._open_field(node)
        else:
            self.fields.append(Field(str(self.key.value), node, self.key.line, self.key.column))
            self.key = None

    def _open_field(self, node: Node) -> None:
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            raise Malformed(node.line, node.column, "keys must be text: quote it")
        if node.value in self.keys:
            reason = given_twice(node.value, self.keys[node.value])
            raise Malformed(node.line, node.column, reason, child("", node.value))
        self.keys[node.value] = node.line
        self.key = node

    def close(self) -> Node:
        if self.mapping:
            return Fields(tuple(self.fields), self.line, self.column)
        return Items(tuple(self.items), self.line, self.column)

    @property
    def step(self) -> str:
        """Where the next node goes, as the end of a path."""
        if self.mapping:
            return child("", str(self.key.value)) if self.key else ""
        return f"[{len(self.items)}]"


class _Anchored(NamedTuple):
    """What an alias stands for: a node, how many values are in it and how deep they nest."""

    node: Node
    size: int
    depth: int


class _Composer:
    """Builds trees from parser events, with an explicit stack."""

    def __init__(self) -> None:
        self.finished: Node | None = None
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._documents = 0
        self._nodes = 0

    @property
    def path(self) -> str:
        """Where the next node goes."""
        path = ""
        for one in self._stack:
            path = beneath(path, one.step)
        return path

    def take(self, event: Any) -> None:
        match event:
            case yaml.ScalarEvent():
                self._place(_Anchored(_scalar(event), 1, 0), event.anchor, event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                _check_tag(event)
                if len(self._stack) >= DEPTH_MAX:
                    raise _malformed(event, TOO_DEEP)
                self._stack.append(_Open(event, mapping=isinstance(event, yaml.MappingStartEvent)))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = self._stack.pop()
                self._place(_Anchored(closed.close(), closed.size, closed.depth + 1), closed.anchor, event)
            case yaml.AliasEvent():
                if event.anchor not in self._anchors:
                    raise _malformed(event, f'unknown alias "{event.anchor}"')
                self._place(self._anchors[event.anchor], None, event)
            case yaml.DocumentStartEvent():
                self._anchors = {}
                self._documents += 1
                if self._documents > RESOURCES_MAX:
                    raise _malformed(event, f"more than {RESOURCES_MAX} documents")
            case _:
                pass

    def _place(self, placed: _Anchored, anchor: str | None, event: Any) -> None:
        if anchor is not None:
            self._anchors[anchor] = placed
        if len(self._stack) + placed.depth > DEPTH_MAX:
            raise _malformed(event, TOO_DEEP)
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            self._nodes += placed.size
            if self._nodes > NODES_MAX:
                raise _malformed(event, f"more than {NODES_MAX} values once aliases are followed")
        if self._stack:
            self._stack[-1].add(placed)
        else:
            self.finished = placed.node


def _malformed(event: Any, reason: str) -> Malformed:
    return Malformed(event.start_mark.line + 1, event.start_mark.column + 1, reason)


def _check_tag(event: Any) -> None:
    if event.tag is not None and event.tag not in _CORE_TAGS:
        raise _malformed(event, f'the tag "{event.tag}" is not supported')


def _scalar(event: Any) -> Scalar:
    _check_tag(event)
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    text = event.value
    if not event.implicit[0] and (event.tag is None or event.tag in _STR_TAGS):
        return Scalar(text, line, column)
    try:
        return Scalar(_resolve(text), line, column)
    except ValueError:
        raise Malformed(line, column, f'"{text[:40]}" is not a number we can hold') from None


def _resolve(text: str) -> str | int | float | bool | None:
    """YAML 1.2.2 core schema, https://yaml.org/spec/1.2.2/#1032-tag-resolution."""
    if _NULL.match(text):
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.match(text) or _OCT.match(text) or _HEX.match(text):
        if len(text) > NUMBER_DIGITS_MAX:
            raise ValueError(text)
        return int(text, 16 if text.startswith("0x") else 8 if text.startswith("0o") else 10)
    if _FLOAT.match(text):
        number = float(text)
        if not isfinite(number):
            raise ValueError(text)
        return number
    return text
