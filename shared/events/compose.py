"""Compose: changes become events that continue one log's chain. Nothing is written here."""

from __future__ import annotations

from collections.abc import Sequence

from shared.events.event import Change, Event, LogRestored, event_hash, payload_hash
from shared.events.state import LogState
from shared.events.subject import subject_for
from shared.events.upcast import SCHEMA


def compose(
    state: LogState,
    changes: Sequence[Change],
    *,
    ids: Sequence[str],
    time: str,
    actor: str,
    seen: int = 0,
    cause: str | Sequence[str] = "",
    kid: str = "",
) -> tuple[Event, ...]:
    """Events for `changes` that follow `state` in its log: n, prev, payload_hash, subject and incarnation filled in.

    ids holds one unique id per change, kid names the key that the origin signs with, cause is that of all or one for
    each. The first event of a log, and a LogRestored, begin an incarnation that is named after their own id. time is
    RFC 3339 UTC with microseconds and must not lie before `state.time`.
    """
    n, prev, incarnation = state.n, state.head, state.incarnation
    events: list[Event] = []
    causes = [cause] * len(changes) if isinstance(cause, str) else cause
    for change, identifier, why in zip(changes, ids, causes, strict=True):
        n += 1
        if not incarnation or isinstance(change, LogRestored):
            incarnation = identifier
        event = Event(
            id=identifier,
            v=SCHEMA,
            origin=state.origin,
            n=n,
            incarnation=incarnation,
            seen=seen,
            time=time,
            actor=actor,
            subject=subject_for(state.origin, change),
            change=change,
            cause=why,
            prev=prev,
            payload_hash=payload_hash(change),
            kid=kid,
        )
        prev = event_hash(event)
        events.append(event)
    return tuple(events)
