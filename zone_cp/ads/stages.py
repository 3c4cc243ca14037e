"""Stages: the queues that snapshots wait in on their way through a stream, see `staging`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from immutables import Map

from zone_cp.ads.subscription import Resources
from zone_cp.xds.snapshot import Encoded, Snapshot

MAX_STAGED = 16
_NOTHING: Map[str, Encoded] = Map()

Stage: TypeAlias = list[tuple[int, Snapshot]]
"""Snapshots in the order they came, each with the serial of the last response sent for it. MAX_STAGED at most."""


def enqueue(queue: Stage, mark: int, snapshot: Snapshot, reached: Snapshot | None) -> None:
    """Add a snapshot to a stage; it replaces the last one when that has nothing of its own to wait for."""
    last = queue[-1][1] if queue else reached
    if snapshot is last:
        return
    if queue and (queue[-1][0] == mark or len(queue) >= MAX_STAGED):
        queue[-1] = (mark, snapshot)
    else:
        queue.append((mark, snapshot))


def postpone(queue: Stage, mark: int) -> None:
    """What was refused has been sent again in parts: wait for the parts too."""
    if queue:
        last = queue[-1][1]
        queue.clear()
        queue.append((mark, last))


def of_type(type_url: str, snapshots: Sequence[Snapshot]) -> list[Resources]:
    """What these snapshots have of a type."""
    return [s.resources[type_url] for s in snapshots if type_url in s.resources]


def version_in(snapshot: Snapshot, type_url: str, name: str) -> str | None:
    """The version a resource has in a snapshot, None where it has none."""
    encoded = snapshot.resources.get(type_url, _NOTHING).get(name)
    return None if encoded is None else encoded.version
