"""What every part of a resource is made of: immutable, keyword-only, strict, camelCase on the wire."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from immutables import Map

Labels: TypeAlias = Map[str, str]
NO_LABELS: Labels = Map()


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of the structs of `policy.py`: unknown fields are refused, fields left at their default are not written."""
