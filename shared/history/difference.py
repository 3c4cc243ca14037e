"""What differs between two trees, by field: of resources, of a ZoneView, of what proxies hold. Pure.

Members of a list are matched by what names them (a name, an address, a port, …) where all of them have such a thing and
no two the same; plain values by themselves; anything else by its place. That the same members stand in another order is
a difference of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

Value: TypeAlias = Any
"""Plain data as of JSON, or UNSET for what is not there."""

_NAMING: tuple[tuple[str, ...], ...] = (
    ("name",),
    ("key",),
    ("address",),
    ("address", "port"),
    ("port",),
    ("targetRef",),
    ("endpoint.address.socket_address.address",),
    ("endpoint.address.socket_address.address", "endpoint.address.socket_address.port_value"),
    ("matcher",),
    ("matches",),
    ("match",),
)
"""Fields that may name a member of a list, those to be tried first first."""
_NAME_MAX = 80


class Item(msgspec.Struct, frozen=True):
    """A step of a path to the member of a list that `name` names; "" as fields: it is that value itself."""

    fields: str
    name: str


class Order(msgspec.Struct, frozen=True):
    """The last step of a path where only the order of a list's members differs; its values are their names."""


Step: TypeAlias = str | int | Item | Order


class FieldChange(msgspec.Struct, frozen=True):
    """One difference. No steps: all of it came or went."""

    steps: tuple[Step, ...]
    before: Value = UNSET
    after: Value = UNSET

    @property
    def path(self) -> str:
        """The steps for people: `spec.endpoints[address=10.0.0.1].port`."""
        return "".join(_told(step) for step in self.steps).removeprefix(".")

    def plain(self) -> dict[str, Any]:
        """As it is shown and sent; a side that has nothing is left out."""
        sides = (("before", self.before), ("after", self.after))
        return {"path": self.path, **{side: value for side, value in sides if value is not UNSET}}


class ResourceChange(msgspec.Struct, frozen=True):
    """What became of one resource, or one part of a view. What came or went has one field, all of it, or none."""

    kind: str
    name: str
    verb: str
    fields: tuple[FieldChange, ...] = ()


def difference(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]], *, whole: bool = False
) -> list[ResourceChange]:
    """How two trees (`shared.history.tree`) differ, by kind and name; whole: with what came or went, as one field."""
    changes: list[ResourceChange] = []
    for kind in sorted({*before, *after}):
        old, new = before.get(kind, {}), after.get(kind, {})
        for name in sorted({*old, *new}):
            if name not in new:
                gone = (FieldChange((), before=old[name]),) if whole else ()
                changes.append(ResourceChange(kind, name, "removed", gone))
            elif name not in old:
                came = (FieldChange((), after=new[name]),) if whole else ()
                changes.append(ResourceChange(kind, name, "added", came))
            elif fields := fields_between(old[name], new[name]):
                changes.append(ResourceChange(kind, name, "changed", fields))
    return changes


def fields_between(before: Value, after: Value) -> tuple[FieldChange, ...]:
    """Where two values differ."""
    return tuple(_walk(before, after, ()))


def _walk(before: Value, after: Value, steps: tuple[Step, ...]) -> Iterator[FieldChange]:
    if before is after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _walk(before.get(key, UNSET), after.get(key, UNSET), (*steps, str(key)))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(before, after, steps)
    elif type(before) is not type(after) or before != after:
        yield FieldChange(steps, before, after)


def _lists(before: list[Any], after: list[Any], steps: tuple[Step, ...]) -> Iterator[FieldChange]:
    naming = _naming(before, after)
    if naming is None:
        for index in range(max(len(before), len(after))):
            old, new = (side[index] if index < len(side) else UNSET for side in (before, after))
            yield from _walk(old, new, (*steps, index))
        return
    fields = ", ".join(naming)
    was, now = ({_name(one, naming): one for one in side} for side in (before, after))
    for name in {**was, **now}:
        yield from _walk(was.get(name, UNSET), now.get(name, UNSET), (*steps, Item(fields, name)))
    expected = expected_order(was, now)
    if list(now) != expected:
        yield FieldChange((*steps, Order()), expected, list(now))


def expected_order(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """The order of the new members that goes without saying: what comes takes the places of what went, then the end."""
    before, after = list(old), set(new)
    fresh = iter([name for name in new if name not in before])
    kept = [name if name in after else next(fresh, None) for name in before]
    return [*(name for name in kept if name is not None), *fresh]


def _naming(*sides: Sequence[Any]) -> tuple[str, ...] | None:
    """What names the members of both lists; () when they are named by themselves, None when nothing does."""
    members = [one for side in sides for one in side]
    if not any(isinstance(one, dict | list) for one in members):
        return () if all(_is_unique(side, ()) for side in sides) else None
    if not all(isinstance(one, dict) for one in members):
        return None
    for fields in _NAMING:
        if all(_has(one, field) for one in members for field in fields) and all(_is_unique(s, fields) for s in sides):
            return fields
    return None


def _is_unique(members: Sequence[Any], naming: tuple[str, ...]) -> bool:
    return len({_name(one, naming) for one in members}) == len(members)


def _has(value: Any, field: str) -> bool:
    return _at(value, field) is not UNSET


def _at(value: Any, field: str) -> Any:
    for part in field.split("."):
        value = value.get(part, UNSET) if isinstance(value, dict) else UNSET
    return value


def _name(value: Any, naming: tuple[str, ...]) -> str:
    if not naming:
        return _text(value)
    return ", ".join(_text(_at(value, field)) for field in naming)


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case dict() if all(isinstance(one, str) for one in value.values()):
            return " ".join(value[key] for key in sorted(value))
        case _:
            return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _told(step: Step) -> str:
    match step:
        case str():
            return f".{step}"
        case int():
            return f"[{step}]"
        case Item(fields="", name=name):
            return f"[{_short(name)}]"
        case Item(fields=fields, name=name):
            return f"[{fields.rpartition('.')[2]}={_short(name)}]"
        case Order():
            return " (order)"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}…"
