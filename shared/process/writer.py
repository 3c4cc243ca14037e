"""The one writer of an origin's log: compose, append, fold, in that order and never two at a time.

The state moves only after the log has acknowledged, so what was answered is durable. A conflict means that
another process of the same origin wrote first: the writer folds what it missed and the caller decides anew.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from shared.events import moment
from shared.events.compose import compose
from shared.events.event import Change, Event, EventSkipped, LogSigned
from shared.events.fold import fold_all
from shared.events.log import Conflict, EventLog, LogBroken
from shared.events.signing import Signer, signed
from shared.events.state import LogState
from shared.events.stop import Stopped, first_unread
from shared.process.collector import collector_paused


def event_time() -> str:
    """Now, as events carry it: RFC 3339, UTC, microseconds."""
    return moment.event_time(datetime.now(UTC))


def just_after(time: str) -> str:
    """The next moment that can be told apart from an event's time."""
    return moment.event_time(datetime.fromisoformat(time) + timedelta(microseconds=1))


class LogWriter:
    """Holds the fold of one origin's log and appends to it.

    Not safe for concurrent calls of `commit`: its owner serialises (one owner task, or a lock). signer: vouches for
    what is appended.
    """

    def __init__(
        self, log: EventLog, state: LogState, *, clock: Callable[[], str] = event_time, signer: Signer | None = None
    ) -> None:
        self.log = log
        self.state = state
        self._clock = clock
        self._signer = signer
        self.broken: LogBroken | None = None
        """Where what stands in the log is not this log any more; the state is of before it."""

    def prepare(
        self,
        changes: Sequence[Change],
        *,
        actor: str,
        cause: str | Sequence[str] = "",
        seen: int = 0,
        state: LogState | None = None,
    ) -> tuple[Event, ...]:
        """Events for `changes` on top of `state` (default: the current one); nothing is written.

        cause is that of all, or one for each.
        """
        base = self.state if state is None else state
        ids = tuple(uuid.uuid4().hex for _ in changes)
        # Event time never runs backwards in one log, whatever the clock does: quarantines are decided by it.
        # Nor does it stand still: what was written together is known by its time.
        time = self._clock()
        if time <= base.time:
            time = just_after(base.time)
        kid = self._signer.kid if self._signer is not None else ""
        return compose(base, changes, ids=ids, time=time, actor=actor, seen=seen, cause=cause, kid=kid)

    async def commit(self, events: Sequence[Event], *, whole: bool = True, after: LogState | None = None) -> None:
        """Append and fold. Raises Conflict (after catching up) and LogUnavailable (nothing is folded), of this Stopped
        for all but tombstones where the log holds what cannot be read: who decided does not know what it says.

        whole: see EventLog.append. after: the state that they lead to, where the caller has folded them already.
        """
        if not events:
            return
        self._check(events)
        try:
            signable = events if self._signer is None else signed(events, self._signer)
            await self.log.append(signable, whole=whole)
        except Conflict:
            await self.catch_up()
            self._check(events)
            raise
        self.state = fold_all(self.state, events) if after is None else after

    def _check(self, events: Sequence[Event]) -> None:
        if self.broken is not None:
            raise Stopped(f"{self.broken}; nothing is written behind it: zonal verify says how to repair")
        stop = first_unread(self.state)
        if stop is not None and not all(isinstance(event.change, EventSkipped) for event in events):
            raise Stopped(str(stop))

    async def catch_up(self) -> None:
        """Fold whatever the log holds beyond the state, up to where it is `broken`."""
        events: list[Event] = []
        with collector_paused():
            try:
                async for event in self.log.read(after=self.state.n):
                    events.append(event)  # noqa: PERF401 - what stands before a break counts
            except LogBroken as broken:
                self.broken = broken
            self.state = fold_all(self.state, events)

    async def vouch(self, actor: str) -> None:
        """Sign a log whose last event this key has not signed, for all that stands in it. Raises LogUnavailable."""
        while self._signer is not None and self.state.n:
            (last,) = [event async for event in self.log.read(after=self.state.n - 1)]
            if last.kid == self._signer.kid and last.sig:
                return
            change = LogSigned(key=self._signer.public)
            with suppress(Conflict):
                await self.commit(self.prepare([change], actor=actor, seen=self.state.seen))
