"""What a proxy whose push is held has nonetheless lost. Pure.

A hold keeps what a push would take away. It must not keep access that somebody has lost: in the view that the proxy was
kept from, every service is for those alone that may use it then and now. What others gained meanwhile is theirs when
the push is released.
"""

from __future__ import annotations

import msgspec

from zone_cp.grace import judged, resolved
from zone_cp.view.zone_view import MeshView, ZoneView


def kept_view(kept: ZoneView, now: ZoneView) -> ZoneView:
    """`kept`, in which nobody may use what he has lost until `now`. At the moment of `kept`."""
    meshes = kept.meshes
    for name, mesh in kept.meshes.items():
        after = now.meshes.get(name)
        if after is not None and after is not mesh:
            meshes = meshes.set(name, _narrowed(mesh, after))
    return kept if meshes is kept.meshes else msgspec.structs.replace(kept, meshes=meshes)


def _narrowed(mesh: MeshView, after: MeshView) -> MeshView:
    services = mesh.services.mutate()
    for key, service in mesh.services.items():
        closed = resolved(service, mesh)
        if (lessened := judged(closed, after)) is not closed:
            services[key] = lessened
    return msgspec.structs.replace(mesh, services=services.finish(), narrowed=after.narrowed)
