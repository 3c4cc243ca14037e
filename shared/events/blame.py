"""Blame: which event last set each field of a resource. Pure.

A resource that was deleted and made again begins anew. An item of a list that another one came before stays whose it
was: items are matched as `shared.model.merge` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import msgspec

from shared.events.event import Event, EventRef, ResourceApplied, ref
from shared.model import codec
from shared.model.labels import forced_labels
from shared.model.merge import below, is_leaf, matched
from shared.model.resource import Resource

Setters: TypeAlias = Any
"""Who set what, in the shape of the data: an EventRef where a field is, dicts and lists above."""


class Line(msgspec.Struct, frozen=True):
    """A field: its path, its value, the event that set it, and whether the system computes it."""

    path: str
    value: Any
    event: EventRef
    is_computed: bool = False


def blamed(versions: Iterable[Event]) -> Iterator[Line]:
    """The fields of the last of a resource's versions, which follow each other from its creation on."""
    value: Any = None
    setters: Setters = None
    resource: Resource | None = None
    for event in versions:
        if not isinstance(event.change, ResourceApplied):
            continue
        resource = event.change.resource
        after = codec.to_plain(resource)
        cited = ref(event)
        setters = _all(after, cited) if value is None else _carried(value, setters, after, cited)
        value = after
    if resource is not None:
        computed = {below("labels", label) for label in forced_labels(resource)}
        for line in _lines(value, setters, ""):
            yield msgspec.structs.replace(line, is_computed=line.path in computed)


def _all(value: Any, event: EventRef) -> Setters:
    """Everything was set by one event."""
    if is_leaf(value):
        return event
    if isinstance(value, dict):
        return {key: _all(item, event) for key, item in value.items()}
    return [_all(item, event) for item in value]


def _carried(before: Any, setters: Setters, after: Any, event: EventRef) -> Setters:
    """Who set what is there `after`: this event what differs, else who did before."""
    if before == after:
        return setters
    if is_leaf(before) or is_leaf(after) or type(before) is not type(after):
        return _all(after, event)
    if isinstance(after, dict):
        return {
            key: _carried(before[key], setters[key], item, event) if key in before else _all(item, event)
            for key, item in after.items()
        }
    old = {other: one for one, other in matched(before, after)}
    return [
        _carried(before[old[index]], setters[old[index]], item, event) if index in old else _all(item, event)
        for index, item in enumerate(after)
    ]


def _lines(value: Any, setters: Setters, path: str) -> Iterator[Line]:
    if is_leaf(value):
        yield Line(path, value, setters)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _lines(item, setters[key], below(path, key))
    else:
        for index, item in enumerate(value):
            yield from _lines(item, setters[index], f"{path}[{index}]")
