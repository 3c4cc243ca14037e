"""Hostnames of gateways: exact, `*.suffix`, or ANY_HOST. Pure (spec 4 A6).

Exact names are compared for equality: Kuma takes `foo.example.com` to hold `foo.bar.example.com` as well.
"""

from __future__ import annotations

ANY_HOST = "*"


def exactness(hostname: str) -> tuple[int, int, str]:
    """What hostnames are ordered by: exact ones by name, wildcards with more labels first, any host last."""
    if hostname == ANY_HOST:
        return 2, 0, ""
    if hostname.startswith("*."):
        return 1, -hostname.count("."), hostname
    return 0, 0, hostname


def covers(wide: str, narrow: str) -> bool:
    """Whether every name of `narrow` is one of `wide`: a wildcard holds names with one or more labels in front."""
    if wide == ANY_HOST:
        return True
    if wide.startswith("*."):
        return narrow.endswith(wide[1:]) and narrow != wide[1:]
    return wide == narrow


def in_common(one: str, other: str) -> str | None:
    """The names that both stand for: those of the more specific of the two, or none."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None
