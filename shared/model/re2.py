"""Whether RE2 compiles a pattern: Envoy refuses a whole route configuration for one that it cannot compile.

What Python's `re` and RE2 (https://github.com/google/re2/wiki/Syntax) both read is let pass. Sizes are RE2's: a count
of at most 1,000, also of counts within counts, and a program that fits its memory. `tests/e2e/test_re2.py` asks a real
Envoy.
"""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

REPEAT_MAX = 1000
"""RE2's `kMaxRepeat`, also for the product of nested counts."""
SIZE_MAX = 100_000
"""Of the compiled program, roughly in instructions; RE2 has room for about 350,000 by default."""
_LITERAL, _CLASS = 2, 20
"""What one character and one class cost: bytes of UTF-8, and the ranges that they fall into."""

_ESCAPES = frozenset("dDsSwWfntrvax0")
_OUTSIDE_CLASS = frozenset("bBA")
_FLAGS = re.compile(r"\?(?:[ims]+(?:-[ims]+)?|-[ims]+)?(?P<end>[:)])")
_NAME = re.compile(r"\?P<[A-Za-z_][A-Za-z0-9_]*>")
_COUNT = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_POSIX = re.compile(r"\[:\^?([a-z]*):\]")
_POSIX_NAMES = frozenset(
    ("alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word")
) | {"xdigit"}


class Repeat(NamedTuple):
    """`what`, `most` times."""

    most: int
    what: Node


Node: TypeAlias = int | Repeat | tuple["Node", ...]
"""The size of an atom, a repetition, or several one after the other or as alternatives."""


class _Fault(Exception):
    pass


def re2_fault(pattern: str) -> str | None:
    """Why RE2 does not compile what Python's `re` does, or None."""
    try:
        reader = _Reader(pattern)
        tree = reader.alternatives()
        if reader.at < len(pattern):
            return "unbalanced parenthesis"
        if _repeats(tree, REPEAT_MAX) == 0:
            return f"counts of repetitions may come to {REPEAT_MAX} at most"
        return None if _size(tree) <= SIZE_MAX else "too large once repetitions are written out"
    except _Fault as fault:
        return str(fault)


def _repeats(node: Node, left: int) -> int:
    """What is left of REPEAT_MAX on the way that uses most of it, as RE2 divides it; 0: nothing."""
    match node:
        case Repeat(most, what):
            return _repeats(what, left // most if most > 1 else left)
        case tuple():
            return min((_repeats(one, left) for one in node), default=left)
        case _:
            return left


def _size(node: Node) -> int:
    match node:
        case Repeat(most, what):
            return _size(what) * max(most, 1) + 1
        case tuple():
            return sum(_size(one) for one in node)
        case _:
            return node


class _Reader:
    """Reads a pattern that Python has compiled, so that brackets are closed and nothing is repeated twice."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def alternatives(self) -> Node:
        found: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] != ")":
            if self.text[self.at] == "|":
                self.at += 1
            else:
                found.append(self._repeated(self._atom()))
        return tuple(found)

    def _atom(self) -> Node:
        char = self.text[self.at]
        self.at += 1
        match char:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape(_ESCAPES | _OUTSIDE_CLASS)
            case ".":
                return _CLASS
            case _:
                return _LITERAL

    def _repeated(self, atom: Node) -> Node:
        if self._next() in {"*", "+", "?"}:
            self.at += 1
            atom = Repeat(1, atom)
        elif found := _COUNT.match(self.text, self.at):
            self.at = found.end()
            most = int(found[3] or found[1])
            if most > REPEAT_MAX:
                raise _Fault(f"counts of repetitions may come to {REPEAT_MAX} at most")
            atom = Repeat(most, atom)
        else:
            return atom
        if self._next() == "?":
            self.at += 1
        if self._next() == "+":
            raise _Fault("no possessive repetitions")
        return atom

    def _group(self) -> Node:
        if self._next() == "?":
            found = _NAME.match(self.text, self.at) or _FLAGS.match(self.text, self.at)
            if found is None:
                raise _Fault("of what begins with (? it knows names (?P<n>), the flags i, m and s, and (?:)")
            self.at = found.end()
            if found.groupdict().get("end") == ")":
                return ()
        inside = self.alternatives()
        if self._next() != ")":
            raise _Fault("a group is not closed")
        self.at += 1
        return inside

    def _escape(self, known: frozenset[str]) -> int:
        char = self.text[self.at]
        self.at += 1
        if char.isascii() and not char.isalnum():
            return _LITERAL
        if char not in known:
            raise _Fault(f"it has no \\{char} here")
        if char == "x":
            self.at += 2
        return _CLASS if char in "dDsSwW" else _LITERAL

    def _class(self) -> int:
        if self._next() == "^":
            self.at += 1
        first = True
        while first or self._next() != "]":
            first = False
            if posix := _POSIX.match(self.text, self.at):
                if posix[1] not in _POSIX_NAMES:
                    raise _Fault(f"it has no class [:{posix[1]}:]")
                self.at = posix.end()
                continue
            if self.at >= len(self.text):
                raise _Fault("a set is not closed")  # Python reads [[:alpha:] otherwise
            self.at += 1
            if self.text[self.at - 1] == "\\":
                self._escape(_ESCAPES)
        self.at += 1
        return _CLASS

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]
