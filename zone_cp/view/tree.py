"""A ZoneView as plain data, by part and name: for people and for `diff`. Pure, and free of Envoy's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.events.redaction import fingerprint
from shared.events.state import ZoneState
from shared.model.resource import Sealed
from zone_cp.view.project import project
from zone_cp.view.zone_view import Difference, MeshView, ZoneView


def view_tree(state: ZoneState) -> dict[str, dict[str, Any]]:
    """The view of a moment: the zone itself, meshes, external services, gateways and their routes, egresses."""
    return tree_of(project(state))


def tree_of(view: ZoneView, only: Difference | None = None) -> dict[str, dict[str, Any]]:
    """A view by part (`Zone`, `Mesh`, `ExternalService`, `Gateway`, `GatewayRoute`, `Egress`) and name.

    only: nothing but services and meshes that it names, and without what differs all the time.
    """
    meshes = {
        name: _plain(mesh if only is None else _reduced(mesh, only))
        for name, mesh in sorted(view.meshes.items())
        if only is None or name in only.meshes or name in only.services
    }
    services = _parts(meshes, "services")
    moment = {"position": str(view.position)} if only is None else {}
    found = {
        "Zone": {view.zone: {**moment, "vip_ranges": _plain(view.vip_ranges)}},
        "Mesh": meshes,
        "ExternalService": services,
        "Gateway": _parts(meshes, "gateways"),
        "GatewayRoute": _parts(meshes, "gateway_routes"),
        "Egress": {egress.name: _plain(egress) for egress in view.egresses},
    }
    shown = found if only is None else _without_sources(found)
    return {part: names for part, names in shown.items() if names}


def _parts(meshes: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Take out of meshes what stands by itself."""
    found = {key: one for mesh in meshes.values() for key, one in mesh.pop(field, {}).items()}
    return dict(sorted(found.items()))


def _without_sources(value: Any) -> Any:
    """Events are why something changed, not what."""
    match value:
        case dict():
            return {key: _without_sources(item) for key, item in value.items() if key != "sources"}
        case list():
            return [_without_sources(item) for item in value]
        case _:
            return value


def _reduced(mesh: MeshView, only: Difference) -> MeshView:
    keys = only.services.get(mesh.name, ())
    services = {key: mesh.services[key] for key in keys if key in mesh.services}
    return msgspec.structs.replace(mesh, services=Map(services), readers=Map())


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
