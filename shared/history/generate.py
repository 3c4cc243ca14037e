"""A made-up deployment with a long past: deterministic, in valid chains, for benchmarks and for trying commands out.

Two zones with proxies, a mesh with external services and secrets. Services are created, changed again and again,
deleted and made anew; each zone leases VIPs, claims hostnames, sees proxies come and go. Equal sizes and seeds give
equal bytes. Nothing in it opens anything: certificates and ciphertexts are noise.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from immutables import Map

from shared.events.compose import compose
from shared.events.event import (
    GLOBAL,
    Change,
    DataKeyWrapped,
    HostnameClaimed,
    HostnameQuarantined,
    IntermediateIssued,
    ProxyConnected,
    ProxyDisconnected,
    ResourceApplied,
    ResourceDeleted,
    RootCaCreated,
    VipLeased,
    VipQuarantined,
    ZoneSettingsChanged,
    encode_event,
    event_hash,
)
from shared.events.state import LogState
from shared.model import codec
from shared.model.labels import computed
from shared.model.resource import (
    CaBackend,
    Endpoint,
    Match,
    Mesh,
    MeshExternalService,
    MeshExternalServiceSpec,
    Mtls,
    Protocol,
    Resource,
    ResourceKey,
    Sealed,
    Secret,
    Zone,
    key_of,
    protocol_class,
)
from shared.naming.hostname import default_generators
from shared.naming.vip import VipRange, parse_cidr, probe

ZONES = ("east", "west")
MESH = "default"
CIDR = "242.0.0.0/8"
QUARANTINE_SECONDS = 600
AUTHORS = ("alice", "bob", "carol", "deploy-bot", "terraform")
BATCH_EVENTS = 1000
MIN_RESOURCES, MIN_PROXIES = 100, 4
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_SECRETS_PER_HUNDRED = 4


class Size(msgspec.Struct, frozen=True):
    """How much to make: events over all logs, resources (with those of the zones), proxies."""

    events: int = 1_000_000
    resources: int = 10_000
    proxies: int = 1_000


class Written(msgspec.Struct, frozen=True):
    """Events of one origin that follow each other: subjects and encoded events."""

    origin: str
    first: int
    subjects: Sequence[str]
    lines: Sequence[bytes]


class _Log:
    """The end of one origin's log, and what is written but not handed on yet."""

    def __init__(self, origin: str) -> None:
        self.state = LogState(origin=origin)
        self.subjects: list[str] = []
        self.lines: list[bytes] = []

    def taken(self) -> Written:
        first = self.state.n - len(self.lines) + 1
        written = Written(self.state.origin, first, self.subjects, self.lines)
        self.subjects, self.lines = [], []
        return written


class _Maker:
    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.chance = random.Random(seed)  # noqa: S311 - a seed must give the same again
        self.logs = {origin: _Log(origin) for origin in (GLOBAL, *ZONES)}
        self.now = _BEGIN
        self.count = 0
        per_zone = size.proxies // len(ZONES)
        secrets = size.resources * _SECRETS_PER_HUNDRED // 100
        # Beside them: the mesh, the zones, the generator.
        services = size.resources - secrets - per_zone * len(ZONES) - len(ZONES) - 2
        self.services = [f"service-{number:05}" for number in range(services)]
        self.secrets = [f"secret-{number:04}" for number in range(secrets)]
        self.proxies = {zone: [f"app-{number:04}" for number in range(per_zone - 1)] for zone in ZONES}
        self.connections: dict[tuple[str, str], str] = {}
        self.gone: set[str] = set()
        self.ports: dict[str, int] = {}
        self.vips: dict[ResourceKey, str] = {}
        self.generator = default_generators()[0]
        parsed = parse_cidr(CIDR)
        if not isinstance(parsed, VipRange):
            raise TypeError(parsed.message)
        self.range = parsed
        self.taken: set[str] = set()

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, origin: str, changes: Sequence[Change], actor: str, cause: str = "") -> str:
        """Append changes; returns the id of the last event."""
        log = self.logs[origin]
        ids = [f"{self.chance.getrandbits(128):032x}" for _ in changes]
        events = compose(
            log.state,
            changes,
            ids=ids,
            time=self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            actor=actor,
            seen=0 if origin == GLOBAL else self.logs[GLOBAL].state.n,
            cause=cause,
        )
        last = events[-1]
        # Composing needs the end of the chain only, not what the events amount to.
        log.state = LogState(origin, last.n, event_hash(last), last.incarnation, last.time)
        log.subjects += [event.subject for event in events]
        log.lines += [encode_event(event) for event in events]
        self.count += len(events)
        return last.id

    def full(self) -> Iterator[Written]:
        """What has become enough to hand on."""
        for log in self.logs.values():
            if len(log.lines) >= BATCH_EVENTS:
                yield log.taken()

    # --- what happens ---------------------------------------------------------------------------------------------

    def begin(self) -> Iterator[Written]:
        """Everything is made once."""
        mtls = Mtls(enabled_backend="ca-1", backends=(CaBackend(name="ca-1", type="builtin"),))
        first: list[Resource] = [Mesh(name=MESH, mtls=mtls), self.generator, *(Zone(name=zone) for zone in ZONES)]
        self.write(GLOBAL, [ResourceApplied(resource=computed(one, "")) for one in first], "system:global")
        issued = [
            IntermediateIssued(mesh=MESH, backend="ca-1", zone=zone, certificate="made up", key=self.sealed())
            for zone in ZONES
        ]
        root = RootCaCreated(mesh=MESH, backend="ca-1", certificate="made up", key=self.sealed())
        self.write(GLOBAL, [root, *issued], "system:global")
        for zone in ZONES:
            settings = ZoneSettingsChanged(cidr=CIDR, quarantine_seconds=QUARANTINE_SECONDS, compiler="made up")
            self.write(zone, [settings], "system:zone")
            self.write(zone, [ResourceApplied(resource=self.egress(zone))], "system:join")
            self.connect(zone, f".egress-{zone}", ResourceKey("ZoneEgress", "", f"egress-{zone}", zone))
        for name in self.secrets:
            self.rotate(name)
            yield from self.full()
        for name in self.services:
            self.now += timedelta(seconds=1)
            self.apply_service(name)
            yield from self.full()
        for zone, names in self.proxies.items():
            for name in names:
                self.join(zone, name)
                yield from self.full()

    def live(self) -> Iterator[Written]:
        """Days go by until there are events enough."""
        acts: list[tuple[int, Callable[[], None]]] = [
            (100, lambda: self.apply_service(self.chance.choice(self.services))),
            (4, lambda: self.delete_service(self.chance.choice(self.services))),
            (4, lambda: self.rotate(self.chance.choice(self.secrets))),
            (24, lambda: self.reconnect(self.chance.choice(ZONES))),
            (6, lambda: self.move_proxy(self.chance.choice(ZONES))),
        ]
        weights = [weight for weight, _ in acts]
        while self.count < self.size.events:
            for _, act in self.chance.choices(acts, weights, k=100):
                if self.count >= self.size.events:
                    break
                self.now += timedelta(microseconds=self.chance.randrange(20_000_000))
                act()
            yield from self.full()
        for log in self.logs.values():
            if log.lines:
                yield log.taken()

    def apply_service(self, name: str) -> None:
        """A small change; what had been deleted comes back."""
        before = self.ports.get(name)
        self.ports[name] = port = self.chance.randrange(8000, 9000)
        tail = f"{self.chance.randrange(1, 255)}"
        endpoints = [Endpoint(address=f"203.0.113.{tail}", port=port), Endpoint(address="ext.example.com", port=443)]
        protocol: Protocol = "tcp" if hash_of(name) % 4 == 0 else "http"
        service = MeshExternalService(
            name=name,
            mesh=MESH,
            labels=Map({"team": f"team-{hash_of(name) % 30}", "revision": f"r{port}"}),
            spec=MeshExternalServiceSpec(match=Match(port=8080, protocol=protocol), endpoints=tuple(endpoints)),
        )
        resource = computed(service, "")
        cause = self.write(GLOBAL, [ResourceApplied(resource=resource)], self.chance.choice(AUTHORS))
        if before is not None and name not in self.gone:
            return
        self.gone.discard(name)
        key = key_of(resource)
        cls = protocol_class(protocol)
        if key not in self.vips:
            ip = probe(key, self.range.quarter(key, cls), self.taken.__contains__) or ""
            self.vips[key] = ip
            self.taken.add(ip)
        claim = HostnameClaimed(mesh=MESH, hostname=hostname(name), key=key, generator=key_of(self.generator))
        for zone in ZONES:
            self.write(zone, [VipLeased(key=key, protocol_class=cls, ip=self.vips[key]), claim], "system:zone", cause)

    def delete_service(self, name: str) -> None:
        """It goes; its address and its name are kept from others for a while."""
        if name in self.gone or name not in self.ports:
            return
        self.gone.add(name)
        key = ResourceKey("MeshExternalService", MESH, name)
        cause = self.write(GLOBAL, [ResourceDeleted(key=key)], self.chance.choice(AUTHORS))
        until = (self.now + timedelta(seconds=QUARANTINE_SECONDS)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        held = HostnameQuarantined(mesh=MESH, hostname=hostname(name), key=key, until=until)
        for zone in ZONES:
            self.write(zone, [VipQuarantined(key=key, ip=self.vips[key], until=until), held], "system:zone", cause)

    def rotate(self, name: str) -> None:
        """A secret gets another value, under a data key of its own."""
        sealed = self.sealed()
        secret = computed(Secret(name=name, mesh=MESH, sealed=sealed), "")
        wrapped = b64encode(self.chance.randbytes(48)).decode()
        wraps = [DataKeyWrapped(kid=sealed.kid, recipient=one, wrapped=wrapped) for one in (GLOBAL, *ZONES)]
        known = self.chance.random() < 0.8 and self.count > BATCH_EVENTS
        self.write(GLOBAL, [*([] if known else wraps), ResourceApplied(resource=secret)], self.chance.choice(AUTHORS))

    def sealed(self) -> Sealed:
        """Noise of a ciphertext's form."""
        noise = [b64encode(self.chance.randbytes(size)).decode() for size in (12, 180, 32)]
        return Sealed(kid=f"k-{self.chance.getrandbits(64):016x}", nonce=noise[0], ciphertext=noise[1], digest=noise[2])

    def join(self, zone: str, name: str) -> None:
        """A sidecar says what it is and connects."""
        resource = self.dataplane(zone, name)
        self.write(zone, [ResourceApplied(resource=resource)], "system:join")
        self.connect(zone, f"{MESH}.{name}", key_of(resource, zone))

    def connect(self, zone: str, proxy: str, key: ResourceKey) -> None:
        """A stream begins."""
        connection = f"{self.chance.getrandbits(64):016x}"
        self.connections[zone, proxy] = connection
        online = ProxyConnected(
            proxy=proxy, key=key, connection=connection, features=("redirect", "access-log=/run/access")
        )
        self.write(zone, [online], "system:zone")

    def reconnect(self, zone: str) -> None:
        """A sidecar's stream ends, and another one begins."""
        name = self.chance.choice(self.proxies[zone])
        proxy = f"{MESH}.{name}"
        ended = ProxyDisconnected(proxy=proxy, connection=self.connections[zone, proxy])
        self.write(zone, [ended], "system:zone")
        self.now += timedelta(milliseconds=self.chance.randrange(20, 5000))
        self.connect(zone, proxy, ResourceKey("Dataplane", MESH, name, zone))

    def move_proxy(self, zone: str) -> None:
        """A sidecar comes back elsewhere."""
        name = self.chance.choice(self.proxies[zone])
        self.write(zone, [ResourceApplied(resource=self.dataplane(zone, name))], "system:join")

    def dataplane(self, zone: str, name: str) -> Resource:
        """A sidecar of one application."""
        address = f"10.{self.chance.randrange(1, 250)}.{self.chance.randrange(250)}.{self.chance.randrange(1, 250)}"
        tags = {"kuma.io/service": f"app-{hash_of(name) % 200}", "kuma.io/protocol": "http"}
        inbound = [{"port": 8080, "servicePort": 8081, "tags": tags}]
        fields = {
            "type": "Dataplane",
            "name": name,
            "mesh": MESH,
            "networking": {"address": address, "inbound": inbound, "admin": {"port": 9901}},
        }
        found: Resource = codec.convert(fields, Resource)
        return computed(found, zone)

    def egress(self, zone: str) -> Resource:
        """The zone's egress."""
        fields = {
            "type": "ZoneEgress",
            "name": f"egress-{zone}",
            "zone": zone,
            "networking": {"address": "10.0.0.1", "port": 10002, "admin": {"port": 9901}},
        }
        found: Resource = codec.convert(fields, Resource)
        return computed(found, zone)


def hash_of(name: str) -> int:
    """A number that is the same in every process."""
    return int(name.rpartition("-")[2])


def hostname(service: str) -> str:
    """What Kuma's default generator calls a service."""
    return f"{service}.extsvc.mesh.local"


def generated(size: Size, seed: int = 1) -> Iterator[Written]:
    """The whole past, in pieces; those of one origin follow each other. Raises ValueError for sizes too small."""
    if size.resources < max(MIN_RESOURCES, 2 * size.proxies) or size.proxies < MIN_PROXIES:
        raise ValueError(f"at least {MIN_RESOURCES} resources, {MIN_PROXIES} proxies, two resources per proxy")
    maker = _Maker(size, seed)
    yield from maker.begin()
    yield from maker.live()
