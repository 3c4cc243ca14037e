"""Undo: the commands that take back what events changed, worked out from history. Pure.

Only what an event changed is put back to what it was before. What somebody changed since stays as it is: it is a
conflict, told three ways. An undo is an ordinary write, which names the event that it takes back as its cause; so the
undo of an undo is the same again.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET

from shared.events.causes import written_because_of
from shared.events.decide import Apply, Command, Delete
from shared.events.event import GLOBAL, DataKeyWrapped, Event, ResourceApplied, ResourceDeleted, ref
from shared.events.history import History
from shared.events.past import PastLog
from shared.events.redaction import shown
from shared.events.sealing import key_ids
from shared.events.state import LogState
from shared.history.difference import fields_between
from shared.history.told import Fields, changed_fields, path_of, told
from shared.model import codec
from shared.model.merge import Conflict, taken_back
from shared.model.resource import Resource, ResourceKey, key_of

BATCH_LIMIT = 20_000
"""Events of one apply; as many as the API takes at once."""

Action: TypeAlias = Literal["create", "change", "delete", "nothing"]


class CannotUndo(Exception):
    """There is no taking this back; the message says why."""


class Step(msgspec.Struct, frozen=True):
    """What takes back one event: a command, None where there is nothing left to do.

    fields: what it will change, unless there are conflicts. version: that of the resource now, 0 where there is none.
    """

    event: Event
    key: ResourceKey
    action: Action
    command: Command | None
    version: int
    fields: Fields = ()
    conflicts: tuple[Conflict, ...] = ()


class Undo(msgspec.Struct, frozen=True):
    """The steps in the order in which they are to be written, together."""

    steps: tuple[Step, ...]

    @property
    def is_conflicting(self) -> bool:
        """Whether somebody has changed since what an event changed."""
        return any(step.conflicts for step in self.steps)

    @property
    def versions(self) -> str:
        """What it was worked out from: for one resource its version, so an `If-Match`."""
        return "-".join(str(step.version) for step in self.steps)

    def writes(self) -> list[tuple[Command, str]]:
        """Commands, each with the id of the event that it takes back."""
        return [(step.command, step.event.id) for step in self.steps if step.command is not None]


def undo(history: History, origin: str, n: int, *, batch: bool = False) -> Undo:
    """How to take back event n of an origin. batch: with all that was written together with it.

    Raises NoSuchMoment, and CannotUndo.
    """
    event, log = history.event(origin, n), history.log(origin)
    if not isinstance(event.change, ResourceApplied | ResourceDeleted):
        raise CannotUndo(_why_not(history, event))
    events = written_together(log, event) if batch else [event]
    now = log.state(len(log))
    before = log.index.before([one.n for one in events])
    steps = [
        _step(one, log.event(before[one.n]) if one.n in before else None, now)
        for one in reversed(events)
        if not isinstance(one.change, DataKeyWrapped)
    ]
    found = Undo(tuple(steps))
    if not found.is_conflicting:
        _check_meshes(steps, now)
    return found


def written_together(log: PastLog, event: Event) -> list[Event]:
    """The events of one append: neighbours with one time and one author. A log's writer gives no two the same time."""
    found = [event]
    for numbers in (range(event.n - 1, 0, -1), range(event.n + 1, len(log) + 1)):
        for n in numbers:
            one = log.envelope(n)
            if (one.time, one.actor) != (event.time, event.actor):
                break
            if len(found) >= BATCH_LIMIT:
                raise CannotUndo(f"more than {BATCH_LIMIT} events were written together with {ref(event)}")
            found.append(log.event(n))
    return sorted(found, key=lambda one: one.n)


def _why_not(history: History, event: Event) -> str:
    words = told(event, None)
    fact = f"event {ref(event)} records a fact ({words.about}: {words.what}), which is not undone"
    cause = written_because_of(history, history.log(event.origin).envelope(event.n))
    return f"{fact}; it follows from event {cause}" if cause else fact


def _step(event: Event, before: Event | None, state: LogState) -> Step:
    was = before.change.resource if before is not None and isinstance(before.change, ResourceApplied) else None
    this: Resource | None = None
    match event.change:
        case ResourceApplied(resource=resource):
            this, key = resource, key_of(resource, "" if event.origin == GLOBAL else event.origin)
        case ResourceDeleted(key=key):
            pass
        case _:
            raise CannotUndo(f"event {ref(event)} was written together with facts; undo it without --batch")
    stored = state.resources.get(key)
    old, new, now = (_plain(one) for one in (was, this, None if stored is None else stored.resource))
    value, conflicts = taken_back(old, new, now)
    version = 0 if stored is None else stored.last.n
    if conflicts:
        return Step(event, key, "nothing", None, version, conflicts=_told_whole(conflicts))
    if value == now:
        return Step(event, key, "nothing", None, version)
    fields = changed_fields(now, value)
    if value is UNSET:
        return Step(event, key, "delete", Delete(key, version), version, fields)
    resource = _resource(value, event)
    if lost := [kid for kid in key_ids(resource) if kid not in state.data_keys]:
        raise CannotUndo(f"{path_of(key)} was sealed under a data key that is not there any more: {', '.join(lost)}")
    action: Action = "create" if stored is None else "change"
    return Step(event, key, action, Apply(resource, version), version, fields)


def _plain(resource: Resource | None) -> Any:
    return UNSET if resource is None else codec.to_plain(resource)


def _resource(value: Any, event: Event) -> Resource:
    try:
        resource: Resource = codec.convert(value, Resource)
    except msgspec.ValidationError as error:
        raise CannotUndo(f"without event {ref(event)} the resource would be none: {error}") from None
    return resource


def _told_whole(conflicts: list[Conflict]) -> tuple[Conflict, ...]:
    """Conflicts field by field: of a resource that was made or deleted, those that are other now."""
    found: list[Conflict] = []
    for one in conflicts:
        if one.this is UNSET or one.now is UNSET or one.path:
            found.append(one)
        else:
            since = fields_between(shown(one.this), shown(one.now))
            found += [Conflict(field.path, UNSET, field.before, field.after) for field in since]
    return tuple(found)


def _check_meshes(steps: list[Step], now: LogState) -> None:
    """A mesh takes along what is in it; nothing goes that these events did not make."""
    gone = {step.key for step in steps if isinstance(step.command, Delete)}
    for key in gone:
        members = (
            [one for one in now.resources if one.mesh == key.name and one not in gone] if key.kind == "Mesh" else []
        )
        if members:
            raise CannotUndo(f"{path_of(key)} holds {len(members)} resources, {path_of(min(members))} among them")
