"""Keeping: what a proxy whose push is held is told nonetheless, who lost access since and its own new certificates.

Its snapshot is made anew of the view that it was kept from (`kept.kept_view`); replay does the same.

The view is at hand when a hold begins. After a restart it is asked for from the log: a proxy then keeps for a moment
longer what its Envoy has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

import structlog

from shared.events.history import History, NoSuchMoment
from shared.events.index import DamagedLog
from shared.events.log import LogUnavailable
from shared.events.state import Position
from shared.history.plane import PlaneHistory, TooManyQuestions
from shared.nats.log import LogFault
from zone_cp.grace import RULES
from zone_cp.kept import kept_view
from zone_cp.view.project import project, proxy_view
from zone_cp.view.zone_view import ProxyView, ZoneView
from zone_cp.xds.compile import compile_proxy
from zone_cp.xds.fleet import Fleet, Turn
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Snapshot

RETRY_SECONDS = 2.0
TAKING = RULES | {"narrowed"}
"""Fields of a mesh by which access is lost."""

Situation: TypeAlias = tuple[ZoneView, ProxyView]
Past: TypeAlias = Callable[[Position, str], Awaitable[Situation]]
"""The view of a moment and what a proxy was then. Raises LATER, and NEVER where that cannot be known."""
LATER = (LogUnavailable, TooManyQuestions, OSError)
NEVER = (NoSuchMoment, LogFault, DamagedLog)

log = structlog.get_logger(__name__)


def takes(turn: Turn) -> bool:
    """Whether somebody may have lost access by a turn."""
    return any(fields & TAKING for fields in turn.difference.meshes.values())


def past_of(history: PlaneHistory, zone: str) -> Past:
    """The past as the zone's own logs tell it."""

    async def past(position: Position, proxy: str) -> Situation:
        def found(logs: History) -> Situation:
            state = logs.state(zone, position)
            known = proxy_view(state, proxy)
            if known is None:
                raise NoSuchMoment(f"{proxy} was not known at {position}")
            return project(state), known

        return await history.ask(found)

    return past


class Holding(Protocol):
    """What is needed of the guard (`zone_cp.guard.Guard`)."""

    def holding(self) -> Mapping[str, Position | None]:
        """The proxies whose push is held, and the moment of what each keeps; None where that is not known."""

    def keep(self, proxy: str, snapshot: Snapshot) -> None:
        """Give a proxy whose push is held this in place of what it keeps."""


class Keeping:
    """Belongs to one event loop. `past` is set where the past can be asked."""

    def __init__(self, holding: Holding, secrets: SecretSource) -> None:
        self._holding = holding
        self._secrets = secrets
        self.past: Past | None = None
        self._known: dict[str, tuple[Position, Situation]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._now: ZoneView | None = None

    def look(self, before: Fleet | None, now: ZoneView, *, taken: bool) -> None:
        """Something was offered. Find what proxies keep whose hold has begun, and tell them what they have lost; those,
        too, that were held before if something was `taken` since, or certificates are others.

        before: the fleet before the newest turn.
        """
        self._now = now
        holding = self._holding.holding()
        for proxy in [one for one in self._known if one not in holding]:
            del self._known[proxy]
        for proxy in [one for one in self._asking if one not in holding]:
            self._asking.pop(proxy).cancel()
        if not holding:
            return
        for proxy, position in holding.items():
            known = self._known.get(proxy)
            if known is not None and known[0] == position:
                if taken:
                    self._tell(proxy)
            elif position is not None:
                self._find(proxy, position, before)

    def _find(self, proxy: str, position: Position, before: Fleet | None) -> None:
        snapshot = None if before is None else before.snapshot(proxy)
        if before is not None and snapshot is not None and snapshot.position == position:
            self._known[proxy] = (position, (before.view, before.situations[proxy]))
            self._tell(proxy)
        elif self.past is not None and proxy not in self._asking:
            self._asking[proxy] = asyncio.create_task(self._recall(self.past, proxy, position))

    async def _recall(self, past: Past, proxy: str, position: Position) -> None:
        while True:
            try:
                situation = await past(position, proxy)
            except LATER as error:
                log.warning("cannot read now what a held proxy keeps", proxy=proxy, reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except NEVER as error:
                log.error("cannot know what a held proxy keeps, nor who lost it", proxy=proxy, reason=str(error))  # noqa: TRY400
                return
            else:
                break
        self._known[proxy] = (position, situation)
        del self._asking[proxy]
        self._tell(proxy)

    def _tell(self, proxy: str) -> None:
        if self._now is None:
            return
        view, situation = self._known[proxy][1]
        try:
            snapshot = compile_proxy(kept_view(view, self._now), situation, self._secrets)
        except Exception as fault:  # noqa: BLE001 - whatever it is: the proxy keeps what it has
            log.error("cannot compile what a held proxy keeps", proxy=proxy, fault=f"{type(fault).__name__}: {fault}")  # noqa: TRY400
        else:
            self._holding.keep(proxy, snapshot)
