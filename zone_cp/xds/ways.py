"""How the proxies of a mesh reach the outside: through the zone egress, or dialled by themselves (decision 2)."""

from __future__ import annotations

from shared.model.kinds import is_legacy
from shared.model.resource import ResourceKey
from zone_cp.view.zone_view import MeshView


def through_egress(mesh: MeshView) -> bool:
    """Whether a mesh's external traffic leaves by the zone egress (decision 2): declared, never by liveness."""
    return mesh.mtls and mesh.origination == "egress"


def dialled_through_egress(mesh: MeshView, key: ResourceKey) -> bool:
    """The same of one service: `routing.zoneEgress` decides it for legacy ExternalServices."""
    return mesh.legacy_egress if is_legacy(key) else through_egress(mesh)


def at_egress(mesh: MeshView) -> bool:
    """Whether zone egresses serve a mesh at all."""
    return through_egress(mesh) or mesh.legacy_egress
