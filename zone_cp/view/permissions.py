"""Two permissions at once: where several things guard one service, or it is guarded otherwise in a moment."""

from __future__ import annotations

from shared.model.policy import SpiffeMatch, is_meant
from zone_cp.view.policies import Permission, spelled
from zone_cp.view.sources import joined


def both(one: Permission | None, other: Permission | None) -> Permission | None:
    """What allows who is allowed by both; None: everybody is."""
    if one is None or other is None:
        return one or other
    allow = {met for mine in one.allow for theirs in other.allow if (met := _met(mine, theirs)) is not None}
    deny = {*one.deny, *other.deny}
    sources = joined(one.sources, other.sources)
    by = tuple(sorted({*one.by, *other.by}, reverse=True))
    on = one.on or other.on
    return Permission(tuple(sorted(deny, key=spelled)), tuple(sorted(allow, key=spelled)), sources, by, on)


def _met(one: SpiffeMatch, other: SpiffeMatch) -> SpiffeMatch | None:
    """The narrower of two matches, None where they have nothing in common."""
    for narrow, wide in ((one, other), (other, one)):
        if is_meant(narrow.value, wide) and (narrow.type == "Exact" or wide.type == "Prefix"):
            return narrow
    return None
