"""Digests of what a proxy is given: one per resource type, the same from a live snapshot and from a replay. Pure.

A resource counts by its name and its version, the hash of its content. Secrets count by the events they follow from
instead: their bytes are not in history, and leaf certificates change without an event (decision 30).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from operator import attrgetter

from zone_cp.xds.snapshot import SECRET, Encoded

CHARACTERS = 16
"""Enough to tell two versions of one proxy's configuration apart; it proves nothing against a forger."""


def type_digest(type_url: str, resources: Mapping[str, Encoded]) -> str:
    """The digest of all resources of one type."""
    # Once a second for ten thousand clusters while changes come: one pass, one hash of it all.
    said: Callable[[Encoded], str] = _origins if type_url == SECRET else _version
    told = {name: said(one) for name, one in resources.items()}
    lines = "\n".join([f"{name}\0{told[name]}" for name in sorted(told)])
    return sha256(f"{lines}\n".encode() if told else b"").hexdigest()[:CHARACTERS]


_version = attrgetter("version")


def _origins(one: Encoded) -> str:
    return " ".join(sorted({f"{source.origin}:{source.n}" for source in one.sources}))
