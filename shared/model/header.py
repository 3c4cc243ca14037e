"""Headers in policies: what is matched, what is set."""

from __future__ import annotations

from typing import Literal

from shared.model.part import Part


class HeaderMatch(Part, frozen=True, kw_only=True):
    """A header of a request or response; `value` belongs to the first three types."""

    name: str
    type: Literal["Exact", "RegularExpression", "Prefix", "Present", "Absent"] = "Exact"
    value: str | None = None


class HeaderValue(Part, frozen=True, kw_only=True):
    """A header and its value, which is taken literally."""

    name: str
    value: str
