"""A ZoneView as plain data, by part and name: for people and for `diff`. Pure, and free of Envoy's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shared.events.event import EventRef
from shared.events.redaction import fingerprint
from shared.events.state import ZoneState
from shared.model.resource import Sealed
from zone_cp.view.project import project
from zone_cp.view.zone_view import ZoneView


def view_tree(state: ZoneState) -> dict[str, dict[str, Any]]:
    """The view of a moment: the zone itself, meshes, external services, egresses."""
    return tree_of(project(state))


def tree_of(view: ZoneView) -> dict[str, dict[str, Any]]:
    """A view by part (`Zone`, `Mesh`, `ExternalService`, `Egress`) and name."""
    meshes = {name: _plain(mesh) for name, mesh in sorted(view.meshes.items())}
    services = {key: service for mesh in meshes.values() for key, service in mesh.pop("services", {}).items()}
    found = {
        "Zone": {view.zone: {"position": str(view.position), "vip_ranges": _plain(view.vip_ranges)}},
        "Mesh": meshes,
        "ExternalService": dict(sorted(services.items())),
        "Egress": {egress.name: _plain(egress) for egress in view.egresses},
    }
    return {part: names for part, names in found.items() if names}


def _plain(value: Any) -> Any:
    """Structs field by field, without those that say nothing; events by their citation, secrets by fingerprint."""
    match value:
        case EventRef():
            return str(value)
        case Sealed():
            return {"kid": value.kid, "fingerprint": fingerprint(value.digest)}
        case msgspec.Struct():
            fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
            return {name: _plain(item) for name, item in fields if item is not None and item != ()}
        case Mapping():
            return {str(key): _plain(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
        case list() | tuple():
            return [_plain(item) for item in value]
        case frozenset() | set():
            return sorted(_plain(item) for item in value)
        case _:
            return value
