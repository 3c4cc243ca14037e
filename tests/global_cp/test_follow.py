"""The owner of global's state: commands in, events out, whatever the log and other globals do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from global_cp.authorities import Authorities
from global_cp.follow import GlobalOwner
from shared.events.decide import Apply, Decision, Delete, Rejected
from shared.events.event import (
    DataKeyWrapped,
    Event,
    IntermediateIssued,
    LogRestored,
    RootCaCreated,
    decode_event,
    encode_event,
)
from shared.events.fold import check, fold, fold_all
from shared.events.log import LogUnavailable
from shared.events.state import LogState
from shared.events.stop import NotSkipped, Stopped, tombstone
from shared.keys import ca
from shared.keys.seal import Keyring, Sealer
from shared.model.resource import ResourceKey
from shared.nats.log import LogFault
from tests.builders import LogBuilder, applied, mes, mesh, settings
from tests.process.failing_log import LOST, REFUSED, FailingLog

pytestmark = pytest.mark.anyio

KEYRINGS = {name: Keyring(name, X25519PrivateKey.generate()) for name in ("global", "east", "west")}
ZONES = ("east", "west")


class World:
    """A global over a log in memory, with a clock of its own."""

    def __init__(self, log: FailingLog | None = None) -> None:
        self.log = log or FailingLog()
        self.now = datetime.now(UTC)
        self.changes = 0
        sealer = Sealer({name: one.public for name, one in KEYRINGS.items()})
        self.authorities = Authorities(KEYRINGS["global"], sealer, lambda: self.now)
        self.owner = GlobalOwner(self.log, ZONES, self.authorities, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def put(self, *resources: object) -> Decision | Rejected:
        decision, _ = await self.owner.write([Apply(one) for one in resources], actor="ann")  # type: ignore[arg-type]
        return decision

    def kinds(self) -> list[str]:
        return [type(event.change).__name__ for event in self.log.events]

    def whole(self) -> None:
        state = LogState("global")
        for event in self.log.events:
            assert check(state, event) is None
            state = fold(state, event)
        assert state == self.owner.state.hub


async def test_a_mesh_gets_its_authorities_with_its_cause() -> None:
    """mTLS brings a root and an intermediate per zone right after the write, once; without it there are none."""
    world = World()
    await world.put(mesh("plain", mtls=False))
    assert world.kinds() == ["ResourceApplied"]
    await world.put(mesh("default"))
    assert (world.kinds().count("RootCaCreated"), world.kinds().count("IntermediateIssued")) == (1, 2)
    applied_at = next(event for event in world.log.events if event.n == 2)
    assert {event.cause for event in world.log.events if event.n > 2} == {applied_at.id}
    before = len(world.log.events)
    await world.put(mesh("default"))
    await world.owner.renew()
    assert len(world.log.events) == before
    world.whole()


async def test_keys_are_readable_by_whom_they_are_for_only() -> None:
    """The root's key by global alone, an intermediate's by its zone as well, and by no other zone."""
    world = World()
    await world.put(mesh())
    wraps: dict[str, set[str]] = {}
    for event in world.log.events:
        if isinstance(event.change, DataKeyWrapped):
            wraps.setdefault(event.change.kid, set()).add(event.change.recipient)
    for event in world.log.events:
        match event.change:
            case RootCaCreated(key=key):
                assert wraps[key.kid] == {"global"}
            case IntermediateIssued(key=key, zone=zone):
                assert wraps[key.kid] == {"global", zone}
            case _:
                pass


async def test_certificates_are_renewed_in_time() -> None:
    """Near its end an intermediate is issued again, by the same root; the zone's old one goes on until then."""
    world = World()
    await world.put(mesh())
    first = dict(world.owner.state.hub.intermediates)
    world.now += timedelta(days=1)
    await world.owner.renew()
    assert dict(world.owner.state.hub.intermediates) == first
    world.now += timedelta(days=ca.INTERMEDIATE_DAYS - 2)
    await world.owner.renew()
    again = world.owner.state.hub.intermediates
    assert all(again[zone].certificate != authority.certificate for zone, authority in first.items())
    assert world.kinds().count("RootCaCreated") == 1
    world.whole()


async def test_what_is_refused_is_not_recorded() -> None:
    """A batch with one fault writes nothing; a batch that changes nothing writes nothing."""
    world = World()
    await world.put(mesh("default", mtls=False))
    before, changes = len(world.log.events), world.changes
    refused = await world.put(mes("good"), mes("bad", mesh="nowhere"))
    assert isinstance(refused, Rejected)
    same = await world.put(mesh("default", mtls=False))
    assert isinstance(same, Decision)
    assert not same.changes
    assert (len(world.log.events), world.changes) == (before, changes)


async def test_two_globals_take_turns() -> None:
    """Of two that write at once each judges again on what the other wrote: nothing is lost, nothing is twice."""
    log = FailingLog()
    one, other = World(log), World(log)
    await one.put(mesh())
    await other.owner.recover()
    await asyncio.gather(
        *(world.put(mes(f"{name}-{n}")) for name, world in (("one", one), ("other", other)) for n in range(5))
    )
    await other.put(mesh())
    await one.owner.follow_own(log.events)
    one.whole()
    other.whole()
    names = {key.name for key in one.owner.state.hub.resources if key.kind == "MeshExternalService"}
    assert len(names) == 10
    assert one.kinds().count("RootCaCreated") == 1


async def test_a_write_that_was_not_acknowledged_can_be_repeated() -> None:
    """LogUnavailable reaches who asked; the retry writes it, or finds it there unchanged."""
    world = World()
    await world.put(mesh("default", mtls=False))
    for fault, outcome in ((REFUSED, "created"), (LOST, "unchanged")):
        world.log.faults = [fault]
        with pytest.raises(LogUnavailable):
            await world.put(mes(fault))
        # After a lost answer it is the conflict of the next write that shows what the log has.
        world.log.faults = []
        if fault == LOST:
            await world.put(mes("other"))
        decision = await world.put(mes(fault))
        assert isinstance(decision, Decision)
        assert [result.outcome for result in decision.results] == [outcome]
    world.whole()


async def test_what_is_owed_survives_a_crash() -> None:
    """Killed between a write and what follows from it, the next start makes up for it."""
    world = World()
    await world.put(mesh())
    cut = FailingLog()
    await cut.append(world.log.events[:1])
    again = World(cut)
    await again.owner.recover()
    assert sorted(again.kinds()) == sorted(world.kinds())
    again.whole()


async def test_a_write_is_answered_although_what_it_asks_for_cannot_be_recorded_yet() -> None:
    """The log goes away between a write and what follows from it: the write stands, the rest is made up for."""
    world = World()
    world.log.faults = ["", REFUSED]
    decision = await world.put(mesh())
    assert isinstance(decision, Decision)
    assert world.kinds() == ["ResourceApplied"]
    async with asyncio.timeout(5):
        await world.owner.owed()
    await world.owner.renew()
    assert (world.kinds().count("RootCaCreated"), world.kinds().count("IntermediateIssued")) == (1, 2)
    world.whole()


async def test_recovery_waits_for_nothing_twice() -> None:
    """A second start over the same log writes nothing."""
    world = World()
    await world.put(mesh())
    again = World(world.log)
    before = len(world.log.events)
    await again.owner.recover()
    assert len(world.log.events) == before
    assert again.owner.state.hub == world.owner.state.hub


async def test_zones_logs_are_folded_apart() -> None:
    """What a zone's outbox delivered shows under that zone, repeats included."""
    world = World()
    east = LogBuilder("east")
    events = east.append(applied(mes("island"), "east"))
    await world.owner.zone_events("east", events)
    await world.owner.zone_events("east", events)
    state = world.owner.state
    assert state.zones["east"] == fold_all(LogState("east"), events)
    assert ResourceKey("MeshExternalService", "default", "island", "east") in state.zones["east"].resources
    assert not state.zones["west"].resources
    assert not state.hub.resources


async def test_removing_what_is_not_there() -> None:
    """A delete of nothing is refused or changes nothing, and is not recorded."""
    world = World()
    await world.put(mesh("default", mtls=False))
    before = len(world.log.events)
    await world.owner.write([Delete(ResourceKey("MeshExternalService", "default", "no"))], actor="ann")
    assert len(world.log.events) == before


async def test_a_log_that_a_zone_has_seen_more_of_was_restored() -> None:
    """A new incarnation begins, with the range that is lost: once, also for a global that starts again."""
    world = World()
    await world.put(mesh("a", mtls=False), mesh("b", mtls=False))
    first, last = world.owner.state.hub.incarnation, world.owner.state.hub.n
    east = LogBuilder("east")
    east.append(settings(), seen=last + 5)
    await world.owner.zone_events("east", east.events)
    await world.owner.zone_events("east", east.append(settings(), seen=last + 5))
    restored = [event.change for event in world.log.events if isinstance(event.change, LogRestored)]
    assert restored == [LogRestored(lost_from=last, lost_to=last + 5)]
    assert world.owner.state.hub.incarnation != first
    world.whole()

    other = World(world.log)
    await other.owner.recover()
    await other.owner.zone_events("east", east.events)
    assert other.owner.state.hub == world.owner.state.hub


async def test_a_zone_that_is_quicker_than_the_own_log_proves_nothing() -> None:
    """It has seen what another global wrote: that is looked up first."""
    world, other = World(), World()
    other.log = world.log
    other.owner = GlobalOwner(world.log, ZONES, other.authorities, other._changed)
    await world.put(mesh("a", mtls=False))
    west = LogBuilder("west")
    west.append(settings(), seen=world.owner.state.hub.n)
    await other.owner.zone_events("west", west.events)
    assert other.owner.state.hub == world.owner.state.hub
    assert world.kinds() == ["ResourceApplied"]


# --- what cannot be read ------------------------------------------------------------------------------------------


def _unknown(events: Sequence[Event], n: int) -> list[Event]:
    """As a program reads them that does not know the n-th."""
    raw = [encode_event(event) for event in events]
    raw[n - 1] = raw[n - 1].replace(b'"ResourceApplied"', b'"OfALaterProgram"')
    return [decode_event(one) for one in raw]


def _east() -> LogBuilder:
    east = LogBuilder("east")
    for name in ("one", "two", "three"):
        east.append(applied(mes(name), "east"))
    return east


async def test_a_zones_event_that_cannot_be_read_stops_that_zones_log_alone() -> None:
    """Global goes on writing and following others, and takes what it held once its own log says that it may."""
    world = World()
    await world.put(mesh(mtls=False))
    await world.owner.zone_events("east", _unknown(_east().events, 2))
    west = LogBuilder("west")
    west.append(settings())
    await world.owner.zone_events("west", west.events)
    assert [stop.event for stop in world.owner.stops] == ["east:2"]
    assert {zone: state.n for zone, state in world.owner.state.zones.items()} == {"east": 1, "west": 1}
    await world.put(mesh("other", mtls=False))
    with pytest.raises(NotSkipped, match="global stops before event east:2"):
        await world.owner.skip("east", 3, "wrong one", "ann")
    (recorded,) = await world.owner.skip("east", 2, "nobody needs it", "ann")
    assert recorded.change == tombstone("east", 2, "nobody needs it")
    assert world.owner.stops == ()
    assert {key.name for key in world.owner.state.zones["east"].resources} == {"one", "three"}
    again = World(world.log)
    await again.owner.recover()
    await again.owner.zone_events("east", _unknown(_east().events, 2))
    assert again.owner.stops == ()
    assert again.owner.state.zones["east"] == world.owner.state.zones["east"]
    world.whole()


async def test_a_zone_that_says_so_lets_global_pass() -> None:
    """A tombstone in the zone's own log holds for global as well."""
    world, east = World(), _east()
    east.append(tombstone("east", 2, "a mistake"))
    events = _unknown(east.events, 2)
    await world.owner.zone_events("east", events[:3])
    assert [stop.event for stop in world.owner.stops] == ["east:2"]
    await world.owner.zone_events("east", events[1:])
    assert (world.owner.stops, world.owner.state.zones["east"].n) == ((), 4)


async def test_nothing_is_written_on_top_of_an_own_event_that_cannot_be_read() -> None:
    """A newer global wrote it: reads go on, writes say why not, and a tombstone lets both go on, in others too."""
    world = World()
    for name in ("one", "two", "three"):
        await world.put(mesh(name, mtls=False))
    world.log.events[:] = _unknown(world.log.events, 2)
    again = World(world.log)
    await again.owner.recover()
    assert {key.name for key in again.owner.state.hub.resources} == {"one", "three"}
    with pytest.raises(Stopped, match="event 2 cannot be read"):
        await again.put(mesh("four", mtls=False))
    await again.owner.renew()
    assert len(world.log.events) == 3
    await again.owner.skip("global", 2, "nobody needs it", "ann")
    await again.put(mesh("four", mtls=False))
    last = World(world.log)
    await last.owner.recover()
    assert (last.owner.stops, last.owner.state) == ((), again.owner.state)


async def test_another_global_that_is_newer_stops_this_one() -> None:
    """What it wrote comes by the log; its tombstone too."""
    world, other = World(), World()
    other.log = world.log
    other.owner = GlobalOwner(world.log, ZONES, other.authorities, other._changed)
    for name in ("one", "two"):
        await world.put(mesh(name, mtls=False))
    await other.owner.follow_own(_unknown(world.log.events, 2))
    assert [stop.event for stop in other.owner.stops] == ["2"]
    with pytest.raises(Stopped):
        await other.put(mesh("three", mtls=False))
    await world.owner.skip("global", 2, "older ones may pass", "ann")
    await other.owner.follow_own(world.log.events[2:])
    assert other.owner.stops == ()


class _BrokenLog(FailingLog):
    """Holds, behind its events, bytes that are none."""

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Event]:
        async for event in super().read(after, until):
            yield event
        raise LogFault("EV", len(self.events) + 1, "not an event")


async def test_an_own_log_with_what_is_no_event_ends_nobody() -> None:
    """Global starts, shows what stands before it, says what is wrong and writes nothing."""
    world, broken = World(), _BrokenLog()
    await world.put(mesh(mtls=False))
    broken.events[:] = world.log.events
    again = World(broken)
    await again.owner.recover()
    assert again.owner.state.hub == world.owner.state.hub
    assert "not an event" in again.owner.faults["global"]
    assert not again.owner.is_readable
    with pytest.raises(LogUnavailable):
        await again.put(mesh("other", mtls=False))
    await again.owner.renew()
    assert broken.events == world.log.events
