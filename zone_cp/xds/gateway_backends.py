"""Where a gateway's routes lead: backends by `kuma.io/service` or MeshExternalService, and the clusters they need.

A `kuma.io/service` is an ExternalService where there is one, and else a service of the mesh (A12: the other way round
than at sidecars, as in Kuma). What is outside is reached as sidecars reach it: through the zone egress, or dialled by
the gateway itself. A gateway's identity is its Dataplane's service, and permissions hold for it as for a sidecar's.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec
from immutables import Map
from msgspec.structs import replace

from shared.events.event import EventRef
from shared.events.external_hosts import service_door
from shared.model.inbound import SERVICE_TAG
from shared.model.kinds import is_legacy
from shared.model.part import NO_LABELS
from shared.model.resource import Dataplane, Labels, Protocol, ProtocolClass, ResourceKey
from shared.model.route_policy import BackendRef
from shared.naming import spiffe
from zone_cp.view.gateway_policies import for_listener
from zone_cp.view.gateways import GatewayView
from zone_cp.view.policies import Effective, Rule, at_large, effective, merged, targets
from zone_cp.view.routing import Origin
from zone_cp.view.sources import Sources, joined
from zone_cp.view.workloads import selected
from zone_cp.view.zone_view import ExternalServiceView, Failure, MeshView
from zone_cp.xds import defaults
from zone_cp.xds.backends import DENIED, MISSING, SERVICE, Backend, Closed, Judge, Shares, absent, named, resolved
from zone_cp.xds.cluster_policies import cluster_part
from zone_cp.xds.clusters import external_host
from zone_cp.xds.connection_policies import verdicts
from zone_cp.xds.denial import kind_of
from zone_cp.xds.governed import dialled_by
from zone_cp.xds.in_mesh import Destination, destination, endpoints, spoken
from zone_cp.xds.parts import Impaired, Reads
from zone_cp.xds.ways import dialled_through_egress

NO_BACKEND = "no backend has a weight"


class Told(msgspec.Struct, frozen=True):
    """What policies say to one listener: rules, and base, those for the whole gateway."""

    rules: tuple[Rule, ...]
    base: tuple[Rule, ...]
    tags: Labels

    @property
    def at_large(self) -> Effective:
        """What is said about every destination."""
        return at_large(self.rules)

    def about(self, service: ExternalServiceView | None) -> Effective:
        """What is said about a destination; None: one in the mesh."""
        return _about(self.rules, service)

    def holding(self, service: ExternalServiceView | None) -> tuple[Rule, ...]:
        """The rules that hold for a destination; None: one in the mesh."""
        if service is None:
            return tuple(rule for rule in self.rules if rule.to.kind == "Mesh")
        return tuple(rule for rule in self.rules if targets(rule.to, rule.zone, service.key, service.labels))

    def suffix(self, service: ExternalServiceView | None) -> str:
        """What a cluster's name ends in: nothing, unless policies say to this listener other than to the gateway."""
        if self.rules == self.base or cluster_part(self.about(service)) == cluster_part(_about(self.base, service)):
            return ""
        text = ",".join(f"{tag}={value}" for tag, value in sorted(self.tags.items()))
        return "@" + blake2b(text.encode(), digest_size=4).hexdigest()


def _about(rules: tuple[Rule, ...], service: ExternalServiceView | None) -> Effective:
    return at_large(rules) if service is None else effective(rules, service.key, service.labels)


def told(mesh: MeshView, resource: Dataplane, gateway: GatewayView, tags: Labels) -> Told:
    """What policies say to a listener with these effective tags."""
    rules, base = (for_listener(mesh.policies, resource, gateway.key, one) for one in (tags, NO_LABELS))
    return Told(rules, base, tags)


def in_every(tags: Iterable[Labels]) -> Labels:
    """The tags that all have: what is said of them holds for every listener of a port."""
    found = list(tags)
    return Map({tag: value for tag, value in found[0].items() if all(one.get(tag) == value for one in found)})


class InMesh(msgspec.Struct, frozen=True):
    """A cluster for instances in the mesh."""

    where: Destination
    said: Effective


class Dialled(msgspec.Struct, frozen=True):
    """A cluster for what the gateway dials itself; the service is as this cluster is called and tuned."""

    service: ExternalServiceView
    said: Effective


class Shared(msgspec.Struct, frozen=True):
    """A cluster for one service behind the zone egress: what is sent there is not HTTP, or not known to be."""

    service: ExternalServiceView


class Led(msgspec.Struct, frozen=True):
    """Where a route leads. protocols are what the backends among its shares are spoken to in, held the rules that hold
    for each of them.
    """

    shares: Shares
    protocols: tuple[Protocol, ...]
    held: tuple[tuple[Rule, ...], ...]

    def alike(self, listener: Told) -> tuple[Rule, ...]:
        """The rules that hold for the requests of the route: those for all of its backends alike, else those for every
        destination. A request has timeouts and retries before it is drawn where it goes.
        """
        found = [(one.timeout, one.retry) for one in map(merged, self.held)]
        return self.held[0] if found and all(one == found[0] for one in found) else listener.holding(None)


class _Outcome(msgspec.Struct, frozen=True):
    to: Backend | Closed
    protocol: Protocol = "tcp"
    sources: Sources = ()
    held: tuple[Rule, ...] = ()


class Destinations:
    """Finds backends, and remembers the clusters that they need, each with the events that it is there because of."""

    def __init__(self, mesh: MeshView, gateway: GatewayView) -> None:
        """Nothing is needed yet."""
        self._services: set[tuple[str, str]] = set()
        self._workloads: set[str] = set()
        self._any_service = False
        self._found: dict[Destination, bool] = {}
        self.through_egress: EventRef | None = None
        self.impaired: set[Impaired] = set()
        self.failures: dict[ResourceKey, Failure] = {}
        self.mesh, self.gateway = mesh, gateway
        identity = spiffe.workload_id(mesh.name, gateway.service)
        self._judged = verdicts(mesh, identity)
        self.needed: dict[str, tuple[InMesh | Dialled | Shared, dict[EventRef, None]]] = {}

    @property
    def reads(self) -> Reads:
        """What routes lead to, by name, whether it is there or not."""
        return Reads(None if self._any_service else frozenset(self._services), frozenset(self._workloads))

    def shared_out(
        self, references: Iterable[BackendRef], origin: Origin, listener: Told, wanted: ProtocolClass
    ) -> Led:
        """What references of a route come to."""
        found = [self._outcome(one, origin, listener, wanted) for one in references if one.weight]
        if not found:
            nowhere = Closed(1, MISSING, f"{named(origin)}: {NO_BACKEND}")
            return Led(Shares(closed=(nowhere,)), (), ())
        led = [(one, one.to) for one in found if isinstance(one.to, Backend)]
        closed = tuple(one.to for one in found if isinstance(one.to, Closed))
        shares = Shares(tuple(to for _, to in led), closed, joined((), *(one.sources for one in found)))
        return Led(shares, tuple(one.protocol for one, _ in led), tuple(one.held for one, _ in led))

    def _outcome(self, one: BackendRef, origin: Origin, listener: Told, wanted: ProtocolClass) -> _Outcome:
        if one.kind == SERVICE:
            self._any_service = self._any_service or not one.name
            self._services.add((SERVICE, one.name or ""))
            service = resolved(self.mesh, one, origin.key.zone)
            if service is None:
                return _Outcome(self._missing(one, origin, absent(one)))
            return self._external(service, one, origin, listener, wanted)
        name = one.name or ""
        place = service_door(self.mesh.name, name)
        self._services.add((place.kind, place.name))
        self._workloads.add(name)
        door = self.mesh.services.get(place) if self.mesh.legacy else None
        if door is not None and not one.tags:
            return self._external(door, one, origin, listener, wanted)
        return self._in_mesh(one, origin, listener)

    def _missing(self, one: BackendRef, origin: Origin, why: str) -> Closed:
        self.impaired.add(Impaired(origin.source, "BackendMissing", f"{named(origin)}: {why}"))
        return Closed(one.weight, MISSING, f"{named(origin)}: {why}")

    def _in_mesh(self, one: BackendRef, origin: Origin, listener: Told) -> _Outcome:
        where = destination(one.tags.set(SERVICE_TAG, one.name or ""))
        said = listener.about(None)
        name = where.cluster(self.mesh.name) + listener.suffix(None)
        if not self._ready(where):
            why = f"{named(origin)}: no instance of {where.service} is ready"
            self.impaired.add(Impaired(origin.source, "NoInstances", why))
        cited = (*endpoints(self.mesh, where, tls=self.mesh.mtls).sources, *said.sources)
        self._need(name, InMesh(where, said), (origin.source, *cited))
        backend = Backend("", name, "", one.weight, outside=False)
        return _Outcome(backend, spoken(self.mesh, where), cited, listener.holding(None))

    def _ready(self, where: Destination) -> bool:
        if where not in self._found:
            service = self.mesh.workloads.services.get(where.service)
            there = selected(service, where.tags, guarded=self.mesh.mtls) if service is not None else ()
            self._found[where] = any(there)
        return self._found[where]

    def _external(
        self, service: ExternalServiceView, one: BackendRef, origin: Origin, listener: Told, wanted: ProtocolClass
    ) -> _Outcome:
        said = listener.about(service)

        def outcome(to: Backend | Closed) -> _Outcome:
            return _Outcome(to, service.protocol, cited, listener.holding(service))

        cited = (*service.judged_sources, *said.sources)
        why = _called(service)
        if wanted == "tcp" and service.protocol_class != "tcp":
            mismatch = f"{why} has protocol {service.protocol}, TCP connections cannot be sent there"
            return outcome(self._missing(one, origin, mismatch))
        host = external_host(service)
        if service.failure is not None:
            self.close(service, service.failure)
        if dialled_through_egress(self.mesh, service.key):
            self.through_egress = self.through_egress or origin.source
            if service.protocol_class == "http":
                return outcome(Backend(service.sni, defaults.EGRESS_HTTP, host, one.weight))
            name = defaults.egress_share(service.sni)
            self._need(name, Shared(service), (origin.source, *cited))
            return outcome(Backend("", name, host, one.weight))
        rest = is_legacy(service.key) or not self.mesh.forbid_external
        judge = Judge(self._judged, rest, self.mesh.mtls)
        if not judge.allows(service.sni):
            denied = f"access to {why} is denied to this gateway: {judge.why(service)}"
            self.impaired.add(Impaired(origin.source, "AccessDenied", f"{named(origin)}: {denied}"))
            return outcome(Closed(one.weight, DENIED, denied))
        if service.extension is not None:
            reason = f"{why} is answered by an extension, which a gateway reaches through a zone egress only"
            return outcome(self._missing(one, origin, reason))
        made = dialled_by(service, said)
        if suffix := listener.suffix(service):
            made = replace(made, cluster=service.cluster + suffix)
        self._need(made.cluster, Dialled(made, said), (origin.source, *cited))
        return outcome(Backend("", made.cluster, host, one.weight))

    def close(self, service: ExternalServiceView, failure: Failure) -> None:
        """A service that routes lead to is closed."""
        field = f"{failure.field}: " if failure.field else ""
        message = f"{_called(service)} is closed: {field}{failure.message}"
        self.impaired.add(Impaired(service.sources[0], failure.reason, message))

    def _need(self, name: str, what: InMesh | Dialled | Shared, cited: Iterable[EventRef]) -> None:
        _, sources = self.needed.setdefault(name, (what, {}))
        sources |= dict.fromkeys(cited)


def class_of(protocols: Iterable[Protocol]) -> Protocol:
    """What a route is, as far as policies tell protocols apart: gRPC where all of its backends are."""
    found = set(protocols)
    return "grpc" if found == {"grpc"} else "http"


def _called(service: ExternalServiceView) -> str:
    return f"{kind_of(service.key)} {service.service or service.name}"
