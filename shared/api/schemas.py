"""JSON Schemas of the model's structs. msgspec's own generator cannot write defaults that are immutable maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from immutables import Map
from msgspec import inspect

from shared.model.shape import text_maps

REFERENCE = "#/components/schemas/{name}"
HIDDEN = frozenset({"sealed"})
"""Fields that are never accepted and never shown."""


def struct_schemas(types: Iterable[type]) -> dict[str, dict[str, Any]]:
    """A schema per struct that `types` reach, by class name; unknown fields are refused.

    Structs of one name are told apart by their modules: `RoutePolicyMatch`.
    """
    reached = [inspect.type_info(wanted) for wanted in types]
    classes: dict[type, None] = {}
    for wanted in reached:
        _reach(wanted, classes)
    often = Counter(one.__name__ for one in classes)
    names = {one: _qualified(one) if often[one.__name__] > 1 else one.__name__ for one in classes}
    found: dict[str, dict[str, Any]] = {}
    for wanted in reached:
        _schema(wanted, found, names)
    return found


def _qualified(one: type) -> str:
    module = one.__module__.rpartition(".")[2]
    return "".join(part.capitalize() for part in module.split("_")) + one.__name__


def _reach(wanted: inspect.Type, classes: dict[type, None]) -> None:
    match wanted:
        case inspect.StructType() if wanted.cls not in classes:
            classes[wanted.cls] = None
            for field in wanted.fields:
                _reach(field.type, classes)
        case inspect.UnionType():
            for one in wanted.types:
                _reach(one, classes)
        case inspect.VarTupleType():
            _reach(wanted.item_type, classes)
        case _:
            pass


def _schema(wanted: inspect.Type, found: dict[str, dict[str, Any]], names: Mapping[type, str]) -> dict[str, Any]:
    match wanted:
        case inspect.StructType():
            return _struct(wanted, found, names)
        case inspect.UnionType():
            kinds = [_schema(kind, found, names) for kind in wanted.types if not isinstance(kind, inspect.NoneType)]
            return {"anyOf": [*kinds, {"type": "null"}]} if len(kinds) < len(wanted.types) else {"anyOf": kinds}
        case inspect.VarTupleType():
            return {"type": "array", "items": _schema(wanted.item_type, found, names)}
        case inspect.CustomType() if wanted.cls is Map:
            return {"type": "object"}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(wanted.values)}
        case inspect.IntType():
            limits = {"minimum": wanted.ge, "maximum": wanted.le}
            return {"type": "integer"} | {name: limit for name, limit in limits.items() if limit is not None}
        case inspect.FloatType():
            return {"type": "number"}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.StrType():
            return {"type": "string"}
        case _:
            raise TypeError(f"no schema for {wanted!r}")


def _struct(wanted: inspect.StructType, found: dict[str, dict[str, Any]], names: Mapping[type, str]) -> dict[str, Any]:
    name = names[wanted.cls]
    if name not in found:
        properties: dict[str, Any] = {}
        found[name] = {"type": "object", "properties": properties, "additionalProperties": False}
        required = [field.encode_name for field in wanted.fields if field.required]
        if wanted.tag_field is not None:
            properties[wanted.tag_field] = {"type": "string", "enum": [wanted.tag]}
            required.insert(0, wanted.tag_field)
        for field in wanted.fields:
            if field.name in text_maps(wanted.cls):
                properties[field.encode_name] = {"type": "object", "additionalProperties": {"type": "string"}}
            elif field.encode_name not in HIDDEN:
                properties[field.encode_name] = _schema(field.type, found, names)
        if required:
            found[name]["required"] = required
    return {"$ref": REFERENCE.format(name=name)}
