"""Checks a tree against the shape of a resource and names every fault, not just the first.

`msgspec.convert` stops at its first fault and knows no lines. It stays the authority (what it accepts is what
we accept); this walker runs when it refused, over the same type information, and says all that is wrong.
"""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import inspect

from shared.model.document import Fields, Items, Node, Scalar, child, entry, plain

PORT = "port must be a valid (1-65535)"
REQUIRED = "must be defined"

_VERSIONS = ("TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13")
_KUMA_ORDER: dict[frozenset[Any], tuple[str, ...]] = {
    frozenset(choices): choices
    for choices in (
        ("tcp", "grpc", "http", "http2"),
        ("SkipSAN", "SkipCA", "SkipAll", "Secured"),
        ("Prefix", "Exact"),
        _VERSIONS,
    )
}
"""Kuma's messages list choices in its own order."""


class Shape(msgspec.Struct, frozen=True):
    """One fault: at `path`, written at `line:column`."""

    path: str
    reason: str
    line: int
    column: int


def faults(node: Node, wanted: type, path: str = "") -> tuple[Any, list[Shape]]:
    """Plain data for `msgspec.convert` (nulls of optional fields left out) and every fault found."""
    found: list[Shape] = []
    value = _walk(node, _info(wanted), path, found)
    return value, found


@cache
def _info(wanted: type) -> inspect.Type:
    return inspect.type_info(wanted)


def _walk(node: Node, wanted: inspect.Type, path: str, found: list[Shape]) -> Any:
    match wanted:
        case inspect.UnionType():
            return _walk_union(node, wanted, path, found)
        case inspect.StructType():
            return _walk_struct(node, wanted, path, found)
        case inspect.VarTupleType():
            if not isinstance(node, Items):
                return _refuse(node, path, "must be a list", found)
            return [_walk(item, wanted.item_type, f"{path}[{i}]", found) for i, item in enumerate(node.items)]
        case inspect.CustomType():
            return plain(node) if isinstance(node, Fields) else _refuse(node, path, "must be an object", found)
        case inspect.LiteralType():
            return _walk_literal(node, wanted, path, found)
        case inspect.IntType():
            return _walk_int(node, wanted, path, found)
        case inspect.FloatType():
            return _walk_float(node, path, found)
        case inspect.BoolType():
            return _expect(node, bool, "must be true or false", path, found)
        case inspect.StrType():
            return _expect(node, str, "must be text", path, found)
        case _:
            return plain(node)


def _walk_union(node: Node, wanted: inspect.UnionType, path: str, found: list[Shape]) -> Any:
    if isinstance(node, Scalar) and node.value is None:
        return None
    rest = [kind for kind in wanted.types if not isinstance(kind, inspect.NoneType)]
    return _walk(node, rest[0], path, found) if len(rest) == 1 else plain(node)


def _walk_struct(node: Node, wanted: inspect.StructType, path: str, found: list[Shape]) -> Any:
    if not isinstance(node, Fields):
        return _refuse(node, path, "must be an object", found)
    known = {field.encode_name: field for field in wanted.fields}
    maps = text_maps(wanted.cls)
    result: dict[str, Any] = {}
    seen = set()
    for one in node.fields:
        where = child(path, one.key)
        if one.key == wanted.tag_field:
            result[one.key] = plain(one.value)
        elif one.key not in known:
            found.append(Shape(where, _unknown(one.key, known), one.line, one.column))
        elif not known[one.key].required and isinstance(one.value, Scalar) and one.value.value is None:
            continue
        elif known[one.key].name in maps:
            seen.add(one.key)
            result[one.key] = _walk_text_map(one.value, where, found)
        else:
            seen.add(one.key)
            result[one.key] = _walk(one.value, known[one.key].type, where, found)
    for name, field in known.items():
        if field.required and name not in seen:
            found.append(Shape(child(path, name), REQUIRED, node.line, node.column))
    return result


def _unknown(key: str, known: dict[str, Any]) -> str:
    for name in known:
        if name.lower() == key.lower().replace("_", ""):
            return f"unknown field, did you mean {name}?"
    return f"unknown field, known are {', '.join(sorted(known))}" if known else "unknown field"


@cache
def text_maps(wanted: type) -> frozenset[str]:
    """Fields of a struct that map text to text. msgspec's type information drops the arguments of a map."""
    return frozenset(name for name, hint in get_type_hints(wanted).items() if get_args(hint) == (str, str))


def _walk_text_map(node: Node, path: str, found: list[Shape]) -> Any:
    if not isinstance(node, Fields):
        return _refuse(node, path, "must be an object", found)
    for field in node.fields:
        _expect(field.value, str, "must be text", entry(path, field.key), found)
    return plain(node)


def _walk_literal(node: Node, wanted: inspect.LiteralType, path: str, found: list[Shape]) -> Any:
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        return _refuse(node, path, "must be text", found)
    if node.value not in wanted.values:
        choices = _KUMA_ORDER.get(frozenset(wanted.values), wanted.values)
        listed = ", ".join(f'"{choice}"' for choice in choices)
        name = path.rpartition(".")[2]
        reason = f'"{name}" must be one of [{listed}]'
        if path == "spec.match.type":
            reason = f"unrecognized type '{node.value}' - only 'HostnameGenerator' is supported"
        found.append(Shape(path, reason, node.line, node.column))
    return node.value


def _walk_int(node: Node, wanted: inspect.IntType, path: str, found: list[Shape]) -> Any:
    value = _expect(node, int, "must be a whole number", path, found)
    if type(value) is int:
        low, high = wanted.ge, wanted.le
        if (low is not None and value < low) or (high is not None and value > high):
            reason = PORT if (low, high) == (1, 65535) else f"must be between {low} and {high}"
            found.append(Shape(path, reason, node.line, node.column))
    return value


def _walk_float(node: Node, path: str, found: list[Shape]) -> Any:
    if isinstance(node, Scalar) and type(node.value) in (int, float):
        return node.value
    return _refuse(node, path, "must be a number", found)


def _expect(node: Node, wanted: type, reason: str, path: str, found: list[Shape]) -> Any:
    if isinstance(node, Scalar) and type(node.value) is wanted:
        return node.value
    return _refuse(node, path, reason, found, hint="quote it" if wanted is str else "")


def _refuse(node: Node, path: str, reason: str, found: list[Shape], hint: str = "") -> None:
    text = f"{reason}, not {_spell(node)}"
    if hint and isinstance(node, Scalar) and node.value is not None:
        text += f": {hint}"
    found.append(Shape(path, text, node.line, node.column))


def _spell(node: Node) -> str:
    match node:
        case Items():
            return "a list"
        case Fields():
            return "an object"
        case Scalar(value=None):
            return "null"
        case Scalar(value=bool() as value):
            return "true" if value else "false"
        case Scalar(value=str()):
            # Values may be secrets that stand in the wrong place: they are never repeated.
            return "text"
        case Scalar(value=value):
            return f"the number {value}"
