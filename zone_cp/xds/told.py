"""An encoded xDS resource as plain data, read off the wire: what `inspect` shows, a dozen times as fast.

envoy-data-plane makes an object of every message and validates each; an egress of ten thousand clusters takes half a
minute like that. Most of these messages are the same bytes in every cluster. So fields are read here, as the classes
of envoy-data-plane describe them, and what equal bytes were told as is remembered. What is out of the ordinary (maps,
packed numbers, messages with a form of their own) is left to the library, one field at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import betterproto2
from envoy_data_plane.google import protobuf as google
from envoy_data_plane.message_pool import default_message_pool

REMEMBERED = 20_000
"""Messages whose plain form is kept."""
REMEMBERED_BYTES = 2_048
"""Longer ones are not alike."""
_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5
_WIDTH = {_FIXED_64: 8, _FIXED_32: 4}


class _Field(NamedTuple):
    """How a field is read: by `inner` where it is a message, by the library where it is `odd`."""

    name: str
    meta: Any
    inner: Any
    odd: bool


class Reader:
    """Reads messages. plain: the plain form of what the library makes; own: classes that have a form of their own."""

    def __init__(self, plain: Callable[[Any], Any], own: tuple[type, ...]) -> None:
        self._plain = plain
        self._own = own
        self._remembered = lru_cache(REMEMBERED)(self._read)
        self._odd = lru_cache(REMEMBERED)(self._by_library)

    def told(self, message: type[betterproto2.Message], body: bytes) -> dict[str, Any]:
        """A message as plain data. Parts of it may be parts of other answers too: it is not to be changed."""
        found: dict[str, Any] = self._any(body) if message is google.Any else self._message(message, body)
        return found

    def _inner(self, message: type[betterproto2.Message], body: bytes) -> Any:
        return self._remembered(message, body) if len(body) <= REMEMBERED_BYTES else self._read(message, body)

    def _read(self, message: type[betterproto2.Message], body: bytes) -> Any:
        if message is google.Any:
            return self._any(body)
        if message in self._own:
            return self._plain(message.parse(body))
        return self._message(message, body)

    def _any(self, body: bytes) -> dict[str, Any]:
        parts = {number: value for number, _, value, _ in _fields_of(body)}
        type_url = bytes(parts.get(1, b"")).decode()
        held = default_message_pool.url_to_type[type_url]
        return {"@type": type_url.rpartition("/")[2], **self._inner(held, parts.get(2, b""))}

    def _message(self, message: Any, body: bytes) -> dict[str, Any]:
        known, order, blank = _described(message)
        found: dict[str, Any] = {}
        odd: dict[str, bytes] = {}
        for number, wire, value, raw in _fields_of(body):
            field = known.get(number)
            if field is None:
                continue
            name, meta = field.name, field.meta
            if field.odd:
                odd[name] = odd.get(name, b"") + raw
            elif field.inner is not None:
                item = self._inner(field.inner, value)
                self._put(found, field, item, keeps=True)
            else:
                read = blank._postprocess_single(wire, meta, name, value)  # noqa: SLF001 - how the library reads a number
                self._put(found, field, self._plain(read), keeps=meta.optional or _is_set(read))
        for name, raw in odd.items():
            found |= self._odd(message, name, raw)
        return {name: found[name] for name in order if name in found}

    def _by_library(self, message: Any, name: str, raw: bytes) -> dict[str, Any]:
        """One field of a message, from all the bytes that are about it; nothing where it is not set."""
        held = getattr(message.parse(raw), name)
        optional = _metadata(message).meta_by_field_name[name].optional
        return {name: self._plain(held)} if (held is not None if optional else _is_set(held)) else {}

    def _put(self, found: dict[str, Any], field: _Field, item: Any, *, keeps: bool) -> None:
        if field.meta.repeated:
            found.setdefault(field.name, []).append(item)
        elif keeps:
            found[field.name] = item
        else:
            found.pop(field.name, None)


def _metadata(message: Any) -> Any:
    return message._betterproto  # noqa: SLF001 - there is no other way to its fields


def _is_set(value: Any) -> bool:
    return bool(getattr(value, "value", value))


@cache
def _described(message: Any) -> tuple[dict[int, _Field], tuple[str, ...], Any]:
    """Fields by number, their names in order, and an empty message."""
    described = _metadata(message)
    known = {
        number: _field(described, name, described.meta_by_field_name[name])
        for number, name in described.field_name_by_number.items()
    }
    return known, tuple(one.name for one in dataclasses.fields(message)), message()


def _field(described: Any, name: str, meta: Any) -> _Field:
    if meta.proto_type == betterproto2.TYPE_MESSAGE:
        # A wrapped one is another type in Python, and one that may not be unset is not told when it is empty.
        odd = meta.unwrap is not None or not (meta.repeated or meta.optional)
        return _Field(name, meta, None if odd else described.cls_by_field[name], odd)
    packed = meta.repeated and meta.proto_type not in (betterproto2.TYPE_STRING, betterproto2.TYPE_BYTES)
    return _Field(name, meta, None, packed or meta.proto_type == betterproto2.TYPE_MAP)


def _fields_of(body: bytes) -> Iterator[tuple[int, int, Any, bytes]]:
    """Number, wire type, value and all the bytes of each field."""
    at, end = 0, len(body)
    while at < end:
        start = at
        key, at = _varint(body, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(body, at)
            yield key >> 3, wire, value, body[start:at]
            continue
        length, at = _varint(body, at) if wire == _LENGTH else (_WIDTH[wire], at)
        yield key >> 3, wire, body[at : at + length], body[start : at + length]
        at += length


def _varint(body: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = body[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
