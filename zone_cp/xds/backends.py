"""backendRefs of routes → services of this zone, and the shares that cannot be served with why.

A share is never given to the other backends: what is not there answers 500 as in Kuma 3.0, what a permission
closes answers 403, and of TCP both are closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec
from immutables import Map

from shared.events.event import EventRef
from shared.model.resource import Labels, ProtocolClass, ResourceKey
from shared.model.route_policy import BackendRef
from zone_cp.view.routing import Origin
from zone_cp.view.sources import joined
from zone_cp.view.zone_view import ExternalServiceView, MeshView
from zone_cp.xds import denial
from zone_cp.xds.clusters import external_host

SERVICE = "MeshExternalService"
MISSING: Literal[500] = 500
DENIED: Literal[403] = 403


class Backend(msgspec.Struct, frozen=True):
    """A service that takes a share. host is its external name, "" when it has none.

    sni: by which the zone egress knows it; cluster: where it is dialled. At a gateway, which reaches some in this way
    and some in that, the other one is "". outside: beyond the mesh.
    """

    sni: str
    cluster: str
    host: str
    weight: int
    outside: bool = True


class Closed(msgspec.Struct, frozen=True):
    """A share that is answered with `status` and a sentence."""

    weight: int
    status: Literal[403, 500]
    reason: str


class Shares(msgspec.Struct, frozen=True):
    """How requests or connections are shared out; at least one share is there."""

    backends: tuple[Backend, ...] = ()
    closed: tuple[Closed, ...] = ()
    sources: tuple[EventRef, ...] = ()

    @property
    def total(self) -> int:
        """All weights."""
        return sum(one.weight for one in self.backends) + sum(one.weight for one in self.closed)


class Judge(msgspec.Struct, frozen=True):
    """Who may be reached, where this proxy decides it (direct mode): by SNI, and otherwise `rest`.

    has_identity: whether the mesh gives its workloads one, which permissions tell them apart by.
    """

    verdicts: Mapping[str, bool] = Map()
    rest: bool = True
    has_identity: bool = True

    def allows(self, sni: str) -> bool:
        """Whether a service is open."""
        return self.verdicts.get(sni, self.rest)

    def why(self, service: ExternalServiceView) -> str:
        """Which permission has closed a service."""
        return denial.verdict(service.permission, has_identity=self.has_identity)


ANYONE = Judge()


def labelled(service: ExternalServiceView, wanted: Labels) -> bool:
    """Whether a service has all of the labels, and any are wanted."""
    return bool(wanted) and all(service.labels.get(key) == value for key, value in wanted.items())


def resolved(mesh: MeshView, one: BackendRef, zone: str) -> ExternalServiceView | None:
    """The service that a reference means in a policy that originates in `zone`: the zone's own before global's."""
    if one.name:
        keys = [ResourceKey(SERVICE, mesh.name, one.name, where) for where in dict.fromkeys((zone, ""))]
        found = [mesh.services[key] for key in keys if key in mesh.services]
    else:
        found = [service for service in mesh.services.values() if labelled(service, one.labels)]
        found.sort(key=lambda service: (service.key.zone != zone, service.key))
    return next((service for service in found if one.port in (None, service.port)), None)


def shared_out(
    mesh: MeshView, references: Iterable[BackendRef], origin: Origin, protocol_class: ProtocolClass, judge: Judge
) -> Shares:
    """What `references` of a route come to for a service of one class."""
    backends: list[Backend] = []
    closed: list[Closed] = []
    sources: list[EventRef] = []
    for one in references:
        if not one.weight:
            continue
        service = resolved(mesh, one, origin.key.zone)
        if service is not None:
            sources += service.sources
        outcome = _outcome(service, one, origin, protocol_class, judge)
        if isinstance(outcome, Closed):
            closed.append(outcome)
            # Why it is denied is told.
            sources += service.judged_sources if service is not None and outcome.status == DENIED else ()
        else:
            backends.append(outcome)
    if not backends and not closed:
        closed.append(Closed(1, MISSING, f"{named(origin)}: no backendRef has a weight"))
    return Shares(tuple(backends), tuple(closed), joined((), sources))


def just(service: ExternalServiceView, judge: Judge) -> Shares:
    """Everything for one service."""
    one = _judged(service, 1, judge)
    return Shares(closed=(one,), sources=service.judged_sources) if isinstance(one, Closed) else Shares((one,))


def _outcome(
    service: ExternalServiceView | None, one: BackendRef, origin: Origin, protocol_class: ProtocolClass, judge: Judge
) -> Backend | Closed:
    if service is None:
        return Closed(one.weight, MISSING, f"{named(origin)}: {absent(one)}")
    if service.protocol_class != protocol_class:
        what = "HTTP requests" if protocol_class == "http" else "TCP connections"
        why = f"{service.name} has protocol {service.protocol}, {what} cannot be sent there"
        return Closed(one.weight, MISSING, f"{named(origin)}: MeshExternalService {why}")
    return _judged(service, one.weight, judge)


def _judged(service: ExternalServiceView, weight: int, judge: Judge) -> Backend | Closed:
    if not judge.allows(service.sni):
        what = f"access to {denial.kind_of(service.key)} {service.name} is denied to this workload"
        return Closed(weight, DENIED, f"{what}: {judge.why(service)}")
    return Backend(service.sni, service.cluster, external_host(service), weight)


def absent(one: BackendRef) -> str:
    """What a reader is told where there is no service that a reference means."""
    wanted = one.name or ", ".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
    port = f" with port {one.port}" if one.port is not None else ""
    return f"no MeshExternalService {wanted}{port} is here"


def named(origin: Origin) -> str:
    """What a reader is told a route is."""
    return f"{origin.key.kind} {origin.key.name}"
