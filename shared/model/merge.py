"""Merging plain data three ways: one step of several is taken back, the others are kept. Pure.

Items of lists are matched by what names them (`name`, `address`, `targetRef`, …) where that tells all of them apart,
else by equality and then by turn, so that an item that comes or goes changes no other item's fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from shared.model import codec

_PLAIN_KEY = re.compile(r"[A-Za-z_@][\w@-]*")
_IDENTITIES = (
    ("name",),
    ("kind", "name"),
    ("targetRef",),
    ("address",),
    ("address", "port"),
    ("port",),
    ("type", "value"),
    ("value",),
    ("matches",),
)
"""What may name the items of a list, in the order in which it is tried."""
_SEALED = "ciphertext"


class Conflict(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field that both sides changed: what it was `before`, what `this` made of it, what it is `now`."""

    path: str
    before: Any = UNSET
    this: Any = UNSET
    now: Any = UNSET


def below(path: str, key: str) -> str:
    """The path of a field of the object at `path`."""
    if not _PLAIN_KEY.fullmatch(key):
        return f'{path}["{key}"]'
    return f"{path}.{key}" if path else key


def is_leaf(value: Any) -> bool:
    """Whether nothing of it is looked at by itself: a scalar, something empty, or a sealed value."""
    return not isinstance(value, dict | list) or not value or (isinstance(value, dict) and _SEALED in value)


def matched(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[int, int]]:
    """Which item became which, in the order of `after`; items that are in no pair came or went."""
    names = _names(before, after)
    places: dict[bytes, list[int]] = {}
    for index, name in enumerate(names[0]):
        places.setdefault(name, []).append(index)
    pairs = [(places[name].pop(0), index) for index, name in enumerate(names[1]) if places.get(name)]
    taken = ({one for one, _ in pairs}, {other for _, other in pairs})
    sides = zip((before, after), taken, strict=True)
    left = [[index for index in range(len(side)) if index not in used] for side, used in sides]
    if len(left[0]) == len(left[1]):
        pairs += zip(*left, strict=True)
    return sorted(pairs, key=lambda pair: pair[1])


def _names(before: Sequence[Any], after: Sequence[Any]) -> tuple[list[bytes], list[bytes]]:
    """What each item is known by: the first identity that tells the items of both lists apart, else its value."""
    for identity in _IDENTITIES:
        named = [[_name(item, identity) for item in side] for side in (before, after)]
        if all(None not in side and len(set(side)) == len(side) for side in named):
            return [one or b"" for one in named[0]], [one or b"" for one in named[1]]
    return [codec.encode(item) for item in before], [codec.encode(item) for item in after]


def _name(item: Any, identity: Sequence[str]) -> bytes | None:
    if not isinstance(item, dict) or identity[0] not in item:
        return None
    return codec.encode([item.get(field) for field in identity])


# --- three ways ---------------------------------------------------------------------------------------------------


def taken_back(before: Any, this: Any, now: Any) -> tuple[Any, list[Conflict]]:
    """`now` without what the step from `before` to `this` changed, and the fields where somebody changed it since.

    UNSET stands for what is not there. A field in conflict stays as it is now.
    """
    conflicts: list[Conflict] = []
    return _taken_back(before, this, now, "", conflicts), conflicts


def _taken_back(before: Any, this: Any, now: Any, path: str, conflicts: list[Conflict]) -> Any:
    if before in (this, now):
        return now
    if now == this:
        return before
    if all(isinstance(one, dict) and not is_leaf(one) for one in (before, this, now)):
        return _of_objects(before, this, now, path, conflicts)
    if all(isinstance(one, list) and one for one in (before, this, now)):
        return _of_lists(before, this, now, path, conflicts)
    conflicts.append(Conflict(path, before, this, now))
    return now


def _of_objects(
    before: Mapping[str, Any], this: Mapping[str, Any], now: Mapping[str, Any], path: str, conflicts: list[Conflict]
) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key in dict.fromkeys([*now, *before, *this]):
        sides = (before.get(key, UNSET), this.get(key, UNSET), now.get(key, UNSET))
        value = _taken_back(*sides, below(path, key), conflicts)
        if value is not UNSET:
            merged[key] = value
    return merged


def _of_lists(
    before: Sequence[Any], this: Sequence[Any], now: Sequence[Any], path: str, conflicts: list[Conflict]
) -> list[Any]:
    """Items of `now`, those that this step changed as before, those that it added left out, those it removed back."""
    was = {other: one for one, other in matched(before, this)}
    since = matched(this, now)
    origin = {other: one for one, other in since}
    orders = [was[one] for one in sorted(was)]
    if orders != sorted(orders):
        conflicts.append(Conflict(path, before, this, now))
        return list(now)
    merged: list[tuple[int | None, Any]] = []
    for index, item in enumerate(now):
        one = origin.get(index)
        if one is None:
            merged.append((None, item))
            continue
        old = before[was[one]] if one in was else UNSET
        value = _taken_back(old, this[one], item, f"{path}[{index}]", conflicts)
        if value is not UNSET:
            merged.append((was.get(one), value))
    gone = set(range(len(this))) - set(origin.values())
    conflicts += [
        Conflict(f"{path}[{one}]", before[was[one]], this[one], UNSET)
        for one in sorted(gone & was.keys())
        if before[was[one]] != this[one]
    ]
    for index in sorted(set(range(len(before))) - set(was.values())):
        _put_back(merged, index, before[index], path, conflicts)
    return [value for _, value in merged]


def _put_back(
    merged: list[tuple[int | None, Any]], index: int, item: Any, path: str, conflicts: list[Conflict]
) -> None:
    """Put an item that had been removed behind the last one that stood before it."""
    values = [value for _, value in merged]
    (name,), others = _names([item], values)
    if name in others:
        if (twin := values[others.index(name)]) != item:
            conflicts.append(Conflict(f"{path}[{index}]", item, UNSET, twin))
        return
    at = max((place + 1 for place, (one, _) in enumerate(merged) if one is not None and one < index), default=0)
    merged.insert(at, (index, item))
