"""What a proxy whose push is held is told nonetheless. Pure.

A hold keeps what a push would take away. It must not keep access that somebody has lost: in the view that the proxy was
kept from, every service is for those alone that may use it then and now. What others gained meanwhile is theirs when
the push is released. Nor must it keep certificates and keys that were replaced, or serve what is closed by now:
Secrets hold what they hold now, and a service that is closed now, for whatever reason, is.
"""

from __future__ import annotations

import msgspec

from shared.events.state import ZoneState
from zone_cp.grace import judged, resolved
from zone_cp.view.gateways import renewed_gateway
from zone_cp.view.materials import renewed
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView, ZoneView


def kept_view(kept: ZoneView, now: ZoneView, state: ZoneState) -> ZoneView:
    """`kept` with what holds of it until `now`, which is the view of `state`. At the moment of `kept`."""
    meshes = kept.meshes
    for name, mesh in kept.meshes.items():
        after = now.meshes.get(name)
        if after is not None and after is not mesh:
            meshes = meshes.set(name, _lessened(mesh, after, state))
    return kept if meshes is kept.meshes else msgspec.structs.replace(kept, meshes=meshes)


def _lessened(mesh: MeshView, after: MeshView, state: ZoneState) -> MeshView:
    services, gateways = mesh.services.mutate(), mesh.gateways
    for key, service in mesh.services.items():
        if (lessened := _closed(service, mesh, after, state)) is not None:
            services[key] = lessened
    for key, declared in mesh.gateways.items():
        gateways = gateways.set(key, renewed_gateway(state, declared))
    return msgspec.structs.replace(mesh, services=services.finish(), gateways=gateways, narrowed=after.narrowed)


def _closed(
    service: ExternalServiceView, mesh: MeshView, after: MeshView, state: ZoneState
) -> ExternalServiceView | None:
    """A service as it is kept; None where that is as it was."""
    before = resolved(service, mesh)
    lessened = renewed(state, judged(before, after))
    now = after.services.get(service.key)
    if now is not None and now.failure is not None and service.failure is None:
        lessened = msgspec.structs.replace(lessened, failure=now.failure, sources=joined(lessened.sources, now.sources))
    return None if lessened is before else lessened
