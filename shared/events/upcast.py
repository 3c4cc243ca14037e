"""Upcast: changes of earlier schemas, made into what this program reads. Pure, on plain data.

An event is never rewritten: its bytes, its hash and its `v` stay what they were. When a reader meets an older `v`, its
change is taken through one function per version, each from v to v + 1, and then decoded like any other. So a new
schema costs one function here, and nothing else knows of the old ones.

Adding a change type, or a field that may be left out (`UnsetType`), is no new schema: old events encode as they did.
Whatever changes what bytes mean, or how a change of before is written, is one. The log's index looks at the `type` of
changes as they stand; an upcaster that renames one of those it knows has to tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec

Plain: TypeAlias = dict[str, Any]
"""A change as JSON has it."""
Upcaster: TypeAlias = Callable[[Plain], Plain]
"""Makes a change of one version into one of the next. It gets a value of its own, and may change it."""


class NoUpcaster(Exception):
    """There never was such a version, or nothing reads it any more."""


class Schema(msgspec.Struct, frozen=True):
    """The version that is read and written, and the upcasters by the version that each reads."""

    version: int
    upcasters: Mapping[int, Upcaster]

    def upcast(self, change: Plain, v: int) -> Plain:
        """A change of version v as one of `version`. Raises NoUpcaster, and whatever an upcaster raises."""
        for before in range(v, self.version):
            upcaster = self.upcasters.get(before)
            if upcaster is None:
                raise NoUpcaster(f"nothing reads schema {before}")
            change = upcaster(change)
        return change

    def of_another(self, change: bytes, v: int, reason: str) -> Plain:
        """The JSON of a change that could not be read as one of `version`, as one of it. reason: why it could not.

        Raises NoUpcaster with what to say of it.
        """
        if v > self.version:
            raise NoUpcaster(f"schema {v}, this program reads up to {self.version}")
        if v == self.version:
            raise NoUpcaster(reason)
        try:
            return self.upcast(msgspec.json.decode(change), v)
        except Exception as error:
            raise NoUpcaster(f"schema {v}: {error}") from error


class _Marked(msgspec.Struct):
    skippable: bool = False


def is_skippable(change: bytes) -> bool:
    """Whether a change says of itself that it may be passed over by whoever does not know it."""
    try:
        return msgspec.json.decode(change, type=_Marked).skippable
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


SCHEMA = 1
CURRENT = Schema(SCHEMA, MappingProxyType({}))
"""There has been one version so far."""
