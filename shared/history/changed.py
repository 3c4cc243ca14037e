"""What one event changed, field by field."""

from __future__ import annotations

from typing import Any

from shared.events.event import Event, ResourceApplied, ResourceDeleted
from shared.events.history import History
from shared.events.redaction import shown
from shared.history.difference import FieldChange, ResourceChange, difference
from shared.model import codec
from shared.model.resource import ResourceKey, key_of


def changed_by(history: History, event: Event) -> list[ResourceChange]:
    """The fields of a resource that an event set or took; of any other event, what it says. Secrets as fingerprints."""
    zone = "" if event.origin == history.hub.origin else event.origin
    match event.change:
        case ResourceApplied(resource=resource):
            key, after = key_of(resource, zone), shown(codec.to_plain(resource))
        case ResourceDeleted(key=key):
            after = None
        case other:
            said: dict[str, Any] = shown(codec.to_plain(other))
            return [ResourceChange(said.pop("type"), event.subject, "added", (FieldChange((), after=said),))]
    return difference(_tree(key, _before(history, event)), _tree(key, after), whole=True)


def _before(history: History, event: Event) -> Any:
    """The resource as it was before an event about it; None where there was none."""
    match history.log(event.origin).before(event.n):
        case Event(change=ResourceApplied(resource=resource)):
            return shown(codec.to_plain(resource))
        case _:
            return None


def _tree(key: ResourceKey, value: Any) -> dict[str, dict[str, Any]]:
    return {} if value is None else {key.kind: {str(key): value}}
