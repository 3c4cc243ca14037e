"""Actual: what Envoy's own config dump says it has, beside what a proxy is meant to hold. Compared by meaning.

A config dump is proto3 JSON: bytes in base64, durations as text, 64-bit numbers as strings, nothing where a field has
its default. `inspect.plain` says the same a little otherwise; two values are equal here when they mean the same.
Resources of the bootstrap are not xDS's and are not looked at.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import msgspec

NAMED_TYPES = frozenset({"ClusterLoadAssignment", "Secret"})
"""Envoy has others of these from elsewhere (clusters' own endpoints, files of the bootstrap): only names that were
asked for are looked at."""
SUBSET_TYPES = frozenset({"ClusterLoadAssignment"})
"""Envoy dumps these with what it worked out itself: only what is intended is looked for."""
UNSEEN_TYPES = frozenset({"Runtime"})
"""Envoy dumps none of these."""
_SECTIONS = (
    ("dynamic_active_clusters", "cluster", "Cluster"),
    ("dynamic_warming_clusters", "cluster", "Cluster"),
    ("dynamic_route_configs", "route_config", "RouteConfiguration"),
    ("dynamic_active_secrets", "secret", "Secret"),
    ("dynamic_warming_secrets", "secret", "Secret"),
    ("ecds_filters", "ecds_filter", "TypedExtensionConfig"),
    ("dynamic_endpoint_configs", "endpoint_config", "ClusterLoadAssignment"),
)
_ABSENT = object()
_NOTHING: tuple[Any, ...] = (_ABSENT, None, "", [], {})

Plain = Mapping[str, Mapping[str, Any]]
"""Short type, then name, then the resource as plain data."""


class Difference(msgspec.Struct, frozen=True):
    """One place that differs; "" as path means the whole resource, None a side that has nothing."""

    type: str
    name: str
    path: str
    intended: Any
    actual: Any


def parse_dump(dump: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The dynamic resources of a decoded `/config_dump?include_eds`."""
    found: dict[str, dict[str, Any]] = {}
    for section in dump.get("configs", ()):
        for listener in section.get("dynamic_listeners", ()):
            state = listener.get("active_state") or listener.get("warming_state")
            if state:
                found.setdefault("Listener", {})[listener["name"]] = state["listener"]
        for key, field, short in _SECTIONS:
            for entry in section.get(key, ()):
                resource = entry.get(field)
                if resource is not None:
                    name = entry.get("name") or resource.get("name") or resource.get("cluster_name", "")
                    found.setdefault(short, {})[name] = resource
    return found


def differences(intended: Plain, actual: Plain) -> Iterator[Difference]:
    """Where they do not mean the same, by type, name and path."""
    for short in sorted((intended.keys() | actual.keys()) - UNSEEN_TYPES):
        want, have = intended.get(short, {}), actual.get(short, {})
        for name in sorted(want.keys() | have.keys()):
            if name not in want:
                if short not in NAMED_TYPES:
                    yield Difference(short, name, "", None, "present")
            elif name not in have:
                yield Difference(short, name, "", "present", None)
            else:
                for path, left, right in _compare(want[name], have[name], "", subset=short in SUBSET_TYPES):
                    yield Difference(short, name, path, left, right)


def _compare(want: Any, have: Any, path: str, *, subset: bool) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(want, dict) and isinstance(have, dict):
        keys = want.keys() if subset else want.keys() | have.keys()
        for key in sorted(keys):
            if not (path == "" and key == "@type"):
                below = f"{path}.{key}" if path else key
                yield from _compare(want.get(key, _ABSENT), have.get(key, _ABSENT), below, subset=subset)
    elif isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        for index, (left, right) in enumerate(zip(want, have, strict=True)):
            yield from _compare(left, right, f"{path}[{index}]", subset=subset)
    elif not _same(want, have):
        yield path, None if want is _ABSENT else want, None if have is _ABSENT else have


def _same(want: Any, have: Any) -> bool:
    if want in _NOTHING and have in _NOTHING:
        return True
    if want in ("redacted", have):
        return True
    left, right = str(want), str(have)
    return left == right.rpartition("/")[2] or _number(left) == _number(right) != left or left in _readings(have)


def _number(text: str) -> float | str:
    """A number or a duration in seconds, else the text."""
    try:
        return float(text.removesuffix("s"))
    except ValueError:
        return text


def _readings(value: Any) -> tuple[str, ...]:
    """How bytes in base64 may be told to people."""
    if not isinstance(value, str):
        return ()
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return ()
    return (data.decode(errors="replace"), f"sha256:{sha256(data).hexdigest()}")
