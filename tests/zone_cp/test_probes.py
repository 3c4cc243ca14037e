"""What agents probe becomes the state of inbounds: the newest word, of probed inbounds alone, one entry at a time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shared.events.event import Change, ProxyConnected
from shared.events.state import ZoneState
from shared.model.inbound import Inbound, ServiceProbe, TcpProbe
from shared.model.resource import Dataplane, key_of
from shared.pb.agent_pb2 import ProbedInbounds
from tests import builders
from zone_cp.follow import Decided
from zone_cp.probes import Probes, as_probed_before, probed

PROBE = ServiceProbe(tcp=TcpProbe())


def dataplane(*inbounds: tuple[int, ServiceProbe | None, str]) -> Dataplane:
    made = builders.dataplane()
    ports = tuple(
        replace(made.networking.inbound[0], port=port, service_probe=probe, state=state)
        for port, probe, state in inbounds
    )
    return replace(made, networking=replace(made.networking, inbound=ports))


def states(resource: Dataplane) -> list[str]:
    return [one.state for one in resource.networking.inbound]


def test_only_what_is_probed_is_judged() -> None:
    """An inbound without a probe, one that nobody is served and one that nothing is said of stay as they are."""
    declared = dataplane((80, PROBE, "Ready"), (81, None, "Ready"), (82, PROBE, "Ignored"), (83, PROBE, "NotReady"))
    said = {("", port): False for port in (80, 81, 82)}
    assert states(probed(declared, said)) == ["NotReady", "Ready", "Ignored", "NotReady"]
    assert probed(declared, {}) is declared


@pytest.mark.parametrize(
    ("stored", "state"),
    [
        (None, "NotReady"),
        (dataplane((80, PROBE, "Ready")), "Ready"),
        (dataplane((80, PROBE, "NotReady")), "NotReady"),
        (dataplane((80, None, "Ready")), "NotReady"),
        (dataplane((81, PROBE, "Ready")), "NotReady"),
        (dataplane((80, ServiceProbe(tcp=TcpProbe(), interval="5s"), "Ready")), "NotReady"),
    ],
)
def test_who_connects_is_ready_if_it_was(stored: Dataplane | None, state: str) -> None:
    """A proxy that comes back is what it was found to be; a new one, or another probe, has to speak first."""
    assert states(as_probed_before(dataplane((80, PROBE, "Ready")), stored)) == [state]


class Zone:
    """A zone's log with one Dataplane that is online, and what waits to be recorded."""

    def __init__(self, resource: Dataplane) -> None:
        self.waiting: list[Decided] = []
        self.probes = Probes(lambda decided, _: self.waiting.append(decided))
        self.own = builders.LogBuilder("east")
        self.own.append(builders.applied(resource, "east"))
        key = key_of(resource, "east")
        self.own.append(
            ProxyConnected(proxy="default.web-1", key=key, connection="c/1", features=(), system_ca_path="")
        )

    def record(self) -> list[Change]:
        """What waits, decided and recorded."""
        waiting, self.waiting = self.waiting, []
        state = ZoneState("east", builders.LogBuilder("global").state, self.own.state)
        changes = [one for decided in waiting for one in decided(state)]
        if changes:
            self.probes.moved(self.own.append(*changes))
        return changes

    @property
    def inbounds(self) -> tuple[Inbound, ...]:
        (stored,) = self.own.state.resources.values()
        assert isinstance(stored.resource, Dataplane)
        return stored.resource.networking.inbound


def said(*, ready: bool) -> ProbedInbounds:
    found = ProbedInbounds()
    found.inbounds.add(port=80, ready=ready)
    return found


def test_the_newest_word_is_recorded_once() -> None:
    """However often an agent talks, one entry waits; what the log says already is not said again."""
    zone = Zone(dataplane((80, PROBE, "NotReady")))
    for ready in (True, False, True):
        zone.probes.told("default.web-1", said(ready=ready))
    assert len(zone.waiting) == 1
    assert len(zone.record()) == 1
    assert [one.state for one in zone.inbounds] == ["Ready"]
    zone.probes.told("default.web-1", said(ready=True))
    assert zone.record() == []


def test_a_dataplane_declared_anew_is_judged_anew() -> None:
    """Its probes have spoken before, and speak only when something changes, and without an agent never."""
    zone = Zone(dataplane((80, PROBE, "NotReady")))
    zone.probes.told("default.web-1", said(ready=False))
    assert zone.record() == []
    for agent_there in (True, False):
        if not agent_there:
            zone.probes.told("default.web-1", None)
        zone.probes.moved(zone.own.append(builders.applied(dataplane((80, PROBE, "Ready")), "east")))
        zone.record()
        assert [one.state for one in zone.inbounds] == ["NotReady" if agent_there else "Ready"]


def test_an_agent_of_nobody_says_nothing() -> None:
    """A proxy that the log does not know yet: asked again once it does."""
    zone = Zone(dataplane((80, PROBE, "NotReady")))
    zone.probes.told("default.other", said(ready=True))
    assert zone.record() == []
