"""Whatever happens to proxies, no change is called delivered before every proxy that is online has it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import hypothesis.strategies as st
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from immutables import Map

from shared.events.event import GLOBAL, EventRef
from shared.events.progress import Change, traced
from shared.events.state import LogState, Position, ProxyStatus, ZoneState
from shared.events.stop import Stop
from shared.model.resource import ResourceKey
from tests.ads.stream_pair import StreamPair, snapshot
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.hub import Hub, NodeInfo, Stream
from zone_cp.ads.quarantine import Key
from zone_cp.progress import ZoneProgress
from zone_cp.view.project import empty_view
from zone_cp.xds.fleet import Fleet, Turn
from zone_cp.xds.snapshot import CLUSTER, Snapshot

PROXIES = ("a", "b", "c")
proxies = st.sampled_from(PROXIES)


class Nowhere:
    """A status stream that nobody reads."""

    async def put(self, key: str, data: bytes) -> None:
        raise AssertionError("nothing is written without a writer")


class Envoy(StreamPair):
    """A client whose stream is one of a hub's."""

    def __init__(self, hub: Hub, name: str, order: int) -> None:
        self.hub, self.name, self.order = hub, name, order
        super().__init__()

    def _reset(self) -> None:
        super()._reset()
        self.stream = Stream(NodeInfo(self.name), self.name, str(self.order), self.order, xds=DeltaStream(), scope="")
        self.server = self.stream.xds
        self.hub.attach(self.stream)
        self.ask("CDS")

    def step(self, *, downwards: bool) -> bool:
        if downwards or not self.up:
            self._pump()
            return super().step(downwards=True)
        self.hub.receive(self.stream, self.up.popleft())
        self._pump()
        return True

    def _pump(self) -> None:
        for raw in self.hub.responses(self.stream):
            self.down.append(self._parse(raw))

    @property
    def content(self) -> int:
        """What it holds, as a number that grows; -1 for nothing."""
        version = self.holds.get(CLUSTER, {}).get("x")
        return -1 if version is None else VERSIONS[version]


VERSIONS: dict[str, int] = {}


def pushed(g: int, content: int) -> Snapshot:
    made = snapshot(g, CDS={"x": str(content)})
    VERSIONS[made.resources[CLUSTER]["x"].version] = content
    return made


class Zone(RuleBasedStateMachine):
    """Proxies come, answer one message at a time, go, are held; the control plane starts anew."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.order = 0
        self.g = 0
        self.online: set[str] = set()
        self.envoys: dict[str, Envoy] = {}
        self.held: set[str] = set()
        self.changes: dict[str, list[int]] = {name: [0] for name in PROXIES}
        self.begun = 0

    def teardown(self) -> None:
        self.loop.close()

    @initialize()
    def start(self) -> None:
        self.hub = Hub()
        self.progress = ZoneProgress(
            "east",
            self.hub,
            Nowhere(),
            state=self.state,
            plan=self,
            kept=self,
        )
        self.progress.recall({})
        self.hub.advance(self.state().position)
        self.begun = self.g

    # --- what the progress asks ----------------------------------------------------------------------------------

    def reason(self, proxy: str) -> str:
        return "held: too much" if proxy in self.held else ""

    fleet = None

    def delayed(self, proxy: str) -> str:
        return ""

    def quarantined(self) -> Sequence[tuple[Key, str]]:
        return ()

    stops: Sequence[Stop] = ()
    faults: Mapping[str, str] = Map()

    def state(self) -> ZoneState:
        known = {
            name: ProxyStatus(
                name, ResourceKey("Dataplane", "default", name, "east"), True, "", (), "", EventRef("", 0)
            )
            for name in self.online
        }
        return ZoneState("east", LogState(origin=GLOBAL, n=self.g), LogState(origin="east", proxies=Map(known)))

    # --- what happens --------------------------------------------------------------------------------------------

    @rule(touched=st.sets(proxies))
    def change(self, touched: set[str]) -> None:
        """An event, and what it makes of the proxies it touches."""
        self.g += 1
        for name in touched:
            self.changes[name].append(self.g)
        self._turn(touched & self.online)

    def _turn(self, touched: set[str]) -> None:
        offers = []
        for name in sorted(touched):
            made = pushed(self.g, self.changes[name][-1])
            offers.append((name, made))
            if name in self.held:
                self.hub.leave(name)
            else:
                self.hub.offer(name, made)
        state = self.state()
        self.hub.advance(state.position)
        turn = Turn(Fleet(state, empty_view(state)), None, (), tuple(offers))  # type: ignore[arg-type]
        self.progress.offered(turn)

    @rule(name=proxies)
    def connect(self, name: str) -> None:
        """A new stream, maybe of a proxy that has one; what it holds is not known."""

        async def connected() -> Envoy:
            return Envoy(self.hub, name, self.order)

        self.order += 1
        older = self.envoys.pop(name, None)
        self.envoys[name] = self.loop.run_until_complete(connected())
        if older is not None:
            self.hub.detach(older.stream)

    @rule(name=proxies)
    def record(self, name: str) -> None:
        """The log says that it is connected, and it is told what there is for it."""
        if name in self.envoys:
            self.online.add(name)
            self._turn({name})

    @rule(name=proxies)
    def disconnect(self, name: str) -> None:
        if name in self.envoys:
            self.hub.detach(self.envoys.pop(name).stream)
            self.online.discard(name)
            self.hub.leave(name)

    @rule(name=proxies)
    def hold(self, name: str) -> None:
        self.held.add(name)

    @rule(name=proxies)
    def release(self, name: str) -> None:
        if name in self.held:
            self.held.discard(name)
            self._turn({name} & self.online)

    @rule()
    def restart(self) -> None:
        """Nobody is connected, and what proxies hold is not known."""
        self.envoys.clear()
        self.start()

    @rule()
    def give_up(self) -> None:
        """Who has not come back is offline."""
        self.online &= self.envoys.keys()
        self.progress.lost()

    @rule(name=proxies, downwards=st.booleans())
    def deliver(self, name: str, downwards: bool) -> None:
        if name in self.envoys:
            self.envoys[name].step(downwards=downwards)

    @rule(name=proxies)
    def answer_all(self, name: str) -> None:
        if name in self.envoys:
            self.envoys[name].run()

    @rule()
    def settle(self) -> None:
        """Everybody is there, nobody is held, and all wires are emptied: then everything is delivered."""
        for name in PROXIES:
            if name not in self.envoys:
                self.connect(name)
            self.record(name)
        for name in sorted(self.held):
            self.release(name)
        for envoy in self.envoys.values():
            envoy.run()
        if self.g:
            found = traced("east", Change.of(GLOBAL, self.g, 0), self.progress.progress("east"))
            assert (found.state, found.online) == ("delivered", len(PROXIES))

    # --- what must be true ---------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_called_delivered_too_early(self) -> None:
        said = self.progress.progress("east")
        for n in range(1, self.g + 1):
            found = traced("east", Change.of(GLOBAL, n, 0), said)
            if found.state == "delivered":
                for name in self.online | self.envoys.keys():
                    due = max(at for at in self.changes[name] if at <= n)
                    assert name in self.envoys, f"{name} has not come back"
                    assert self.envoys[name].content >= due, f"{name} does not have {n}"
            else:
                assert found.missing, f"{n} is {found.state}, and nobody is missing"
            if found.push is not None:
                assert found.push.position == Position(n, 0)
                assert not (found.state == "delivered" and found.push.waiting)


Zone.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=tuple(set(Phase) - {Phase.explain})
)
TestZone = Zone.TestCase
