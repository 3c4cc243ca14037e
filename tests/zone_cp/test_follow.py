"""The owner of a zone's state: one order for everything, durable before it is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.events.compose import compose
from shared.events.event import (
    Change,
    Event,
    EventSkipped,
    ResourceApplied,
    VipLeased,
    decode_event,
    encode_event,
)
from shared.events.fold import check, fold, fold_all
from shared.events.log import LogUnavailable, MemoryLog
from shared.events.state import LogState, ZoneState
from shared.events.stop import NotSkipped, Stopped, tombstone
from shared.nats.log import LogFault
from tests.builders import LogBuilder, applied, deleted, generator, mes, mesh, service_key, settings
from tests.process.failing_log import LOST, REFUSED, FailingLog
from zone_cp import follow
from zone_cp.follow import ZoneOwner

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without pauses."""
    monkeypatch.setattr(follow, "RETRY_SECONDS", (0.0,))


class Zone:
    """An owner over logs in memory, and what it told."""

    def __init__(self, own: FailingLog | None = None, copy: MemoryLog | None = None) -> None:
        self.own = own or FailingLog()
        self.copy = copy or MemoryLog()
        self.told: list[ZoneState] = []
        self.owner = ZoneOwner("east", self.own, settings(), lambda state, _events: self.told.append(state))

    async def recover(self) -> Zone:
        await self.owner.recover(self.copy)
        return self

    async def restarted(self) -> Zone:
        """Another process over the same logs."""
        return await Zone(self.own, self.copy).recover()

    async def take(self, hub: LogBuilder) -> None:
        """What the copier does: keep, then hand on."""
        events = hub.events[len(self.copy.events) :]
        await self.copy.append(events)
        await self.owner.hub_events(events)

    def whole(self) -> None:
        """The own log is a chain, and the state is its fold."""
        state = LogState("east")
        for event in self.own.events:
            assert check(state, event) is None
            state = fold(state, event)
        assert state == self.owner.state.own
        ids = [event.id for event in self.own.events]
        assert len(ids) == len(set(ids))


def hub(*names: str) -> LogBuilder:
    builder = LogBuilder()
    builder.append(applied(mesh()))
    builder.append(applied(generator()))
    for name in names:
        builder.append(applied(mes(name)))
    return builder


def vips(zone: Zone) -> dict[str, str]:
    return {key.name: lease.ip for key, lease in zone.owner.state.own.leases.items()}


async def test_each_event_is_decided_at_its_own_moment() -> None:
    """A burst is decided event by event: what follows from event g carries `seen` g, and its cause."""
    zone = await Zone().recover()
    log = hub("a", "b", "c")
    await zone.take(log)
    leases = [event for event in zone.own.events if isinstance(event.change, VipLeased)]
    assert [(event.seen, event.cause) for event in leases] == [(g, log.events[g - 1].id) for g in (3, 4, 5)]
    assert zone.owner.state.position.g == 5
    assert zone.told[-1] is not None
    zone.whole()


async def test_a_repeat_changes_nothing() -> None:
    """Events that were taken already are passed over."""
    zone = await Zone().recover()
    log = hub("a")
    await zone.take(log)
    before = len(zone.own.events)
    await zone.owner.hub_events(log.events)
    assert len(zone.own.events) == before


async def test_a_restart_is_where_the_crash_was() -> None:
    """The same state from the logs alone; nothing is recorded again."""
    zone = await Zone().recover()
    await zone.take(hub("a", "b"))
    again = await zone.restarted()
    assert again.owner.state == zone.owner.state
    assert len(again.own.events) == len(zone.own.events)


@pytest.mark.parametrize("left", [0, 2, 4])
async def test_a_lost_copy_takes_nothing_away(left: int) -> None:
    """Where global's events were decided on but are gone here, the zone waits for them: it serves, decides and
    releases nothing before, and then goes on as if nothing had been.
    """
    zone = await Zone().recover()
    log = hub("a", "b", "c")
    await zone.take(log)
    recorded = len(zone.own.events)
    cut = MemoryLog()
    await cut.append(log.events[:left])
    again = await Zone(zone.own, cut).recover()
    assert again.told == []
    with pytest.raises(LogUnavailable, match="not complete"):
        await again.owner.write(lambda _: (applied(mes("own"), "east"),), actor="test")
    assert await again.owner.write(lambda _: (), actor="test") == ()
    log.append(applied(mes("d")))
    await again.take(log)
    assert vips(again).items() >= vips(zone).items()
    assert [type(event.change).__name__ for event in zone.own.events[recorded:]] == ["VipLeased", "HostnameClaimed"]
    again.whole()


@pytest.mark.parametrize("kept", range(1, 12))
async def test_a_crash_between_copy_and_decision_is_made_up_for(kept: int) -> None:
    """Wherever the own log was cut short, the restart decides the rest as it would have been decided."""
    zone = await Zone().recover()
    await zone.take(hub("a", "b", "c"))
    cut = FailingLog()
    await cut.append(zone.own.events[:kept])
    again = await Zone(cut, zone.copy).recover()
    assert vips(again) == vips(zone)
    assert set(again.owner.state.own.claims) == set(zone.owner.state.own.claims)
    again.whole()


async def test_the_own_server_being_away_only_delays() -> None:
    """Refused and lost appends are tried again until they stand, each once."""
    zone = await Zone().recover()
    zone.own.faults = [REFUSED, REFUSED, LOST, REFUSED]
    await zone.take(hub("a", "b"))
    assert set(vips(zone)) == {"a", "b"}
    zone.whole()


async def test_a_write_says_when_it_cannot_be_recorded() -> None:
    """LogUnavailable reaches who asked, and the state has not moved."""
    zone = await Zone().recover()
    await zone.take(hub())
    before = zone.owner.state
    zone.own.faults = [REFUSED]
    with pytest.raises(LogUnavailable):
        await zone.owner.write(_service("mine"), actor="ann")
    assert zone.owner.state == before
    assert [event.actor for event in await zone.owner.write(_service("mine"), actor="ann")] == ["ann"]
    zone.whole()


async def test_what_a_lost_answer_left_in_the_log_stops_nobody() -> None:
    """The log took a write whose answer was lost: the next of global's events is decided on top of it."""
    zone = await Zone().recover()
    log = hub("a")
    await zone.take(log)
    zone.own.faults = [LOST]
    with pytest.raises(LogUnavailable):
        await zone.owner.write(_service("mine"), actor="ann")
    log.append(applied(mes("b")))
    await zone.take(log)
    assert {"a", "b", "mine"} <= set(vips(zone))
    zone.whole()


async def test_a_rival_makes_a_write_decide_anew() -> None:
    """After a conflict the question is asked of what the log really holds."""
    zone = await Zone().recover()
    await zone.take(hub())
    rival = await zone.restarted()
    await rival.owner.write(_service("theirs"), actor="bob")
    asked: list[int] = []

    def decided(state: ZoneState) -> Sequence[Change]:
        asked.append(state.own.n)
        return [applied(mes("mine"), "east")]

    await zone.owner.write(decided, actor="ann")
    assert asked == sorted(asked)
    assert len(asked) == 2
    assert {"theirs", "mine"} <= set(vips(zone))
    zone.whole()


async def test_a_rival_makes_a_restart_decide_anew() -> None:
    """The last words of a process that was killed may arrive while its successor recovers."""
    zone = await Zone().recover()
    await zone.take(hub("a"))
    cut = FailingLog()
    await cut.append(zone.own.events[:2])
    cut.rivals = [zone.own.events[2:3]]
    again = await Zone(cut, zone.copy).recover()
    assert vips(again) == vips(zone)
    again.whole()


async def test_what_a_write_brings_comes_with_it() -> None:
    """A zone's own service has its VIP and names in the same append; only the asked-for events are returned."""
    zone = await Zone().recover()
    await zone.take(hub())
    appends = zone.own.appends
    asked = await zone.owner.write(_service("mine"), actor="ann")
    assert zone.own.appends == appends + 1
    assert [event.actor for event in asked] == ["ann"]
    assert {event.cause for event in zone.own.events if event.n > asked[-1].n} == {asked[0].id}
    assert zone.owner.state.own.names[service_key("mine", zone="east")]


async def test_writes_and_events_pass_one_by_one() -> None:
    """Asked for at the same time, they stand in some order, each decided on what stood before it."""
    zone = await Zone().recover()
    log = hub("a", "b", "c")
    await asyncio.gather(zone.take(log), *(zone.owner.write(_service(f"own-{n}"), actor="ann") for n in range(5)))
    assert set(vips(zone)) == {"a", "b", "c", *(f"own-{n}" for n in range(5))}
    assert len(set(vips(zone).values())) == 8
    zone.whole()


async def test_a_write_of_nothing_writes_nothing() -> None:
    """Nor is anybody told."""
    zone = await Zone().recover()
    told, appends = len(zone.told), zone.own.appends
    assert await zone.owner.write(lambda _: (), actor="ann") == ()
    assert (len(zone.told), zone.own.appends) == (told, appends)


async def test_large_batches_are_appended_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catching up with many events takes appends of a bounded size, and hides none of them."""
    monkeypatch.setattr(follow, "APPEND_BATCH", 4)
    zone = await Zone().recover()
    log = hub(*(f"s-{n}" for n in range(10)))
    log.append(deleted(mes("s-3")))
    await zone.take(log)
    assert len(vips(zone)) == 9
    assert fold_all(LogState("east"), zone.own.events) == zone.owner.state.own
    zone.whole()


def _unknown(log: LogBuilder, n: int) -> list[Event]:
    """The events as a program reads them that does not know the n-th."""
    raw = [encode_event(event) for event in log.events]
    raw[n - 1] = raw[n - 1].replace(b'"ResourceApplied"', b'"OfALaterProgram"')
    return [decode_event(one) for one in raw]


async def _hand(zone: Zone, events: Sequence[Event]) -> None:
    await zone.copy.append(events)
    await zone.owner.hub_events(events)


async def test_a_zone_stops_before_what_it_cannot_read() -> None:
    """It serves what was before it and decides on its own; a restart ends in the same place."""
    log = hub("s-1", "s-2", "s-3")
    events = _unknown(log, 4)
    zone = await Zone().recover()
    await _hand(zone, events[:4])
    await _hand(zone, events[4:])
    again = await zone.restarted()
    for one in (zone, again):
        assert (one.owner.state.hub.n, one.owner.stop and one.owner.stop.n) == (3, 4)
        assert set(vips(one)) == {"s-1"}
    assert again.owner.state == zone.owner.state
    written = await again.owner.write(_service("own"), actor="ann")
    assert [event.seen for event in written] == [3]
    assert set(vips(again)) == {"s-1", "own"}
    again.whole()


@pytest.mark.parametrize("restarted", [False, True])
async def test_an_operator_lets_a_zone_pass(restarted: bool) -> None:
    """In the zone's own log: it goes on at once, decides about what it held, and another process of it as well."""
    log = hub("s-1", "s-2", "s-3")
    zone = await Zone().recover()
    await _hand(zone, _unknown(log, 4))
    if restarted:
        zone = await zone.restarted()
    with pytest.raises(NotSkipped):
        await zone.owner.skip("global", 3, "wrong one", "ann")
    (recorded,) = await zone.owner.skip("global", 4, "s-2 is of nobody", "ann")
    assert (recorded.actor, recorded.seen, recorded.change) == ("ann", 3, tombstone("global", 4, "s-2 is of nobody"))
    again = await zone.restarted()
    for one in (zone, again):
        assert (one.owner.stop, one.owner.state.hub.n, set(vips(one))) == (None, 5, {"s-1", "s-3"})
        assert one.told[-1] == one.owner.state
    assert again.owner.state == zone.owner.state
    zone.whole()


async def test_a_tombstone_of_global_lets_every_zone_pass() -> None:
    """It stands behind what it is about; zones that read it end with the same VIPs, whenever they came."""
    log = hub("s-1", "s-2", "s-3")
    log.append(tombstone("global", 4, "a mistake"), applied(mes("s-4")))
    events = _unknown(log, 4)
    early, late = await Zone().recover(), await Zone().recover()
    for event in events:
        await _hand(early, [event])
    await late.copy.append(events)
    late = await late.restarted()
    for one in (early, late):
        assert (one.owner.stop, set(vips(one))) == (None, {"s-1", "s-3", "s-4"})
        assert not [event for event in one.own.events if isinstance(event.change, EventSkipped)]
    assert vips(early) == vips(late)


async def test_an_own_log_that_cannot_be_read_is_not_gone_on_with() -> None:
    """Its decisions are not known: nothing is served or written before they may be passed over."""
    zone = await Zone().recover()
    await zone.take(hub("s-1"))
    lease = next(event.n for event in zone.own.events if isinstance(event.change, VipLeased))
    raw = [encode_event(event) for event in zone.own.events]
    raw[lease - 1] = raw[lease - 1].replace(b'"VipLeased"', b'"VipBorrowed"')
    zone.own.events[:] = [decode_event(one) for one in raw]
    zone = await zone.restarted()
    assert zone.told == []
    with pytest.raises(Stopped, match=f"event east:{lease} cannot be read"):
        await zone.owner.write(_service("own"), actor="ann")
    await zone.take(hub("s-1", "s-2"))
    assert zone.told == []
    await zone.owner.skip("east", lease, "it is leased anew", "ann")
    again = await zone.restarted()
    for one in (zone, again):
        assert one.owner.stop is None
        assert "s-1" in vips(one)
        assert one.told[-1] == one.owner.state


def _rival(zone: Zone) -> Event:
    """What another program of the zone's puts at the end of its own log, which this one cannot read."""
    state = zone.owner.state.own
    (event,) = compose(
        state, [applied(mes("later"), "east")], ids=["rival"], time=state.time, actor="later", seen=state.seen
    )
    return decode_event(encode_event(event).replace(b"ResourceApplied", b"OfALaterProgram"))


async def _ends_well(zone: Zone, names: set[str]) -> None:
    """Once the rival's event may be passed over it goes on by itself, and another process ends there as well."""
    (stop,) = [zone.owner.stop]
    assert stop is not None
    await zone.owner.skip("east", stop.n, "of a later program", "ann")
    again = await zone.restarted()
    for one in (zone, again):
        assert (one.owner.stop, one.owner.is_behind(), set(vips(one))) == (None, False, names)
        assert one.told[-1] == one.owner.state
    assert again.owner.state == zone.owner.state


async def test_nothing_is_decided_behind_an_own_event_that_is_met_while_deciding() -> None:
    """Somebody of a later program wrote first: what was to be decided waits, and nothing new is served."""
    zone = await Zone().recover()
    log = hub("s-1")
    await zone.take(log)
    rival, told, length = _rival(zone), len(zone.told), len(zone.own.events)
    zone.own.rivals = [[rival]]
    log.append(applied(mes("s-2")), applied(mes("s-3")))
    await zone.take(log)
    log.append(applied(mes("s-4")))
    await zone.take(log)
    assert zone.own.events[length:] == [rival]
    assert len(zone.told) == told
    with pytest.raises(Stopped, match=f"event east:{rival.n} cannot be read"):
        await zone.owner.write(_service("own"), actor="ann")
    await _ends_well(zone, {"s-1", "s-2", "s-3", "s-4"})
    zone.whole()


async def test_nothing_is_written_behind_an_own_event_that_is_met_while_writing() -> None:
    """The write says why it was not taken."""
    zone = await Zone().recover()
    await zone.take(hub("s-1"))
    rival, length = _rival(zone), len(zone.own.events)
    zone.own.rivals = [[rival]]
    with pytest.raises(Stopped):
        await zone.owner.write(_service("own"), actor="ann")
    assert zone.own.events[length:] == [rival]
    await _ends_well(zone, {"s-1"})


class _BrokenLog(FailingLog):
    """Holds, behind its events, bytes that are none."""

    async def read(self, after: int = 0, until: int | None = None) -> AsyncIterator[Event]:
        async for event in super().read(after, until):
            yield event
        raise LogFault("Z_east", len(self.events) + 1, "not an event")


async def test_an_own_log_with_what_is_no_event_ends_nobody() -> None:
    """The zone starts, says it, and neither decides nor serves anything before it is repaired."""
    zone = await Zone().recover()
    await zone.take(hub("s-1"))
    broken = _BrokenLog()
    broken.events[:] = zone.own.events
    again = await Zone(broken, zone.copy).recover()
    assert "not an event" in again.owner.broken
    assert again.told == []
    with pytest.raises(LogUnavailable):
        await again.owner.write(_service("own"), actor="ann")
    await again.take(hub("s-1", "s-2"))
    assert (again.told, again.owner.state.own) == ([], zone.owner.state.own)


async def test_a_copy_with_what_is_no_event_ends_nobody() -> None:
    """The zone starts and serves what stands before it: whoever writes the copy halts there and tells."""
    zone = await Zone().recover()
    await zone.take(hub("s-1"))
    broken = _BrokenLog()
    broken.events += zone.copy.events
    assert (await Zone(zone.own, broken).recover()).owner.state == zone.owner.state


STEPS = st.lists(st.sampled_from(["good", "poison", "marked", "skip here", "skip all", "restart"]), max_size=14)


@given(STEPS, st.lists(st.integers(1, 3), min_size=1, max_size=5))
@hypothesis.example(["poison", "poison", "skip all", "good", "skip all", "good"], [1])
@hypothesis.example(["poison", "poison", "skip here", "skip all", "restart", "good"], [3])
@hypothesis.settings(max_examples=60, deadline=None)
def test_poison_tombstones_and_restarts_anywhere_end_in_one_state(steps: Sequence[str], sizes: Sequence[int]) -> None:
    """However the events came, each is decided at its own moment, once; a restart changes nothing."""

    async def play() -> None:
        zone, log = await Zone().recover(), hub()
        await zone.take(log)
        for number, step in enumerate(steps):
            stop = zone.owner.stop
            match step:
                case "poison" | "marked":
                    _add_unknown(log, number, skippable=step == "marked")
                case "skip here" if stop is not None:
                    await zone.owner.skip(stop.origin, stop.n, "why", "ann")
                case "skip all" if stop is not None:
                    log.append(tombstone("global", stop.n, "why"))
                case "restart":
                    zone = await zone.restarted()
                case _:
                    log.append(applied(mes(f"s-{number}")))
            size = sizes[number % len(sizes)]
            while len(zone.copy.events) < len(log.events):
                part = log.events[len(zone.copy.events) :][:size]
                await zone.copy.append(part)
                await zone.owner.hub_events(part)
                await zone.owner.hub_events(part)  # redelivered
            again = await zone.restarted()
            assert (again.owner.state, again.owner.stop) == (zone.owner.state, zone.owner.stop)
            stop = zone.owner.stop
            assert (zone.owner.state.hub.n == len(log.events)) if stop is None else zone.owner.state.hub.n < stop.n
            assert not zone.owner.is_behind()
            zone.whole()

    asyncio.run(play())


def _add_unknown(log: LogBuilder, number: int, *, skippable: bool) -> None:
    (known,) = compose(
        log.state, [applied(mes(f"p-{number}"))], ids=[f"p-{number}"], time=log.state.time, actor="later"
    )
    mark = b'","skippable":true' if skippable else b'"'
    event = decode_event(encode_event(known).replace(b'ResourceApplied"', b"OfALaterProgram" + mark))
    log.state = fold(log.state, event)
    log.events.append(event)


def _service(name: str) -> follow.Decided:
    return lambda _: [applied(mes(name), "east")]


async def test_many_decisions_are_one_append_each_on_the_one_before() -> None:
    """What one makes the next one sees, each keeps its actor, consequences included; too many are taken in parts."""
    zone = await Zone().recover()
    await zone.take(hub())
    before, told = len(zone.own.events), len(zone.told)

    def write(name: str) -> tuple[follow.Decided, str]:
        def decided(state: ZoneState) -> Sequence[Change]:
            known = [one for one in state.own.leases if one.name == name]
            return [] if known else [applied(mes(name))]

        return decided, f"by {name}"

    taken = await zone.owner.write_many([write("a"), write("b"), write("a")])
    events = zone.own.events[before:]
    assert (taken, len(zone.told)) == (3, told + 1)
    resources = [event for event in events if isinstance(event.change, ResourceApplied)]
    assert [event.actor for event in resources] == ["by a", "by b"]
    assert sum(isinstance(event.change, VipLeased) for event in events) == 2
    taken = await zone.owner.write_many([write(f"n-{n}") for n in range(follow.APPEND_BATCH)])
    assert 0 < taken < follow.APPEND_BATCH
    zone.whole()


async def test_what_was_looked_ahead_to_is_the_state_that_comes_about() -> None:
    """Nothing is told before the copy holds the events; then the very state is, with what happened in between if so."""
    zone = await Zone().recover()
    log = hub("a", "b")
    await zone.take(log)
    changed = log.append(applied(mes("a", endpoints=("203.0.113.9:1",))))
    told = len(zone.told)
    ahead = zone.owner.look_ahead(changed)
    assert ahead is not None
    assert len(zone.told) == told
    assert zone.owner.state.position.g == ahead.state.position.g - 1
    await zone.take(log)
    assert zone.told[-1] is ahead.state
    again = log.append(applied(mes("b", endpoints=("203.0.113.9:2",))))
    void = zone.owner.look_ahead(again)
    assert void is not None
    await zone.owner.write(lambda _state: [applied(mes("local"), "east")], actor="test")
    await zone.take(log)
    assert zone.told[-1] is not void.state
    assert zone.told[-1].hub == log.state
    zone.whole()


async def test_what_a_new_service_is_given_is_worked_out_ahead_and_recorded_after_the_copy_holds_it() -> None:
    """Its VIP and names stand in the log once, as they were looked ahead to, and as they would be without."""
    zone, plain = await Zone().recover(), await Zone().recover()
    log = hub("a")
    for one in (zone, plain):
        await one.take(log)
    before = len(zone.own.events)
    ahead = zone.owner.look_ahead(log.append(applied(mes("new")), applied(mes("newer"))))
    assert ahead is not None
    assert len(zone.own.events) == before
    assert sum(isinstance(event.change, VipLeased) for event in ahead.decided) == 2
    for one in (zone, plain):
        await one.take(log)
    assert zone.told[-1] is ahead.state
    assert [event.id for event in zone.own.events[before:]] == [event.id for event in ahead.decided]
    changes = [[event.change for event in one.own.events[before:]] for one in (zone, plain)]
    assert changes[0] == changes[1]
    zone.whole()


async def test_what_was_decided_ahead_of_a_change_that_never_came_is_recorded_nowhere() -> None:
    """Neither when another event stands in its place, nor when the zone decided about something else first."""
    zone = await Zone().recover()
    log, other = hub("a"), hub("a")
    await zone.take(log)
    void = zone.owner.look_ahead(log.append(applied(mes("lost"))))
    assert void is not None
    other.append(applied(mes("kept")))
    await zone.owner.hub_events(other.events[-1:])
    late = zone.owner.look_ahead(other.append(applied(mes("late"))))
    assert late is not None
    await zone.owner.write(lambda _state: [applied(mes("local"), "east")], actor="test")
    await zone.owner.hub_events(other.events[-1:])
    recorded = {event.id for event in zone.own.events}
    assert not recorded & {event.id for event in (*void.decided, *late.decided)}
    leased = {event.change.key.name for event in zone.own.events if isinstance(event.change, VipLeased)}
    assert leased == {"a", "kept", "late", "local"}


async def test_only_external_services_are_looked_ahead_to() -> None:
    """A mesh may change who issues certificates: it waits for the copy."""
    zone = await Zone().recover()
    log = hub("a")
    await zone.take(log)
    assert zone.owner.look_ahead(log.append(applied(mesh("other")))) is None


async def test_another_event_than_the_one_looked_at_is_folded_for_itself() -> None:
    """The append failed, and what the hub holds at this position by then is another event."""
    zone = await Zone().recover()
    log, other = hub("a"), hub("a")
    await zone.take(log)
    lost = log.append(applied(mes("a", endpoints=("203.0.113.9:1",))))
    void = zone.owner.look_ahead(lost)
    other.append(applied(mes("a", endpoints=("203.0.113.9:2",))))
    await zone.owner.hub_events(other.events[-1:])
    assert void is not None
    assert zone.told[-1] is not void.state
    assert zone.owner.state.hub == other.state
