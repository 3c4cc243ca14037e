"""What policies say about a client's connections: one chain's `Tuning`, per class or per service (decision 26)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from immutables import Map
from msgspec.structs import replace

from shared.model.duration import parse_duration
from shared.model.resource import ProtocolClass
from zone_cp.view.policies import Effective
from zone_cp.view.zone_view import ExternalServiceView, MeshView
from zone_cp.xds.filters import Tuning
from zone_cp.xds.governed import Governed

Verdicts: TypeAlias = Mapping[str, bool]
"""By SNI: whether a service that a MeshTrafficPermission guards is open to this sidecar."""
NO_VERDICTS: Verdicts = Map()


def verdicts(mesh: MeshView, spiffe_id: str) -> Verdicts:
    """In direct mode: the guarded services, and whether the sidecar's own identity may use them.

    A mesh without mTLS gives its workloads no identity, so that a permission cannot be enforced and denies
    (decision 26).
    """
    guarded = [(service, service.permission) for service in mesh.services.values()]
    return {
        service.sni: mesh.mtls and permission.allows(spiffe_id)
        for service, permission in guarded
        if permission is not None
    }


def chain_tuning(said: Effective, protocol_class: ProtocolClass) -> Tuning:
    """The part of what is said that no route can hold."""
    if protocol_class == "http":
        text = said.timeout.http.request_headers_timeout if said.timeout.http is not None else None
        return Tuning(headers_timeout=parse_duration(text) if text is not None else None)
    idle = said.timeout.idle_timeout
    attempts = said.retry.tcp.max_connect_attempt if said.retry.tcp is not None else None
    return Tuning(idle_timeout=parse_duration(idle) if idle is not None else None, connect_attempts=attempts)


def service_tuning(said: Governed, service: ExternalServiceView, judged: Verdicts) -> Tuning:
    """How the chain of one service is tuned; an HTTP service is opened and closed by its routes."""
    tuning = chain_tuning(said.about(service), service.protocol_class)
    return tuning if service.protocol_class == "http" else replace(tuning, open=judged.get(service.sni))


def tuned_apart(said: Governed, mesh: MeshView, judged: Verdicts) -> tuple[tuple[str, ProtocolClass, Tuning], ...]:
    """VIPs of the services whose chain cannot be that of their class, and how it is tuned."""
    candidates = {service.sni: service for service, _ in said.particular}
    if judged:
        candidates |= {service.sni: service for service in mesh.services.values() if service.sni in judged}
    found = (
        (service.vip, service.protocol_class, service_tuning(said, service, judged))
        for _, service in sorted(candidates.items())
    )
    return tuple(one for one in found if one[2] != chain_tuning(said.at_large, one[1]))
