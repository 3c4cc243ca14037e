"""Events of a history by what is asked, the newest ones, each told in one line. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, get_args

import msgspec

from shared.events.event import GLOBAL, Change, Event, ref
from shared.events.history import History, NoSuchMoment
from shared.events.past import PastLog
from shared.events.redaction import shown
from shared.events.search import Wanted
from shared.history.told import told
from shared.model import kinds

LIMIT_MAX = 10_000
CHANGES = {change.__name__.lower(): change.__name__ for change in get_args(Change)}
THINGS = {
    thing.lower(): thing
    for thing in (
        *("Vip", "Hostname", "Proxy", "Push", "Quarantine", "Settings", "DataKey", "RootCa", "Intermediate"),
        *("Log", "Skipped"),
    )
}
"""What events are about that are about no resource."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which events, as in `Wanted`; the newest `limit` of them.

    origins: whose logs, every one when empty. kinds: of resource or of change, as people write them. since, until:
    times as events carry them. after, upto: sequences; after < n <= upto.
    """

    origins: tuple[str, ...] = (GLOBAL,)
    kinds: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    meshes: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    since: str = ""
    until: str = ""
    after: int = 0
    upto: int | None = None
    limit: int = 100


class Row(msgspec.Struct, frozen=True):
    """One event in a line. `moment` is what other commands call it; `whole` the event as it may be shown."""

    moment: str
    time: str
    actor: str
    change: str
    about: str
    what: str
    whole: dict[str, Any]


class Listing(msgspec.Struct, frozen=True):
    """Rows in order of time, and every log's last event."""

    items: tuple[Row, ...]
    last: dict[str, int]


def listed(history: History, asked: Asked) -> Listing:
    """The answer. Raises NoSuchMoment for an unknown zone or kind."""
    logs = [history.log(origin) for origin in asked.origins or (GLOBAL, *sorted(history.zones))]
    rows = [row for log in logs for row in _rows(log, asked)]
    # Stable: what has one time stands log by log, global's before what zones made of it.
    rows.sort(key=lambda row: row.time)
    return Listing(tuple(rows[-asked.limit :]), {log.origin: len(log) for log in logs})


def _rows(log: PastLog, asked: Asked) -> list[Row]:
    numbers = sorted(islice(_found(log, asked), asked.limit))
    before = log.index.before(numbers)
    return [row(log.event(n), log.event(before[n]) if n in before else None, log.raw(n)) for n in numbers]


def row(event: Event, before: Event | None, raw: bytes) -> Row:
    """One event, and the last one about the same thing."""
    words = told(event, before)
    change = type(event.change).__name__
    return Row(str(ref(event)), event.time, event.actor, change, words.about, words.what, shown(json.loads(raw)))


def _found(log: PastLog, asked: Asked) -> Iterable[int]:
    """The n of what is wanted, newest first."""
    after = max(asked.after, log.before_time(asked.since) if asked.since else 0)
    upto = len(log) if asked.upto is None else asked.upto
    if asked.until:
        upto = min(upto, log.up_to_time(asked.until))
    things, changes = kinds_meant(asked.kinds)
    wanted = Wanted(
        kinds=things,
        changes=changes,
        names=_words(asked.names),
        meshes=_words(asked.meshes),
        actors=_words(asked.actors),
        after=after,
        until=upto,
    )
    return log.find(wanted, newest_first=True)


def _words(words: Collection[str]) -> frozenset[str] | None:
    return frozenset(words) or None


def kinds_meant(words: Collection[str]) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """What people mean by kinds: kinds of what an event is about, and kinds of change. Raises NoSuchMoment."""
    things, changes = set[str](), set[str]()
    for word in words:
        known, flat = kinds.lookup(word), word.lower().replace("-", "")
        if known is not None:
            things.add(known.name)
        elif flat in THINGS:
            things.add(THINGS[flat])
        elif flat in CHANGES:
            changes.add(CHANGES[flat])
        else:
            every = sorted({*(kind.name for kind in kinds.KINDS), *THINGS.values(), *CHANGES.values()})
            raise NoSuchMoment(f"{word!r} is no kind of resource or change; there are: {', '.join(every)}")
    return frozenset(things) or None, frozenset(changes) or None
