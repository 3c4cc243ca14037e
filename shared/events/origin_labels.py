"""Labels that say where a resource is from: only the truth may be written (decision 18). Pure."""

from __future__ import annotations

from collections.abc import Iterator

from shared.events.state import Stored
from shared.model.resource import MESH_LABEL, ORIGIN_LABEL, ZONE_LABEL, Resource, mesh_of


def origin_reason(zone: str) -> str:
    """What is said to whoever writes something of another origin on a plane; zone: "" on global."""
    return f"the origin label must be set to '{'zone' if zone else 'global'}'"


def label_violations(resource: Resource, stored: Stored | None, zone: str) -> Iterator[tuple[str, str]]:
    """(path, reason) of every such label that does not fit the plane, or what stands there now."""
    labels = resource.labels
    origin, at_zone = labels.get(ORIGIN_LABEL), labels.get(ZONE_LABEL)
    if origin is not None:
        if origin not in ("global", "zone"):
            yield f'labels["{ORIGIN_LABEL}"]', f'unknown resource origin "{origin}"'
        if origin != ("zone" if zone else "global"):
            yield f'labels["{ORIGIN_LABEL}"]', origin_reason(zone)
    if zone:
        if at_zone is not None and at_zone != zone:
            yield f'labels["{ZONE_LABEL}"]', f"{ZONE_LABEL} label should have {zone} value"
        mesh = labels.get(MESH_LABEL)
        if mesh is not None and mesh_of(resource) and mesh != mesh_of(resource):
            yield f'labels["{MESH_LABEL}"]', f"{MESH_LABEL} label must not differ from mesh set on resource"
    elif stored is not None and (was := stored.resource.labels.get(ZONE_LABEL)) and was != at_zone:
        how = f'changed from "{was}" to "{at_zone}"' if at_zone else f'removed (was "{was}")'
        yield f'labels["{ZONE_LABEL}"]', f"is immutable, cannot be {how}"
