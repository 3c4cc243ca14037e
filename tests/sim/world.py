"""A seeded world of one global and N zones: production fold, check, decide and compose over stores in memory.

Links are cut and heal, deliveries overlap, repeat and lose events, clocks disagree, and any process may lose its
memory at any point between two writes. Stores keep what was appended, batches are all or nothing: that is what
JetStream promises. After every step the invariants of decisions 15 and 16 are checked; `converge` heals
everything and checks that all agree.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256

import msgspec

from shared.events.compose import compose
from shared.events.cross_mesh import cross_mesh_hosts
from shared.events.event import (
    GLOBAL,
    Change,
    Event,
    HostnameReleased,
    ProxyConnected,
    ProxyDisconnected,
    Unreadable,
    VipReleased,
    encode_event,
)
from shared.events.fold import check, fold, fold_all
from shared.events.state import LogState, ZoneState
from shared.events.stop import Stop, first_unread, readable, stop_at, tombstone
from shared.model.resource import (
    Dataplane,
    DataSource,
    ExternalTls,
    MeshExternalService,
    Resource,
    ResourceKey,
    Sealed,
    Secret,
    Verification,
    ZoneEgress,
    key_of,
    protocol_class,
)
from shared.naming.hostname import default_generators
from tests.builders import applied, at, dataplane, deleted, egress, gateway, generator, mes, mesh, resource, settings
from zone_cp.decide import decide
from zone_cp.replay import RedactedSecrets
from zone_cp.xds.compare import divergences
from zone_cp.xds.fleet import Fleet, first_turn, next_turn

SHARED_CIDR = "10.9.0.0/26"
OTHER_CIDR = "10.8.0.0/25"
QUARANTINE_SECONDS = 60
LEGACY = "240.0.0.0/24"
"""Where what is seen of other meshes has its VIPs."""
SERVICES = 24
TEMPLATES = (
    "{{ .DisplayName }}.ext",
    '{{ label "host" }}.ext',
    "{{ .Name }}.{{ .Mesh }}.ext",
    "{{ .Name }}.{{ .Zone }}.ext",
)


SECRETS = RedactedSecrets()
SEALED = tuple(Sealed(kid=f"k{number}", nonce="bg==", ciphertext="Yw==", digest=f"{number}") for number in range(2))
_BACK = {"address": "127.0.0.1", "port": 9999, "backendRef": {"kind": "MeshExternalService", "name": "s3"}}
PROXIES: tuple[tuple[Dataplane | ZoneEgress, tuple[str, ...]], ...] = (
    (egress(), ()),
    (egress("egress-2", port=10003), ()),
    (dataplane(), ("redirect",)),
    (dataplane("web-2"), ("redirect",)),
    (dataplane("explicit", "explicit"), ()),
    (dataplane("back", "back", outbound=[_BACK]), ("redirect",)),
    (msgspec.structs.replace(dataplane("other"), mesh="other"), ()),
)
"""Egresses, sidecars with one listener for all (two in equal situation), with one each, with a chosen outbound."""


class Broken(Exception):
    """An invariant does not hold."""


def expect(holds: object, message: str) -> None:
    """Raise Broken unless `holds`."""
    if not holds:
        raise Broken(message)


class Store:
    """A stream: events at their sequence, appended with the expected one, all or nothing."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, events: Sequence[Event]) -> None:
        """Append a batch; a gap or an overlap is an error of the writer."""
        expect(not events or events[0].n == len(self.events) + 1, "append at a wrong sequence")
        self.events.extend(events)


class Clock:
    """A node's clock: world time plus a skew."""

    def __init__(self, world: World, skew: float) -> None:
        self._world = world
        self._skew = skew

    def now(self, state: LogState) -> str:
        """Event time: never before the last event of the log."""
        return max(at(self._world.seconds + self._skew), state.time)


class GlobalNode:
    """Global: its log, and its copies of the zones' logs."""

    def __init__(self, world: World) -> None:
        self.store = Store()
        self.copies: dict[str, Store] = {}
        self.state = LogState(GLOBAL)
        self._clock = Clock(world, 0)

    def write(self, *changes: Change) -> None:
        """Append changes of global."""
        ids = [f"g{self.state.n + 1 + number}" for number in range(len(changes))]
        events = compose(self.state, changes, ids=ids, time=self._clock.now(self.state), actor="sim")
        self.store.append(events)
        self.state = fold_all(self.state, events)

    def poison(self, change: Change, *, skippable: bool) -> None:
        """A later program writes what this one cannot read."""
        (event,) = compose(
            self.state, [change], ids=[f"g{self.state.n + 1}"], time=self._clock.now(self.state), actor="x"
        )
        self.store.append([msgspec.structs.replace(event, change=Unreadable(reason="planted", skippable=skippable))])
        self.state = fold_all(self.state, self.store.events[-1:])

    def restart(self) -> None:
        """Lose memory, read the log."""
        self.state = fold_all(LogState(GLOBAL), self.store.events)


class ZoneNode:
    """A zone: its own log, its copy of global's, and what it holds in memory."""

    def __init__(self, world: World, name: str, cidr: str, skew: float) -> None:
        self.name = name
        self.copy = Store()
        self.own = Store()
        self.connected = True
        self.settings = settings(cidr, quarantine_seconds=QUARANTINE_SECONDS, legacy=LEGACY)
        self._clock = Clock(world, skew)
        self.hub = LogState(GLOBAL)
        self.state = LogState(name)
        self.fleet: Fleet | None = None
        self.restart()

    @property
    def moment(self) -> ZoneState:
        """The zone's state."""
        return ZoneState(self.name, self.hub, self.state)

    def receive(self, events: Sequence[Event]) -> Counter[str]:
        """The reader: verify against the copy, append what continues it, stop at the first fault."""
        outcome: Counter[str] = Counter()
        head = fold_all(LogState(GLOBAL), self.copy.events)
        for event in events:
            fault = check(head, event)
            if fault is not None:
                outcome[fault.kind] += 1
                break
            outcome["repeat" if event.n <= head.n else "new"] += 1
            if event.n > head.n:
                self.copy.append([event])
                head = fold(head, event)
        return outcome

    def advance(self, *, crash: bool = False) -> bool:
        """Fold the next event of the copy and record what follows; `crash`: lose memory before it is recorded.

        Before one that cannot be read it stands still; with a tombstone behind it, both are taken together.
        """
        pending = self.copy.events[self.hub.n :]
        count = readable(pending, self.state.skipped)
        if not count:
            return False
        if crash:
            self.restart()
            return True
        for event in pending[: 1 if self.stop is None else count]:
            before, self.hub = self.moment, fold(self.hub, event)
            recorded = self._record(decide(self.moment, event, self.settings), cause=event.id)
            self._project(before, (event, *recorded))
        return True

    @property
    def stop(self) -> Stop | None:
        """What the zone stands before, though a tombstone behind it may let it go on."""
        event = next(iter(self.copy.events[self.hub.n :]), None)
        return None if event is None or (GLOBAL, event.n) in self.state.skipped else stop_at(event)

    def skip(self) -> None:
        """An operator lets this zone alone go on."""
        if (stop := self.stop) is not None:
            before = self.moment
            self._project(before, self._record((tombstone(GLOBAL, stop.n, "sim"),)))

    def write(self, change: Change) -> None:
        """A change of the zone's own and what follows from it, in one batch."""
        before = self.moment
        asked = self._compose((change,), self.state)
        after = fold_all(self.state, asked)
        consequences = decide(ZoneState(self.name, self.hub, after), asked[0], self.settings)
        events = (*asked, *self._compose(consequences, after, cause=asked[0].id))
        self.own.append(events)
        self.state = fold_all(self.state, events)
        self._project(before, events)

    def restart(self) -> None:
        """Lose memory; fold the own log, the copy up to the last g decided about, and go on from there."""
        self.state = fold_all(LogState(self.name), self.own.events)
        self.hub = fold_all(LogState(GLOBAL), self.copy.events[: self.state.seen])
        self.fleet = None
        if self.state.settings != self.settings:
            self._record((self.settings,))
        self._record(decide(self.moment, None, self.settings))

    def end_quarantines(self) -> None:
        """A zone's own time moves with what it records: what that has passed ends with the next event, or here."""
        while changes := decide(self.moment, None, self.settings):
            released = isinstance(changes[0], HostnameReleased | VipReleased)
            expect(released, f"{self.name}: {changes[0]} was not decided when it was due")
            self._record(changes)

    def _record(self, changes: Sequence[Change], cause: str = "") -> tuple[Event, ...]:
        events = self._compose(changes, self.state, cause)
        self.own.append(events)
        self.state = fold_all(self.state, events)
        return events

    def _compose(self, changes: Sequence[Change], state: LogState, cause: str = "") -> tuple[Event, ...]:
        ids = [f"{self.name}{state.n + 1 + number}" for number in range(len(changes))]
        time = self._clock.now(state)
        return compose(state, changes, ids=ids, time=time, actor="system:zone", seen=self.hub.n, cause=cause)

    def _project(self, before: ZoneState, events: Sequence[Event]) -> None:
        """What proxies are served, by what changed; compared with what is made from nothing, byte for byte."""
        after = self.moment
        if self.fleet is None:
            self.fleet = first_turn(after, SECRETS).fleet
        else:
            self.fleet = next_turn(self.fleet, after, SECRETS, events=events).fleet
        check_nothing_moved(before, after)
        expect(not (found := divergences(self.fleet, SECRETS)), f"{self.name}: {'; '.join(found)}")


class World:
    """The simulation. Everything follows from `seed`. poison: events that nobody can read are among the others."""

    def __init__(self, seed: int, zones: int, *, poison: bool = False) -> None:
        self.poison = poison
        self.random = random.Random(seed)
        self.seconds = 0.0
        self.counts: Counter[str] = Counter()
        self.hub = GlobalNode(self)
        self.zones: list[ZoneNode] = []
        for number in range(zones):
            # The last of three or more zones has a range of its own.
            cidr = OTHER_CIDR if zones > 2 and number == zones - 1 else SHARED_CIDR
            self.zones.append(ZoneNode(self, f"zone-{number}", cidr, self.random.uniform(-20, 20)))
        self.hub.copies = {zone.name: Store() for zone in self.zones}
        self.hub.write(applied(mesh()), applied(mesh("other")), *(applied(one) for one in default_generators()))

    def run(self, steps: int) -> None:
        """Take steps, checking after each."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """One random act of one random node, then the invariants."""
        self.seconds += self.random.choice((0.0, 1.0, 5.0))
        zone = self.random.choice(self.zones)
        acts: list[tuple[int, str, Callable[[], None]]] = [
            (30, "global write", self._global_write),
            (14, "zone write", lambda: self._zone_write(zone)),
            (30, "deliver", lambda: self._deliver(zone)),
            (40, "advance", lambda: self._advance(zone)),
            (14, "forward", lambda: self._forward(zone)),
            (6, "proxy", lambda: self._proxy(zone)),
            (4, "cut or heal", lambda: self._toggle(zone)),
            (3, "restart", zone.restart),
            (2, "crash", lambda: self._crash(zone)),
            (1, "global restart", self.hub.restart),
            (1, "quarantine passes", self._wait),
        ]
        if self.poison:
            acts += [(2, "poison", self._poison), (2, "skip in a zone", zone.skip), (1, "skip", self._skip)]
        _, name, act = self.random.choices(acts, weights=[weight for weight, _, _ in acts])[0]
        act()
        self.counts[name] += 1
        for one in self.zones:
            check_zone(one)

    def converge(self) -> None:
        """Heal all links, drain all queues, lose all memory once more; then everybody must agree."""
        while self.hub.state.unread:
            self._skip()
        for zone in self.zones:
            zone.connected = True
            self._deliver_all(zone)
            while zone.advance():
                pass
            zone.end_quarantines()
            live = zone.moment
            zone.restart()
            # Events that led to no decision are folded again after a restart.
            while zone.advance():
                pass
            expect(zone.moment == live, f"{zone.name}: a restart changed the state")
            expect(zone.stop is None and not zone.hub.unread, f"{zone.name}: it stands before what was skipped")
            expect(zone.copy.events == self.hub.store.events, f"{zone.name}: the copy is not global's log")
            expect(zone.hub == self.hub.state, f"{zone.name}: another state of global's log")
            self._forward_all(zone)
            expect(self.hub.copies[zone.name].events == zone.own.events, f"{zone.name}: global has another log of it")
            expect(decide(zone.moment, None, zone.settings) == (), f"{zone.name}: something is left to decide")
            overdue = [
                until for held in zone.state.expiring.values() for until in held.values() if until <= zone.hub.time
            ]
            expect(not any(until <= zone.state.time for until in overdue), f"{zone.name}: a quarantine does not end")
        by_cidr: dict[str, dict[ResourceKey, str]] = {}
        for zone in (*self.zones, *self._fresh_zones()):
            vips = {key: lease.ip for key, lease in zone.state.leases.items() if not key.zone}
            expected = by_cidr.setdefault(zone.settings.cidr, vips)
            expect(vips == expected, f"{zone.name}: other VIPs than the zones with the same CIDR")

    def digest(self) -> str:
        """A fingerprint of all logs: equal for equal seeds."""
        total = sha256()
        for store in (self.hub.store, *(zone.own for zone in self.zones)):
            for event in store.events:
                total.update(encode_event(event))
        return total.hexdigest()[:16]

    # --- acts ---------------------------------------------------------------------------------------------------

    def _poison(self) -> None:
        """A later program writes something of its own, and what else it has to say behind that."""
        self.hub.poison(applied(self._resource()), skippable=self.random.random() < 0.2)
        for _ in range(self.random.randrange(3)):
            self.hub.write(applied(self._resource()))

    def _skip(self) -> None:
        """An operator has everybody pass over what global cannot read."""
        if self.hub.state.unread:
            self.hub.write(tombstone(GLOBAL, self.random.choice(sorted(self.hub.state.unread)), "sim"))

    def _global_write(self) -> None:
        if first_unread(self.hub.state) is not None:
            return  # it refuses
        resource = self._resource()
        if self.random.random() < 0.3 and key_of(resource) in self.hub.state.resources:
            self.hub.write(deleted(resource))
        elif self.random.random() < 0.1:
            self.hub.write(applied(resource), *(applied(self._service()) for _ in range(3)))
        else:
            self.hub.write(applied(resource))

    def _zone_write(self, zone: ZoneNode) -> None:
        resource = self._resource()
        gone = self.random.random() < 0.4 and key_of(resource, zone.name) in zone.state.resources
        zone.write(deleted(resource, zone.name) if gone else applied(resource, zone.name))

    def _proxy(self, zone: ZoneNode) -> None:
        """A proxy is declared, connects, or goes."""
        resource, features = self.random.choice(PROXIES)
        key = key_of(resource, zone.name)
        status = zone.state.proxies.get(resource.name)
        if key not in zone.state.resources:
            zone.write(applied(resource, zone.name))
        elif status is not None and status.online:
            zone.write(ProxyDisconnected(proxy=resource.name, connection=status.connection))
        else:
            zone.write(ProxyConnected(proxy=resource.name, key=key, connection=f"{zone.state.n}", features=features))

    def _policy(self) -> Resource:
        """A policy of any proxies towards any services, or a permission."""
        name = f"p{self.random.randrange(3)}"
        one = {"kind": "MeshExternalService", "name": f"s{self.random.randrange(SERVICES)}"}
        to = self.random.choice((one, {"kind": "Mesh"}))
        if self.random.random() < 0.3:
            spec: dict[str, object] = {"targetRef": one, "rules": []}
            return resource(type="MeshTrafficPermission", name=name, mesh="default", spec=spec)
        spec = {"to": [{"targetRef": to, "default": {"idleTimeout": f"{self.random.randint(1, 9)}s"}}]}
        if self.random.random() < 0.4:
            spec["targetRef"] = {"kind": "Dataplane", "name": "web-1"}
        return resource(type="MeshTimeout", name=name, mesh="default", spec=spec)

    def _resource(self) -> Resource:
        if self.random.random() < 0.06:
            return self._policy()
        if self.random.random() < 0.05:
            return Secret(name=f"ca{self.random.randrange(3)}", sealed=self.random.choice(SEALED))
        if self.random.random() < 0.05:
            name, forbid = self.random.choice(("default", "other")), self.random.random() < 0.3
            return mesh(name, mtls=self.random.random() < 0.8, forbid=forbid)
        if self.random.random() < 0.08:
            return self._gateway()
        if self.random.random() < 0.12:
            match = {"kuma.io/origin": self.random.choice(("global", "zone"))} if self.random.random() < 0.5 else {}
            return generator(f"g{self.random.randrange(3)}", self.random.choice(TEMPLATES), match=match)
        return self._service()

    def _gateway(self) -> Resource:
        """A MeshGateway with listeners for other meshes."""
        hosts = self.random.sample(("", "a.test", "b.test"), self.random.randint(1, 2))
        found = [{"port": 80 + one, "protocol": "HTTP", "hostname": host} for one, host in enumerate(hosts)]
        crossing = [one | {"crossMesh": self.random.random() < 0.8} for one in found]
        name, in_mesh = f"e{self.random.randrange(2)}", self.random.choice(("default", "other"))
        return gateway(name, "edge-gateway", *crossing, mesh=in_mesh)

    def _service(self) -> MeshExternalService:
        return mes(
            f"s{self.random.randrange(SERVICES)}",
            mesh=self.random.choice(("default", "default", "other")),
            protocol="tcp" if self.random.random() < 0.2 else "http",
            tls=self._tls(),
            labels={"host": f"h{self.random.randrange(6)}"},
        )

    def _tls(self) -> ExternalTls | None:
        if self.random.random() < 0.7:
            return None
        ca = DataSource(secret=f"ca{self.random.randrange(3)}")
        return ExternalTls(enabled=True, verification=Verification(ca_cert=ca))

    def _deliver(self, zone: ZoneNode) -> None:
        """A batch from the hub: it may begin too early, repeat itself, miss an event, or come from a cut link."""
        if not zone.connected:
            return
        have = len(zone.copy.events)
        start = max(0, have - self.random.randrange(4))
        batch = self.hub.store.events[start : have + self.random.randint(1, 12)]
        if batch and self.random.random() < 0.2:
            batch.insert(self.random.randrange(len(batch)), self.random.choice(batch))
        if batch and self.random.random() < 0.15:
            del batch[self.random.randrange(len(batch))]
        if batch and self.random.random() < 0.05:
            index = self.random.randrange(len(batch))
            batch[index] = msgspec.structs.replace(batch[index], actor="somebody else", prev="0" * 64)
        for kind, count in zone.receive(batch).items():
            self.counts[f"read: {kind}"] += count

    def _deliver_all(self, zone: ZoneNode) -> None:
        zone.receive(self.hub.store.events[len(zone.copy.events) :])

    def _advance(self, zone: ZoneNode) -> None:
        for _ in range(self.random.randint(1, 6)):
            zone.advance()

    def _crash(self, zone: ZoneNode) -> None:
        zone.advance(crash=True)

    def _forward(self, zone: ZoneNode) -> None:
        if zone.connected:
            self._forward_all(zone, limit=self.random.randint(1, 10))

    def _forward_all(self, zone: ZoneNode, limit: int | None = None) -> None:
        copy = self.hub.copies[zone.name]
        end = None if limit is None else len(copy.events) + limit
        copy.append(zone.own.events[len(copy.events) : end])

    def _toggle(self, zone: ZoneNode) -> None:
        zone.connected = not zone.connected

    def _wait(self) -> None:
        self.seconds += QUARANTINE_SECONDS

    def _fresh_zones(self) -> list[ZoneNode]:
        """For each CIDR, a zone that replays all of global's log in one go and never had anything of its own."""
        fresh = []
        for cidr in sorted({zone.settings.cidr for zone in self.zones}):
            zone = ZoneNode(self, "fresh", cidr, 0)
            self._deliver_all(zone)
            while zone.advance():
                pass
            fresh.append(zone)
        return fresh


# --- invariants ------------------------------------------------------------------------------------------------------


def check_zone(zone: ZoneNode) -> None:
    """Claims and leases are unique, indices agree, the view is the projection."""
    own = zone.state
    active = {key: lease.ip for key, lease in own.leases.items()}
    expect(len(set(active.values())) == len(active), f"{zone.name}: two services have one VIP")
    expect(
        {lease.key: ip for ip, lease in own.vips.items() if lease.until is None} == active,
        f"{zone.name}: leases and vips disagree",
    )
    held = {place: claim for place, claim in own.claims.items() if claim.until is None}
    by_holder = {(claim.mesh, claim.hostname): claim for names in own.names.values() for claim in names.values()}
    expect(held == by_holder, f"{zone.name}: claims and names disagree")
    hosts = cross_mesh_hosts(zone.moment)
    for key in (*own.leases, *own.names):
        expect(
            key in hosts or zone.moment.resource(key) is not None,
            f"{zone.name}: {key} is gone and still holds something",
        )


def check_nothing_moved(before: ZoneState, after: ZoneState) -> None:
    """No VIP and no hostname passes from a living service to another holder or address."""
    for key, lease in before.own.leases.items():
        stored = after.resource(key)
        if stored is None or not isinstance(stored.resource, MeshExternalService):
            continue
        if protocol_class(stored.resource.spec.match.protocol) == lease.protocol_class:
            now = after.own.leases.get(key)
            expect(now is not None and now.ip == lease.ip, f"{after.zone}: the VIP of {key} moved")
    for place, claim in before.own.claims.items():
        now_held = after.own.claims.get(place)
        if now_held is not None and now_held.key != claim.key:
            expect(claim.until is not None, f"{after.zone}: {place} passed from {claim.key} to {now_held.key} at once")
