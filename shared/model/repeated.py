"""Keys that stand twice in one object of a JSON text. Decoders keep the last and say nothing; YAML has its own reader.

RFC 8259 §4 leaves open which of them counts: what one reader approved need not be what the next one takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from shared.model.document import beneath, child, given_twice
from shared.model.limits import FAULTS_MAX
from shared.model.shape import Shape

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


class _Twice(Exception):
    """There is such a key."""


def repeated_keys(text: str) -> tuple[Shape, ...]:
    """Every key of a valid JSON text that stands there before, with its path, line and column (from 1)."""
    try:
        # Where a key is repeated hardly ever happens, so places are looked for only then.
        json.loads(text, object_pairs_hook=_once, parse_int=str, parse_float=str, strict=False)
    except _Twice:
        return tuple(islice(_found(text), FAULTS_MAX))
    return ()


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _Twice


class _Open:
    """An object or a list that is being read. lines: of its keys; key: the last one; count: of items before this."""

    def __init__(self, *, is_object: bool) -> None:
        self.is_object = is_object
        self.lines: dict[str, int] = {}
        self.key: str | None = None
        self.count = 0

    @property
    def step(self) -> str:
        return child("", self.key or "") if self.is_object else f"[{self.count}]"


def _found(text: str) -> Iterator[Shape]:
    stack: list[_Open] = []
    line, start, at = 1, 0, 0
    for token in _TOKEN.finditer(text):
        if newlines := text.count("\n", at, token.start()):
            line, start = line + newlines, text.rindex("\n", at, token.start()) + 1
        at = token.start()
        match token[0][0]:
            case "{" | "[" as bracket:
                stack.append(_Open(is_object=bracket == "{"))
            case "}" | "]":
                stack.pop()
            case ",":
                stack[-1].count += 1
                stack[-1].key = None
            case '"' if stack and stack[-1].is_object and stack[-1].key is None:
                open_, key = stack[-1], str(msgspec.json.decode(token[0]))
                open_.key = key
                if key in open_.lines:
                    yield Shape(_path(stack), given_twice(key, open_.lines[key]), line, at - start + 1)
                else:
                    open_.lines[key] = line
            case _:
                pass


def _path(stack: list[_Open]) -> str:
    path = ""
    for one in stack:
        path = beneath(path, one.step)
    return path
