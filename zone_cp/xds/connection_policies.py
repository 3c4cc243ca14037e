"""What policies say about a client's connections: one chain's `Tuning`, per class or per service (decision 26)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from immutables import Map
from msgspec.structs import replace

from shared.model.duration import parse_duration
from shared.model.kinds import is_legacy
from shared.model.resource import ProtocolClass
from shared.naming import spiffe
from zone_cp.view.policies import Effective
from zone_cp.view.zone_view import ExternalServiceView, MeshView
from zone_cp.xds.access import may_use, permitted
from zone_cp.xds.backends import Shares
from zone_cp.xds.filters import Share, Tuning
from zone_cp.xds.governed import Governed
from zone_cp.xds.log_policies import Parties, logs
from zone_cp.xds.ways import dialled_through_egress

Verdicts: TypeAlias = Mapping[str, bool]
"""By SNI: whether a MeshTrafficPermission opens or closes a service to this sidecar, where the mesh says otherwise."""
NO_VERDICTS: Verdicts = Map()


def verdicts(mesh: MeshView, spiffe_id: str) -> Verdicts:
    """Of services that a sidecar dials itself: those that are open to its own identity, or closed to it, against what
    the mesh says of those without a permission.

    A mesh without mTLS gives its workloads no identity, so that a permission cannot be enforced and denies
    (decision 26).
    """
    said = {
        service.sni: may_use(mesh, service, spiffe_id)
        for service in mesh.services.values()
        if permitted(mesh, service) is not None and not dialled_through_egress(mesh, service.key)
    }
    return {name: opened for name, opened in said.items() if opened == mesh.forbid_external}


def chain_tuning(said: Effective, protocol_class: ProtocolClass, parties: Parties) -> Tuning:
    """The part of what is said that no route can hold."""
    written = logs(said.log, parties)
    if protocol_class == "http":
        text = said.timeout.http.request_headers_timeout if said.timeout.http is not None else None
        return Tuning(headers_timeout=parse_duration(text) if text is not None else None, logs=written)
    idle = said.timeout.idle_timeout
    return Tuning(
        idle_timeout=parse_duration(idle) if idle is not None else None,
        connect_attempts=said.retry.tcp.max_connect_attempt if said.retry.tcp is not None else None,
        logs=written,
    )


def edge_tuning(said: Effective, parties: Parties) -> Tuning:
    """How a gateway's chains of HTTP are tuned, whose clients are not of the mesh."""
    idle, http = said.timeout.idle_timeout, said.timeout.http
    stream_idle = http.stream_idle_timeout if http is not None else None
    return replace(
        chain_tuning(said, "http", parties),
        idle_timeout=parse_duration(idle) if idle is not None else None,
        stream_idle_timeout=parse_duration(stream_idle) if stream_idle is not None else None,
    )


def service_tuning(said: Governed, service: ExternalServiceView, judged: Verdicts, parties: Parties) -> Tuning:
    """How the chain of one service is tuned; an HTTP service is opened and closed by its routes."""
    tuning = chain_tuning(said.about(service), service.protocol_class, parties)
    if service.protocol_class == "http":
        return tuning
    shares = said.shares(service)
    return replace(tuning, open=judged.get(service.sni), shares=_shares(shares, judged) if shares is not None else ())


def own_tuning(
    said: Governed, mesh: MeshView, service: ExternalServiceView, judged: Verdicts, parties: Parties
) -> Tuning:
    """How a chain is tuned that leads to one service alone, where routes do not lead elsewhere as well."""
    tuning = service_tuning(said, service, judged, replace(parties, destination=service.name))
    alone = service.protocol_class == "http" and not said.about(service).http
    identity = spiffe.workload_id(parties.mesh, parties.source)
    return replace(tuning, denied=True) if alone and not may_use(mesh, service, identity) else tuning


def _shares(shares: Shares, judged: Verdicts) -> tuple[Share, ...]:
    found = tuple(Share(one.sni, one.weight, judged.get(one.sni)) for one in shares.backends)
    return found + tuple(Share("", one.weight) for one in shares.closed)


def tuned_apart(
    said: Governed, mesh: MeshView, judged: Verdicts, parties: Parties
) -> Iterator[tuple[str, ProtocolClass, Tuning]]:
    """VIPs of the services whose chain cannot be that of their class, and how it is tuned."""
    candidates = {service.sni: service for service, _ in said.particular}
    if judged:
        candidates |= {service.sni: service for service in mesh.services.values() if service.sni in judged}
    for _, service in sorted(candidates.items()):
        one = service.protocol_class
        if is_legacy(service.key):
            continue  # doors share VIPs: routes and clusters tell them apart
        if service_tuning(said, service, judged, parties) != chain_tuning(said.at_large, one, parties):
            yield service.vip, one, own_tuning(said, mesh, service, judged, parties)
