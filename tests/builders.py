"""Small builders for tests: resources, event times, and logs that are composed and folded like the real ones."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from immutables import Map
from msgspec.structs import replace

from shared.events.compose import compose
from shared.events.event import GLOBAL, Change, Event, ResourceApplied, ResourceDeleted, ZoneSettingsChanged
from shared.events.fold import check, fold
from shared.events.state import LogState, ZoneState
from shared.model import codec
from shared.model.external_service import ExternalService
from shared.model.resource import (
    DISPLAY_NAME_LABEL,
    MESH_LABEL,
    ORIGIN_LABEL,
    ZONE_LABEL,
    CaBackend,
    Dataplane,
    Endpoint,
    ExternalTls,
    HostnameGenerator,
    HostnameGeneratorSpec,
    HostnameSelector,
    LabelSelector,
    Match,
    Mesh,
    MeshExternalService,
    MeshExternalServiceSpec,
    Mtls,
    Protocol,
    Resource,
    ResourceKey,
    Routing,
    ZoneEgress,
    key_of,
    mesh_of,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
QUARANTINE_SECONDS = 600


def at(seconds: float = 0) -> str:
    """Event time, `seconds` after the tests' epoch."""
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def labelled(resource: Resource, zone: str = "") -> Resource:
    """The resource with the labels that a control plane computes (decision 18); `zone` "" is global origin."""
    import msgspec

    labels = resource.labels.set(DISPLAY_NAME_LABEL, resource.name).set(ORIGIN_LABEL, "zone" if zone else "global")
    if mesh_of(resource):
        labels = labels.set(MESH_LABEL, mesh_of(resource))
    if zone:
        labels = labels.set(ZONE_LABEL, zone)
    return msgspec.structs.replace(resource, labels=labels)


def mesh(
    name: str = "default", *, mtls: bool = True, forbid: bool = False, labels: dict[str, str] | None = None
) -> Mesh:
    """A Mesh, with builtin mTLS unless told otherwise."""
    return Mesh(
        name=name,
        labels=Map(labels or {}),
        mtls=Mtls(enabled_backend="ca-1", backends=(CaBackend(name="ca-1", type="builtin"),)) if mtls else None,
        routing=Routing(default_forbid_mesh_external_service_access=forbid),
    )


def mes(
    name: str = "payments",
    *,
    mesh: str = "default",
    port: int = 80,
    protocol: Protocol = "http",
    endpoints: tuple[str, ...] = ("203.0.113.1:8080",),
    tls: ExternalTls | None = None,
    labels: dict[str, str] | None = None,
) -> MeshExternalService:
    """A MeshExternalService; endpoints are `host:port`."""
    parsed = tuple(Endpoint(address=text.rsplit(":", 1)[0], port=int(text.rsplit(":", 1)[1])) for text in endpoints)
    return MeshExternalService(
        name=name,
        mesh=mesh,
        labels=Map(labels or {}),
        spec=MeshExternalServiceSpec(match=Match(port=port, protocol=protocol), endpoints=parsed, tls=tls),
    )


def external(
    name: str = "httpbin",
    address: str = "httpbin.org:443",
    *,
    mesh: str = "default",
    service: str = "",
    protocol: str = "http",
    hidden: bool = False,
    tls: dict[str, Any] | None = None,
) -> ExternalService:
    """A legacy ExternalService, of the service that it is named after; hidden: without an entry for its host."""
    networking = {"address": address, "disableHostDNSEntry": hidden} | ({} if tls is None else {"tls": tls})
    tags = {"kuma.io/service": service or name, "kuma.io/protocol": protocol}
    fields = {"type": "ExternalService", "name": name, "mesh": mesh, "tags": tags, "networking": networking}
    decoded: ExternalService = codec.convert(fields, Resource)
    return decoded


def generator(
    name: str = "all",
    template: str = "{{ .DisplayName }}.ext.local",
    *,
    match: dict[str, str] | None = None,
) -> HostnameGenerator:
    """A HostnameGenerator for MeshExternalServices that carry the labels `match`."""
    selector = HostnameSelector(mesh_external_service=LabelSelector(match_labels=Map(match or {})))
    return HostnameGenerator(name=name, spec=HostnameGeneratorSpec(selector=selector, template=template))


def resource(**fields: Any) -> Resource:
    """Any resource from its canonical YAML or JSON fields."""
    decoded: Resource = codec.convert(fields, Resource)
    return decoded


def dataplane(name: str = "web-1", service: str = "web", **networking: Any) -> Dataplane:
    """A Dataplane with one inbound of `service`; `networking` in canonical JSON fields is merged in."""
    inbound = [{"port": 8080, "tags": {"kuma.io/service": service, "kuma.io/protocol": "http"}}]
    decoded: Dataplane = codec.convert(
        {"type": "Dataplane", "name": name, "networking": {"address": "127.0.0.1", "inbound": inbound} | networking},
        Resource,
    )
    return decoded


def gateway(
    name: str = "edge",
    service: str = "edge-gateway",
    *listeners: dict[str, Any],
    secret: str = "",
    mesh: str = "default",
) -> Resource:
    """A MeshGateway for gateway Dataplanes of `service`; without listeners one of HTTP, and with a Secret's name one of
    HTTPS with its certificate.
    """
    found = list(listeners) or [{"port": 8080, "protocol": "HTTP"}]
    if secret:
        tls = {"mode": "TERMINATE", "certificates": [{"secret": secret}]}
        found.append({"port": 8443, "protocol": "HTTPS", "hostname": "foo.example.com", "tls": tls})
    selectors = [{"match": {"kuma.io/service": service}}]
    return resource(type="MeshGateway", name=name, mesh=mesh, selectors=selectors, conf={"listeners": found})


def gateway_route(
    name: str = "all", service: str = "edge-gateway", *, backend: str = "web", mesh: str = "default"
) -> Resource:
    """A MeshGatewayRoute that sends all requests to a service."""
    rule = {
        "matches": [{"path": {"match": "PREFIX", "value": "/"}}],
        "backends": [{"destination": {"kuma.io/service": backend}}],
    }
    selectors = [{"match": {"kuma.io/service": service}}]
    return resource(
        type="MeshGatewayRoute", name=name, mesh=mesh, selectors=selectors, conf={"http": {"rules": [rule]}}
    )


def traffic_permission(name: str, service: str, allow: Collection[str], deny: Collection[str] = ()) -> Resource:
    """A MeshTrafficPermission for one external service ("": for all) by exact SPIFFE ids."""
    target = {"kind": "MeshExternalService", "name": service} if service else {"kind": "Mesh"}
    says = {
        verb: [{"spiffeID": {"type": "Exact", "value": one}} for one in sorted(ids)]
        for verb, ids in (("allow", allow), ("deny", deny))
        if ids
    }
    spec = {"targetRef": target, "rules": [{"default": says}]}
    return resource(type="MeshTrafficPermission", name=name, mesh="default", spec=spec)


def egress(name: str = "egress-1", *, zone: str = "east", address: str = "127.0.0.1", port: int = 10002) -> ZoneEgress:
    """A ZoneEgress."""
    decoded: ZoneEgress = codec.convert(
        {"type": "ZoneEgress", "name": name, "zone": zone, "networking": {"address": address, "port": port}}, Resource
    )
    return decoded


def settings(
    cidr: str = "242.0.0.0/8", *, quarantine_seconds: int = QUARANTINE_SECONDS, legacy: str | None = None
) -> ZoneSettingsChanged:
    """Zone settings; `legacy` is the range of ExternalServices' VIPs."""
    made = ZoneSettingsChanged(cidr=cidr, quarantine_seconds=quarantine_seconds, compiler="test")
    return made if legacy is None else replace(made, legacy_cidr=legacy)


def applied(resource: Resource, zone: str = "") -> ResourceApplied:
    """The change of a write, labels computed."""
    return ResourceApplied(resource=labelled(resource, zone))


def deleted(resource: Resource, zone: str = "") -> ResourceDeleted:
    """The change of a delete."""
    return ResourceDeleted(key=key_of(resource, zone))


def service_key(name: str = "payments", mesh: str = "default", zone: str = "") -> ResourceKey:
    """Key of a MeshExternalService."""
    return ResourceKey("MeshExternalService", mesh, name, zone)


class LogBuilder:
    """One origin's log under construction: every event is composed, checked and folded as in production.

    Ids are `<origin>-<n>`; time stands still unless `seconds` is given.
    """

    def __init__(self, origin: str = GLOBAL) -> None:
        self.state = LogState(origin)
        self.events: list[Event] = []
        self.seconds = 0.0

    def append(
        self, *changes: Change, seconds: float | None = None, seen: int = 0, actor: str = "test", cause: str = ""
    ) -> tuple[Event, ...]:
        """Record changes at `seconds` after the epoch."""
        self.seconds = self.seconds if seconds is None else seconds
        first = self.state.n + 1
        ids = [f"{self.state.origin}-{first + number}" for number in range(len(changes))]
        time = max(at(self.seconds), self.state.time)
        events = compose(
            self.state, changes, ids=ids, time=time, actor=actor, seen=max(seen, self.state.seen), cause=cause
        )
        for event in events:
            fault = check(self.state, event)
            assert fault is None, fault
            self.state = fold(self.state, event)
        self.events.extend(events)
        return events


class ZoneBuilder:
    """A zone under construction: the copy of global's log and its own, with every decision recorded.

    `follow(hub)` folds what global has, event by event, as a zone control plane does; `write` records changes
    of the zone's own.
    """

    def __init__(
        self,
        zone: str = "east",
        cidr: str = "242.0.0.0/8",
        *,
        quarantine_seconds: int = 600,
        legacy: str | None = "240.0.0.0/8",
    ) -> None:
        self.zone = zone
        self.own = LogBuilder(zone)
        self.hub = LogState(GLOBAL)
        self.settings = settings(cidr, quarantine_seconds=quarantine_seconds, legacy=legacy)
        self.write(self.settings)

    @property
    def state(self) -> ZoneState:
        """The zone's state now."""
        return ZoneState(self.zone, self.hub, self.own.state)

    def follow(self, hub: LogBuilder, *, until: int | None = None) -> None:
        """Fold global's events up to `until` (default: all) and record what the zone decides about each."""
        for event in hub.events[self.hub.n : until]:
            self.hub = fold(self.hub, event)
            self.own.seconds = max(self.own.seconds, hub.seconds)
            self._decide(event)

    def write(self, *changes: Change, seconds: float | None = None) -> None:
        """Record the zone's own changes, one after the other, with what the zone decides about each."""
        for change in changes:
            (event,) = self.own.append(change, seconds=seconds, seen=self.hub.n)
            if isinstance(change, ZoneSettingsChanged):
                self.settings = change
            self._decide(event)

    def apply(self, *resources: Resource, seconds: float | None = None) -> None:
        """Write zone-origin resources."""
        self.write(*(applied(resource, self.zone) for resource in resources), seconds=seconds)

    def vip(self, key: ResourceKey) -> str | None:
        """The VIP that `key` holds."""
        lease = self.own.state.leases.get(key)
        return lease.ip if lease else None

    def names(self, key: ResourceKey) -> tuple[str, ...]:
        """The hostnames that `key` holds, sorted."""
        return tuple(sorted(self.own.state.names.get(key, Map())))

    def _decide(self, event: Event) -> None:
        from zone_cp.decide import decide

        changes = decide(self.state, event, self.settings)
        self.own.append(*changes, seen=self.hub.n, actor="system:zone", cause=event.id)
