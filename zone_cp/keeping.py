"""Keeping: what a proxy whose push is held is told nonetheless: who lost access since, and new certificates, its own
and those that services are dialled with.

Its snapshot is made anew of the view that it was kept from (`kept.kept_view`); replay does the same.

The view is at hand when a hold begins. After a restart it is asked for from the log: a proxy then keeps for a moment
longer what its Envoy has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
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
from zone_cp.xds.fleet import Fleet, Turn, situation_of
from zone_cp.xds.secrets import SecretSource
from zone_cp.xds.snapshot import Snapshot

RETRY_SECONDS = 2.0
TAKING = RULES | {"narrowed"}
"""Fields of a mesh by which access is lost."""

Situation: TypeAlias = tuple[ZoneView, ProxyView]
Past: TypeAlias = Callable[[Position, Collection[str]], Awaitable[Mapping[str, Situation]]]
"""The view of a moment and what proxies were then. Raises LATER, and NEVER where that cannot be known."""
LATER = (LogUnavailable, TooManyQuestions, OSError)
NEVER = (NoSuchMoment, LogFault, DamagedLog)

log = structlog.get_logger(__name__)


def concerns_held(turn: Turn) -> bool:
    """Whether proxies whose push is held may have to be told something of a turn."""
    difference, meshes = turn.difference, turn.fleet.view.meshes
    if difference.material or any(fields & TAKING for fields in difference.meshes.values()):
        return True
    differing = ((meshes[name].services, keys) for name, keys in difference.services.items() if name in meshes)
    return any((one := services.get(key)) is not None and one.failure for services, keys in differing for key in keys)


def past_of(history: PlaneHistory, zone: str) -> Past:
    """The past as the zone's own logs tell it."""

    async def past(position: Position, proxies: Collection[str]) -> Mapping[str, Situation]:
        def found(logs: History) -> Mapping[str, Situation]:
            state = logs.state(zone, position)
            view = project(state)
            known = {proxy: proxy_view(state, proxy) for proxy in proxies}
            return {proxy: (view, situation_of(view, one)) for proxy, one in known.items() if one is not None}

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
        self._asking: dict[Position, asyncio.Task[None]] = {}
        self._now: Fleet | None = None

    def look(self, before: Fleet | None, now: Fleet, *, concerned: bool) -> None:
        """Something was offered. Find what proxies keep whose hold has begun, and tell them what is different by now.

        concerned: whether those that were held before have to be told again (`concerns_held`).

        before: the fleet before the newest turn.
        """
        self._now = now
        holding = self._holding.holding()
        for proxy in [one for one in self._known if one not in holding]:
            del self._known[proxy]
        told, unknown = [], set[Position]()
        for proxy, position in holding.items():
            known = self._known.get(proxy)
            if known is not None and known[0] == position:
                told += [proxy] if concerned else []
            elif position is not None and before is not None and _is_of(before, proxy, position):
                self._known[proxy] = (position, (before.view, before.situations[proxy]))
                told.append(proxy)
            elif position is not None:
                unknown.add(position)
        for position in [one for one in self._asking if one not in unknown]:
            self._asking.pop(position).cancel()
        for position in unknown - self._asking.keys() if self.past is not None else ():
            self._asking[position] = asyncio.create_task(self._recall(position))
        self._tell(told)

    async def _recall(self, position: Position) -> None:
        """Read what proxies keep since a moment. It stays among what is asked for where that cannot be known."""
        while self.past is not None:
            holding = self._holding.holding()
            proxies = [one for one, since in holding.items() if since == position and one not in self._known]
            try:
                found = await self.past(position, proxies)
            except LATER as error:
                log.warning("cannot read now what held proxies keep", position=str(position), reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except NEVER as error:
                said = {"position": str(position), "reason": str(error)}
                log.error("cannot know what held proxies keep, nor who lost it", **said)  # noqa: TRY400
                return
            else:
                del self._asking[position]  # others may come that keep the same
                self._known |= {proxy: (position, situation) for proxy, situation in found.items()}
                self._tell(found)
                return

    def _tell(self, proxies: Iterable[str]) -> None:
        views: dict[int, ZoneView] = {}
        made: dict[tuple[int, ProxyView], Snapshot | None] = {}
        for proxy in proxies:
            _, (view, situation) = self._known[proxy]
            place = (id(view), situation)
            if place not in made and self._now is not None:
                if id(view) not in views:
                    views[id(view)] = kept_view(view, self._now.view, self._now.state)
                made[place] = self._compiled(views[id(view)], situation)
            if (snapshot := made.get(place)) is not None:
                self._holding.keep(proxy, snapshot)

    def _compiled(self, view: ZoneView, situation: ProxyView) -> Snapshot | None:
        try:
            return compile_proxy(view, situation, self._secrets)
        except Exception as fault:  # noqa: BLE001 - whatever it is: the proxy keeps what it has
            log.error("cannot compile what held proxies keep", fault=f"{type(fault).__name__}: {fault}")  # noqa: TRY400
            return None


def _is_of(fleet: Fleet, proxy: str, position: Position) -> bool:
    snapshot = fleet.snapshot(proxy)
    return snapshot is not None and snapshot.position == position
