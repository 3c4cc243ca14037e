"""What TrafficPermissions come to for a legacy ExternalService. Pure.

Where a mesh has any, one of them decides about an ExternalService: the one that names its `kuma.io/service` before one
for `*`, and of several the newest. Its sources alone may use the service; where none is about it, nobody may.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.model.inbound import SERVICE_TAG
from shared.model.policy import SpiffeMatch
from shared.model.traffic_permission import ANY, TrafficPermission
from shared.naming import spiffe


def allowed_by(permissions: Iterable[tuple[int, TrafficPermission]], service: str) -> frozenset[SpiffeMatch] | None:
    """Who may use a service: each permission of its mesh comes with when it was created, in order. None: there are none
    at all, and everybody may.
    """
    known = sorted(permissions, key=lambda one: (one[1].rank(service), one[0]))
    if not known:
        return None
    last = known[-1][1]
    if not last.rank(service):
        return frozenset()
    return frozenset(_identity(last.mesh, one.match.get(SERVICE_TAG, "")) for one in last.sources)


def _identity(mesh: str, service: str) -> SpiffeMatch:
    if service == ANY:
        return SpiffeMatch(type="Prefix", value=f"{spiffe.trust_domain(mesh)}/")
    return SpiffeMatch(type="Exact", value=spiffe.workload_id(mesh, service))
