"""Whatever happens on a stream, the client ends up holding what was offered, and nothing speaks without a cause."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import msgspec
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.ads.stream_pair import (
    LONG,
    SHORT,
    WILDCARD_TYPES,
    SotwPair,
    StreamPair,
    snapshot,
    succeeding,
    told,
    wire_version,
)
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET
from zone_cp.xds.tombstone import tombstone

NAMES = ("a", "b", "c", "d")
contents = st.sampled_from(["1", "2", "3", "bad"])
resources = st.dictionaries(st.sampled_from(NAMES), contents)
snapshots = st.fixed_dictionaries(dict.fromkeys(SHORT, resources))
PHASES = tuple(set(Phase) - {Phase.explain, Phase.shrink})
NAMED = [LONG[url] for url in (ENDPOINT, ROUTE, SECRET)]


class Stream(RuleBasedStateMachine):
    """A client and a server that exchange messages one at a time, interleaved with everything else."""

    pair_of: type[StreamPair] = StreamPair
    on_demand = ""

    @initialize(whole=st.booleans(), chained=st.booleans())
    def connect(self, whole: bool, chained: bool) -> None:
        """chained: snapshots are made from each other and tell what changed; else every one is compared whole."""
        self.pair = self.pair_of(whole=whole)
        self.chained = chained
        self.position = 0
        self.given: dict[str, dict[str, str]] = {}
        self.pair.ask("CDS")
        self.pair.ask("LDS")

    @rule(given=snapshots)
    def offer(self, given: dict[str, dict[str, str]]) -> None:
        self._offer(given)

    @precondition(lambda self: bool(self.given))
    @rule(short=st.sampled_from(sorted(SHORT)), name=st.sampled_from(NAMES), content=contents)
    def change(self, short: str, name: str, content: str) -> None:
        self._offer(self.given | {short: self.given[short] | {name: content}})

    @precondition(lambda self: bool(self.given))
    @rule(short=st.sampled_from(sorted(SHORT)), name=st.sampled_from(NAMES))
    def remove(self, short: str, name: str) -> None:
        self._offer(self.given | {short: {n: c for n, c in self.given[short].items() if n != name}})

    def _offer(self, given: dict[str, dict[str, str]]) -> None:
        self.position += 1
        self.given = given
        types: Mapping[str, Mapping[str, str]] = given
        made = snapshot(self.position, **types)
        if self.chained and self.pair.offered is not None:
            made = succeeding(self.pair.offered, made)
        self.pair.offer(msgspec.structs.replace(made, on_demand=self.on_demand))

    @rule(short=st.sampled_from(NAMED), names=st.sets(st.sampled_from(NAMES), min_size=1))
    def subscribe(self, short: str, names: set[str]) -> None:
        self.pair.ask(short, *sorted(names))

    @rule(short=st.sampled_from(NAMED), names=st.sets(st.sampled_from(NAMES), min_size=1))
    def unsubscribe(self, short: str, names: set[str]) -> None:
        if self.pair.names.get(SHORT[short]):
            self.pair.ask(short, unsubscribe=sorted(names & self.pair.names[SHORT[short]]))

    @rule(name=st.sampled_from(NAMES), on=st.booleans())
    def name_a_cluster(self, name: str, on: bool) -> None:
        if on:
            self.pair.ask("CDS", name)
        elif name in self.pair.names[CLUSTER]:
            self.pair.ask("CDS", unsubscribe=[name])

    @rule(downwards=st.booleans(), count=st.integers(1, 4))
    def deliver(self, downwards: bool, count: int) -> None:
        for _ in range(count):
            self.pair.step(downwards=downwards)

    @rule(short=st.sampled_from(sorted(SHORT)))
    def stale(self, short: str) -> None:
        self.pair.send_stale(short)

    @rule()
    def drain(self) -> None:
        self.pair.drain()

    @rule()
    def reconnect(self) -> None:
        self.pair.reconnect()

    @rule()
    def settle(self) -> None:
        """Quiescence: what the client holds is what was offered, save what it refused; and all is silent."""
        self.pair.run()
        if not self.given:
            assert not any(self.pair.holds.values())
            return
        for url in (CLUSTER, LISTENER, ENDPOINT, ROUTE, SECRET):
            self._check(url)
        assert self.pair.server.delivered is not None
        assert self.pair.server.delivered.g == self.position
        self._offer(self.given)
        assert told(self.pair.run()) == [], "the same content again causes no response"

    def _check(self, url: str) -> None:
        offered, holds = self.given[LONG[url]], self.pair.holds.get(url, {})
        subscribed = set(offered) | set(holds) if url in WILDCARD_TYPES else self.pair.names.get(url, set())
        refused = any("bad" in contents.values() for contents in self.given.values())
        for name in subscribed:
            content = offered.get(name)
            if url == CLUSTER and self.on_demand and name.startswith(self.on_demand):
                self._check_on_demand(name, content, refused=refused)
                continue
            if content is None and not self.pair.tells_absence and url not in WILDCARD_TYPES:
                continue  # SotW has no word for a removal of these; the client may go on holding it
            if content is None:
                # a refused user may keep what it uses alive
                assert name not in holds or refused, f"{LONG[url]} {name} was not removed"
            elif content != "bad":
                assert holds.get(name) == wire_version(LONG[url], name, content)
            else:
                assert holds.get(name) != wire_version(LONG[url], name, content)
        if url not in WILDCARD_TYPES and self.pair.tells_absence:
            for name in subscribed - set(offered) - set(holds):
                assert refused or (url, name) in self.pair.absent, f"{LONG[url]} {name} was never answered"

    def _check_on_demand(self, name: str, content: str | None, *, refused: bool) -> None:
        has, asked = self.pair.holds.get(CLUSTER, {}).get(name), name in self.pair.names.get(CLUSTER, set())
        if content is None:
            assert has == tombstone(name).version or refused or not asked, f"{name} was never answered"
        elif content == "bad":
            assert has != wire_version("CDS", name, content)
        elif has is not None or asked:
            assert has == wire_version("CDS", name, content)

    @invariant()
    def one_sotw_response_of_a_type_waits_for_its_answer(self) -> None:
        for delivery in self.pair.server.status():
            assert delivery.in_flight <= self.pair.server.window

    @invariant()
    def refused_bytes_stay_away(self) -> None:
        assert self.pair.resent_refused == []


class OnDemandMachine(Stream):
    """The same, and one of the clusters is loaded on demand."""

    on_demand = "c"


class SotwMachine(Stream):
    """The same with the same client, in state of the world."""

    pair_of = SotwPair


TestStream = Stream.TestCase
TestOnDemandStream = OnDemandMachine.TestCase
TestSotwStream = SotwMachine.TestCase
TestStream.settings = TestOnDemandStream.settings = TestSotwStream.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=PHASES
)
