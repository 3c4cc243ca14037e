"""The past of a log: checkpoints and what was overtaken left out give exactly what folding everything gives."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.checkpoint import CheckpointFault, decode_checkpoint, encode_checkpoint
from shared.events.event import GLOBAL, Change, Event, ResourceDeleted, encode_event, event_hash
from shared.events.fold import fold, fold_all
from shared.events.index import DamagedLog, LogIndex
from shared.events.past import PastLog
from shared.events.search import Wanted
from shared.events.state import LogState
from shared.events.subject import place_of
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, applied, deleted, mes, mesh
from tests.events.changes import east_log, logs, permission
from tests.sim.world import World


class Kept:
    """Checkpoints in memory; says what was asked of it."""

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.dropped: list[int] = []

    def places(self) -> Sequence[int]:
        return list(self.data)

    def load(self, n: int) -> bytes | None:
        return self.data.get(n)

    def save(self, n: int, data: bytes) -> None:
        self.data[n] = data

    def drop(self, n: int) -> None:
        self.dropped.append(n)
        self.data.pop(n, None)


def _past(origin: str, lines: Sequence[bytes], kept: Kept | None = None, stride: int = 2) -> PastLog:
    index = LogIndex(origin)
    index.extend(lines)
    return PastLog(index, b"".join(line + b"\n" for line in lines), kept, stride=stride)


def _encoded(events: Iterable[Event]) -> list[bytes]:
    return [encode_event(event) for event in events]


def _states(origin: str, events: Sequence[Event]) -> list[LogState]:
    states = [LogState(origin)]
    for event in events:
        states.append(fold(states[-1], event))
    return states


@settings(max_examples=150, deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_any_moment_of_any_log_is_the_fold_of_all_before_it(history: list[Change], chance: random.Random) -> None:
    """In any order of asking, with checkpoints, and with those that an earlier reader left."""
    log = east_log(history)
    states = _states("east", log.events)
    kept = Kept()
    for _ in range(2):
        past = _past("east", _encoded(log.events), kept)
        places = list(range(len(states)))
        chance.shuffle(places)
        for n in places:
            assert past.state(n) == states[n]
    for state in states:
        assert decode_checkpoint(encode_checkpoint(state)) == (state, [])


@pytest.mark.parametrize("seed", range(3))
def test_every_moment_of_a_simulation_is_the_fold_of_all_before_it(seed: int) -> None:
    """Global's log and every zone's."""
    world = World(seed, zones=3)
    world.run(150)
    world.converge()
    for store in (world.hub.store, *(zone.own for zone in world.zones)):
        origin = store.events[0].origin
        states = _states(origin, store.events)
        kept = Kept()
        past = _past(origin, _encoded(store.events), kept, stride=3)
        for n in range(len(states)):
            assert past.state(n) == states[n]
        assert kept.data


def test_of_a_long_log_little_is_folded() -> None:
    """A resource that is applied again and again costs its creation and its last version."""
    log = LogBuilder()
    for turn in range(20):
        log.append(*(applied(mes(f"s{number}", port=80 + turn)) for number in range(5)))
    past = PastLog.of("global", log.events)
    assert past.index.survivors(LogState(GLOBAL), 100) == [1, 2, 3, 4, 5, 96, 97, 98, 99, 100]
    assert past.index.survivors(past.state(50), 100) == [96, 97, 98, 99, 100]
    assert past.state(100) == log.state


def test_what_took_access_is_folded_although_it_was_overtaken() -> None:
    """A permission that denied for a while, and a mesh that forbade, have closed connections."""
    log = LogBuilder("east")
    for denied in ([], ["b"], []):
        log.append(permission("a", [], denied), applied(mesh(forbid=bool(denied)), "east"))
    log.append(*(permission("a", [], []) for _ in range(5)))
    assert len(log.state.narrowed["default"]) == 2
    past = PastLog.of("east", log.events)
    assert past.state(len(log.events)) == log.state


def test_a_checkpoint_that_is_damaged_or_of_another_log_is_made_again() -> None:
    """It is dropped, and the answer is right."""
    log, other = LogBuilder("east"), LogBuilder("east")
    for number in range(40):
        log.append(applied(mes(f"s{number}"), "east"))
        other.append(applied(mes(f"t{number}"), "east"))
    kept, foreign = Kept(), Kept()
    _past("east", _encoded(log.events), kept).state(40)
    _past("east", _encoded(other.events), foreign).state(40)
    assert kept.data.keys() == foreign.data.keys()
    first, *_, last = sorted(kept.data)
    good = dict(kept.data)
    kept.data[first] = good[first][:-1] + bytes([good[first][-1] ^ 1])
    kept.data[last] = foreign.data[last]
    past = _past("east", _encoded(log.events), kept)
    assert past.state(40) == log.state
    assert past.state(first + 1) == fold_all(LogState("east"), log.events[: first + 1])
    assert set(kept.dropped) == {first, last}
    assert kept.data[last] == good[last]


@pytest.mark.parametrize("spoilt", [b"", b"zonal checkpoint 1", b"zonal checkpoint 2 00\n", b"\n\n"])
def test_what_is_no_checkpoint_is_refused(spoilt: bytes) -> None:
    """With a reason, whatever it is."""
    with pytest.raises(CheckpointFault):
        decode_checkpoint(spoilt)


def test_an_overtaken_change_that_cannot_be_read_hides_nothing() -> None:
    """A newer program deleted the resource in words that we do not know: it stands, as in every fold of ours."""
    log = LogBuilder("east")
    log.append(applied(mes("a"), "east"), applied(mes("a", port=81), "east"), deleted(mes("a"), "east"))
    lines = _encoded(log.events)
    lines[2] = lines[2].replace(b'"type":"ResourceDeleted"', b'"type":"ResourceDeleted","why":"new"')
    past = _past("east", lines)
    everything = fold_all(LogState("east"), past.events())
    assert [stored.last.n for stored in past.state(3).resources.values()] == [2]
    assert past.state(3) == everything
    assert set(everything.unread) == {3}


def _of_a_newer_program(line: bytes) -> bytes:
    return re.sub(rb'"type":"Resource(Applied|Deleted)"', rb'"type":"Resource\1","why":"new"', line)


@settings(max_examples=150, deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_what_cannot_be_read_overtakes_nothing(history: list[Change], chance: random.Random) -> None:
    """Whichever writes of a log are of a newer program, resources are what a fold of all events makes of them."""
    lines = [
        _of_a_newer_program(line) if chance.random() < 0.3 else line for line in _encoded(east_log(history).events)
    ]
    kept = Kept()
    for _ in range(2):
        past = _past("east", lines, kept)
        places = list(range(len(lines) + 1))
        chance.shuffle(places)
        for n in places:
            found, whole = past.state(n), fold_all(LogState("east"), past.events(0, n))
            assert found.resources == whole.resources
            assert found.kinds == whole.kinds
            assert set(found.unread.items()) <= set(whole.unread.items())
            assert msgspec.structs.replace(found, unread=whole.unread) == whole


def test_an_index_is_kept_and_grows() -> None:
    """Restored and extended it is the one that was made in one go."""
    world = World(1, zones=1)
    world.run(120)
    lines = _encoded(world.hub.store.events)
    whole, grown = LogIndex("global"), LogIndex("global")
    whole.extend(lines)
    for start in range(0, len(lines), 7):
        grown = LogIndex.restored(
            msgspec.msgpack.decode(msgspec.msgpack.encode(grown.image()), type=type(whole.image()))
        )
        grown.extend(lines[start : start + 7])
    assert grown.image() == whole.image()


def test_what_is_no_event_of_the_log_is_named() -> None:
    """By its place and what is wrong."""
    log = LogBuilder()
    lines = _encoded(log.append(applied(mesh()), applied(mes("a"))))
    with pytest.raises(DamagedLog, match="event 2 of global: not an event"):
        LogIndex("global").extend([lines[0], b"{}"])
    with pytest.raises(DamagedLog, match="event 1 of global: is event 2 of global"):
        LogIndex("global").extend(lines[1:])
    with pytest.raises(DamagedLog, match="is event 1 of global"):
        LogIndex("east").extend(lines)


def test_events_are_found_by_what_they_are_about() -> None:
    """Every combination of conditions finds what looking at each event finds."""
    world = World(2, zones=2)
    world.run(150)
    past = PastLog.of(world.zones[0].name, world.zones[0].own.events)
    actors, changes = set(past.index.actors), set(past.index.changes)
    asked = [
        Wanted(),
        Wanted(after=5, until=20),
        Wanted(kinds=frozenset({"MeshExternalService", "Vip"})),
        Wanted(kinds=frozenset({"Hostname"}), meshes=frozenset({"other"}), after=10),
        Wanted(names=frozenset({"s3"})),
        Wanted(names=frozenset({"s?", "nobody"}), meshes=frozenset({"default"})),
        Wanted(actors=frozenset({"sim"})),
        Wanted(actors=frozenset({"system:*"}), names=frozenset({"*3"})),
        Wanted(actors=frozenset(actors), changes=frozenset(sorted(changes)[:2])),
    ]
    for wanted in asked:
        expected = [event.n for event in past.events() if _is_wanted(event, wanted)]
        assert list(past.find(wanted)) == expected
        assert list(past.find(wanted, newest_first=True)) == expected[::-1]
    assert sum(1 for _ in past.find(asked[2])) > 3


def _is_wanted(event: Event, wanted: Wanted) -> bool:
    """A fact about a resource is looked for by what holds it as well."""
    key = None if isinstance(event.change, ResourceDeleted) else getattr(event.change, "key", None)
    places = [place_of(event.subject), *([(key.mesh, key.kind, key.name)] if isinstance(key, ResourceKey) else [])]
    until = event.n if wanted.until is None else wanted.until
    return (
        wanted.after < event.n <= until
        and _is_one(event.actor, wanted.actors)
        and _is_one(type(event.change).__name__, wanted.changes)
        and any(
            _is_one(mesh_name, wanted.meshes) and _is_one(kind, wanted.kinds) and _is_one(name, wanted.names)
            for mesh_name, kind, name in places
        )
    )


def _is_one(text: str, words: frozenset[str] | None) -> bool:
    return words is None or any(fnmatchcase(text, word) for word in words)


def test_single_events_and_the_chain_are_read_in_place() -> None:
    """Event n is the one that stands at n, and the head at n is its hash."""
    log = LogBuilder()
    for number in range(9):
        log.append(applied(mes(f"s{number}")))
    past = PastLog.of("global", log.events)
    assert [past.event(n) for n in past.numbers] == log.events
    assert [past.head(n) for n in range(10)] == ["", *(event_hash(event) for event in log.events)]
    for n in (0, 10):
        with pytest.raises(IndexError):
            past.event(n)


def test_what_stood_before_and_what_caused_it_is_found_from_the_index() -> None:
    """The last event about the same, by id, and what names an event as its cause; as looking at each event finds."""
    world = World(3, zones=1)
    world.run(150)
    events = world.zones[0].own.events
    past = PastLog.of(world.zones[0].name, events)
    expected: dict[int, int] = {}
    last: dict[str, int] = {}
    for event in events:
        if event.subject in last:
            expected[event.n] = last[event.subject]
        last[event.subject] = event.n
    assert past.index.before(list(past.numbers)) == expected
    assert past.index.before([n for n in expected if n % 3 == 0]) == {n: m for n, m in expected.items() if n % 3 == 0}
    assert [past.of_id(event.id) for event in events] == list(past.numbers)
    assert past.of_id("nothing") is None
    causes = {event.cause for event in events if event.cause}
    assert len(causes) > 5
    assert list(past.caused_by(causes, 10)) == [event.n for event in events if event.n > 10 and event.cause]


def test_states_that_are_compared_share_what_stayed() -> None:
    """In whatever order they were asked for before: otherwise everything would count as changed."""
    log = LogBuilder()
    log.append(*(applied(mes(f"s{number}")) for number in range(40)))
    past = _past("global", _encoded(log.events), Kept())
    for n in (40, 7, 39):
        past.state(n)
    before = past.state(38)
    after = past.state_after(before, 40)
    assert after == log.state
    assert all(after.resources[key] is stored for key, stored in before.resources.items())
