"""Who may use what, at a zone egress that is told of it: never more than some moment on the way allowed.

Real events, real views and filters, the real order and stream; the Envoy is simulated. It takes responses one by one,
answers late (clusters that warm up hold their ACK back) and loses its connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgspec
from envoy_data_plane.envoy.config.cluster import v3 as cluster
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.events.event import Event, ProxyConnected
from shared.model.resource import ResourceKey, key_of
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from tests.builders import LogBuilder, ZoneBuilder, applied, deleted, egress, mes, mesh, traffic_permission
from tests.xds.test_fleet import Secrets
from tests.zone_cp.judged import lets_in
from zone_cp.ads.delta import DeltaStream
from zone_cp.grace import GRACE_SECONDS, Between, between
from zone_cp.order import PushOrder
from zone_cp.view.policies import permission
from zone_cp.view.zone_view import ExternalServiceView, MeshView, ZoneView
from zone_cp.xds.fleet import first_turn, next_turn
from zone_cp.xds.snapshot import CLUSTER, EXTENSION_CONFIG, LISTENER, Snapshot

EGRESS = ".egress-1"
WORKLOADS = ("spiffe://default/web", "spiffe://default/job")
FILTERS = ("access/http/default", "destination/tcp/default")
TYPES = (CLUSTER, LISTENER, EXTENSION_CONFIG)
SERVICES = ("s0", "s1", "s2")
PHASES = tuple(set(Phase) - {Phase.explain, Phase.shrink})

Ways = dict[str, frozenset[tuple[str, str]]]
"""By cluster: its version and a workload that is led there."""


class Moment(NamedTuple):
    """What the zone wants since then."""

    view: ZoneView
    snapshot: Snapshot
    ways: Ways


class Client:
    """The egress's Envoy: what it holds by type and name (version and body), and what is under way."""

    def __init__(self) -> None:
        self.holds: dict[str, dict[str, tuple[str, bytes]]] = {one: {} for one in TYPES}
        self.named: set[str] = set()
        self.connect()

    def connect(self) -> None:
        """A new stream; what is held is told."""
        self.up: deque[DeltaDiscoveryRequest] = deque()
        self.down: deque[DeltaDiscoveryResponse] = deque()
        self.answers: dict[str, deque[DeltaDiscoveryRequest]] = {one: deque() for one in TYPES}
        self.asked: set[str] = set()
        for type_url in (CLUSTER, LISTENER):
            self._ask(type_url, ["*", *sorted(self.named)] if type_url == CLUSTER and self.named else [])
        self._ask_for_filters()

    def _ask(self, type_url: str, names: Iterable[str]) -> None:
        first = type_url not in self.asked
        self.asked.add(type_url)
        held = {name: version for name, (version, _) in self.holds[type_url].items()} if first else {}
        self.up.append(
            DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names, initial_resource_versions=held)
        )

    def _ask_for_filters(self) -> None:
        if "egress" in self.holds[LISTENER] and EXTENSION_CONFIG not in self.asked:
            self._ask(EXTENSION_CONFIG, FILTERS)

    def use(self, name: str) -> None:
        """A cluster that is loaded when it is first used."""
        if name not in self.named:
            self.named.add(name)
            self._ask(CLUSTER, [name])

    def take(self) -> None:
        """The next response; its answer is kept back."""
        if not self.down:
            return
        response = self.down.popleft()
        held = self.holds[response.type_url]
        for one in response.resources:
            held[one.name] = (one.version, one.resource.value)
        for name in response.removed_resources:
            held.pop(name, None)
        answer = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        self.answers[response.type_url].append(answer)
        self._ask_for_filters()

    def answer(self, type_url: str) -> None:
        if self.answers[type_url]:
            self.up.append(self.answers[type_url].popleft())

    @property
    def rests(self) -> bool:
        return not (self.up or self.down or any(self.answers.values()))

    def ways(self) -> Ways:
        """Who is led where."""
        found = {}
        for name, (version, body) in self.holds[CLUSTER].items():
            if name.startswith("mes/") and _dials(body):
                filter_ = self.holds[EXTENSION_CONFIG].get(FILTERS[name.startswith("mes/tcp/")])
                led = (one for one in WORKLOADS if filter_ is not None and lets_in(filter_[1], name, one))
                found[name] = frozenset((version, one) for one in led)
        return {name: ways for name, ways in found.items() if ways}


def _dials(body: bytes) -> bool:
    made: Any = cluster.Cluster.parse(body)
    return any(one.lb_endpoints for one in made.load_assignment.endpoints) if made.load_assignment else False


def allowed(found: MeshView, service: ExternalServiceView) -> Iterator[str]:
    """Who may use a service, as the view has it."""
    for who in WORKLOADS:
        said = service.permission
        if said.allows(who) if said is not None else not found.forbid_external:
            yield who


class Access(RuleBasedStateMachine):
    """A zone, its egress, and what is between them."""

    on_demand = False

    @initialize()
    def begin(self) -> None:
        self.hub, self.zone, self.secrets = LogBuilder(), ZoneBuilder(), Secrets()
        self.secrets.authorities.add("default")
        self.hub.append(applied(mesh()))
        self.zone.follow(self.hub)
        if self.on_demand:
            self.zone.write(msgspec.structs.replace(self.zone.settings, egress_on_demand_above=0))
        self.zone.apply(egress())
        self.zone.write(ProxyConnected(proxy=EGRESS, key=key_of(egress(), "east"), connection="1"))
        self.turn = first_turn(self.zone.state, self.secrets)
        self.seen = (len(self.hub.events), len(self.zone.own.events))
        self.now, self.order = 0.0, PushOrder()
        self.moments: list[Moment] = []
        self.blind = False
        self.kept: dict[str, tuple[float, ExternalServiceView]] = {}
        self.stream, self.client = DeltaStream(), Client()
        self._want(Between(self.turn.fleet.view))

    # --- what the zone does ----------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(SERVICES), tcp=st.booleans(), to=st.integers(1, 2), at_once=st.booleans())
    def serve(self, name: str, tcp: bool, to: int, at_once: bool) -> None:
        made = mes(name, port=81, protocol="tcp" if tcp else "http", endpoints=(f"203.0.113.{to}:80",))
        self.hub.append(applied(made))
        self._turn(at_once)

    @rule(name=st.sampled_from(SERVICES), at_once=st.booleans())
    def withdraw(self, name: str, at_once: bool) -> None:
        if ResourceKey("MeshExternalService", "default", name) in self.hub.state.resources:
            self.hub.append(deleted(mes(name)))
            self._turn(at_once)

    @rule(
        number=st.integers(0, 1),
        name=st.sampled_from((*SERVICES, "")),
        allow=st.sets(st.sampled_from(WORKLOADS)),
        deny=st.sets(st.sampled_from(WORKLOADS), max_size=1),
        at_once=st.booleans(),
    )
    def permit(self, number: int, name: str, allow: set[str], deny: set[str], at_once: bool) -> None:
        """A permission for one service ("": for all)."""
        self.hub.append(applied(traffic_permission(f"p{number}", name, allow, deny)))
        self._turn(at_once)

    @rule(number=st.integers(0, 1), at_once=st.booleans())
    def lift(self, number: int, at_once: bool) -> None:
        key = ResourceKey("MeshTrafficPermission", "default", f"p{number}")
        if (stored := self.hub.state.resources.get(key)) is not None:
            self.hub.append(deleted(stored.resource))
            self._turn(at_once)

    @rule(forbid=st.booleans(), at_once=st.booleans())
    def govern(self, forbid: bool, at_once: bool) -> None:
        self.hub.append(applied(mesh(forbid=forbid)))
        self._turn(at_once)

    @rule(seconds=st.sampled_from((1.0, 6.0, 11.0)))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.order.due()) is not None and due <= end:
            self.now = max(due, self.now)
            self._offer(self.order.tick(self.now))
        self.now = end

    def _turn(self, at_once: bool) -> None:
        """Let the zone publish, unless more is to change with it."""
        if not at_once:
            return
        self.zone.follow(self.hub)
        events: tuple[Event, ...] = (*self.hub.events[self.seen[0] :], *self.zone.own.events[self.seen[1] :])
        self.seen = (len(self.hub.events), len(self.zone.own.events))
        before = self.turn.fleet.view
        self.turn = next_turn(self.turn.fleet, self.zone.state, self.secrets, events=events)
        self._want(between(before, self.turn.fleet.view, self.turn.difference))

    def _want(self, what: Between) -> None:
        self._offer(self.order.want(self.now, self.turn.fleet.view.position, self.turn.offers, [EGRESS], what)[0])

    def _offer(self, offers: Iterable[tuple[str, Snapshot]]) -> None:
        told = [snapshot for proxy, snapshot in offers if proxy == EGRESS]
        if not told and self.moments:
            told = [self.moments[-1].snapshot]  # it holds at this moment too
        for snapshot in told:
            self.moments.append(Moment(self.turn.fleet.view, snapshot, self._wanted(snapshot)))
            self.stream.offer(snapshot)
            self._write()

    def _wanted(self, snapshot: Snapshot) -> Ways:
        view = self.turn.fleet.view
        found, held = view.meshes["default"], snapshot.resources[CLUSTER]
        services = {one.cluster: one for one in found.services.values()}
        before = self.moments[-1].view.meshes["default"] if self.moments else found
        gone = {one.cluster: one for one in before.services.values() if one.cluster not in services}
        self.kept.update({name: (self.now + GRACE_SECONDS, one) for name, one in gone.items()})
        self.kept = {name: one for name, one in self.kept.items() if name not in services and one[0] > self.now}
        ways = {
            name: frozenset((held[name].version, who) for who in allowed(found, one))
            for name, one in services.items()
            if name in held
        }
        for name, (_, one) in self.kept.items():
            had = self.moments[-1].ways.get(name, frozenset())
            said = permission(found.policies, one.key, one.labels)
            may = {who for who in WORKLOADS if (said.allows(who) if said is not None else True)}
            ways[name] = frozenset(way for way in had if way[1] in may)
        return {name: one for name, one in ways.items() if one}

    # --- what the wire does ----------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 3))
    def hear(self, count: int) -> None:
        for _ in range(count):
            if self.client.up:
                self.stream.receive(self.client.up.popleft())
                self._write()
        self._rested()

    @rule(count=st.integers(1, 3))
    def tell(self, count: int) -> None:
        for _ in range(count):
            self.client.take()
            self._check()

    @rule(type_url=st.sampled_from(TYPES))
    def answer(self, type_url: str) -> None:
        self.client.answer(type_url)

    @rule(restarted=st.booleans())
    def reconnect(self, restarted: bool) -> None:
        """restarted: the control plane knows nothing of what this egress was told."""
        self.blind = self.blind or restarted
        if restarted:
            self.order.left(EGRESS)
            view = self.turn.fleet.view
            snapshot = self.turn.fleet.snapshot(EGRESS)
            assert snapshot is not None
            offers = self.order.want(self.now, view.position, [(EGRESS, snapshot)], [EGRESS], Between(view))[0]
            self.moments.append(Moment(view, offers[0][1], self._wanted(offers[0][1])))
        self.stream = DeltaStream()
        self.client.connect()
        self.stream.offer(self.moments[-1].snapshot)

    @precondition(lambda self: self.on_demand)
    @rule(name=st.sampled_from(SERVICES))
    def use(self, name: str) -> None:
        for service in self.turn.fleet.view.meshes["default"].services.values():
            if service.name == name:
                self.client.use(service.cluster)

    def _write(self) -> None:
        for raw in self.stream.responses():
            self.client.down.append(DeltaDiscoveryResponse.FromString(raw))

    def _rested(self) -> None:
        newest = self.moments[-1]
        if self.client.rests and self.stream.delivered == newest.snapshot.position and not self.stream.unanswered:
            del self.moments[:-1]
            self.blind = False
            self._offer(self.order.acked(self.now, EGRESS, newest.view.position))

    @rule()
    def settle(self) -> None:
        """Everything is said and answered: what it holds is what is compiled, to the byte."""
        self._run()
        self.wait(2 * GRACE_SECONDS)
        self._run()
        wanted = self.turn.fleet.snapshot(EGRESS)
        assert wanted is not None
        for type_url in (EXTENSION_CONFIG, LISTENER):
            held = {name: body for name, (_, body) in self.client.holds[type_url].items()}
            assert held == {name: one.body for name, one in wanted.resources[type_url].items()}
        found = self.turn.fleet.view.meshes["default"]
        meant = {one.cluster: {*allowed(found, one)} for one in found.services.values()}
        used = {name: who for name, who in meant.items() if who and (not self.on_demand or name in self.client.named)}
        assert {name: {who for _, who in ways} for name, ways in self.client.ways().items()} == used

    def _run(self) -> None:
        for _ in range(10_000):
            if self.client.rests:
                self._rested()
                if self.client.rests:
                    return
            self.hear(3)
            self.tell(3)
            for type_url in TYPES:
                self.client.answer(type_url)
        raise AssertionError("server and client never fall silent")

    @invariant()
    def it_leads_nobody_where_no_moment_on_the_way_did(self) -> None:
        if getattr(self, "moments", None):
            self._check()

    def _check(self) -> None:
        for name, ways in self.client.ways().items():
            ever = frozenset[tuple[str, str]]().union(*(one.ways.get(name, frozenset()) for one in self.moments))
            if self.blind:  # who gained access to what was there before is not known any more
                assert {who for _, who in ways} <= {who for _, who in ever}, f"{name} leads {ways}"
            else:
                assert ways <= ever, f"{name} leads {ways - ever}"


class AccessOnDemand(Access):
    """The same, where clusters are loaded when they are first used."""

    on_demand = True


TestAccess = Access.TestCase
TestAccessOnDemand = AccessOnDemand.TestCase
TestAccess.settings = TestAccessOnDemand.settings = settings(
    max_examples=40, stateful_step_count=50, deadline=None, phases=PHASES
)
