"""What an undo would do, as it may be shown. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from shared.api.store import Put, Remove
from shared.events.decide import Apply, Command
from shared.events.event import EventRef, ref
from shared.events.history import History
from shared.events.redaction import shown
from shared.history.told import Fields
from shared.history.undo import Action, Step, Undo, undo
from shared.model.merge import Conflict
from shared.model.resource import ResourceKey


class PlannedStep(msgspec.Struct, frozen=True):
    """One event taken back: what becomes of its resource, field by field, and what is in the way."""

    event: str
    time: str
    actor: str
    key: ResourceKey
    action: Action
    fields: Fields
    conflicts: tuple[Conflict, ...]


class Plan(msgspec.Struct, frozen=True):
    """What will be written together. etag: what it was worked out from; hand it in as `If-Match` with the undo."""

    event: str
    steps: tuple[PlannedStep, ...]
    etag: str
    conflicting: bool


def planned(history: History, origin: str, n: int, *, batch: bool = False) -> Plan:
    """The undo of event n of an origin. Raises NoSuchMoment, CannotUndo."""
    return told_plan(EventRef(origin, n), undo(history, origin, n, batch=batch))


def told_plan(event: EventRef, found: Undo) -> Plan:
    """What is to be done about an event, as it may be shown."""
    return Plan(
        str(event),
        tuple(_told(step) for step in found.steps),
        f'"{found.versions}"',
        found.is_conflicting,
    )


def _told(step: Step) -> PlannedStep:
    conflicts = tuple(Conflict(one.path, _seen(one.before), _seen(one.this), _seen(one.now)) for one in step.conflicts)
    event = step.event
    return PlannedStep(str(ref(event)), event.time, event.actor, step.key, step.action, step.fields, conflicts)


def _seen(value: Any) -> Any:
    return value if value is UNSET else shown(value)


def writes_of(found: Undo) -> list[Put | Remove]:
    """The undo as a batch of writes, each with the event that it takes back as its cause."""
    return [_write(command, cause) for command, cause in found.writes()]


def _write(command: Command, cause: str) -> Put | Remove:
    if isinstance(command, Apply):
        return Put(command.resource, command.expected_version, cause)
    return Remove(command.key, command.expected_version, cause)
