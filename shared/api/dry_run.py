"""`?dry-run=diff` on every write: what it would lead to for every proxy, with nothing written.

Authorised and judged as the write itself. One at a time, in a thread of its own, so that others are served meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from litestar import Response

from shared.api.auth import actor
from shared.api.problem import Problem, rejected
from shared.api.response import Call, json_response
from shared.api.store import Put, Remove, ResourceStore
from shared.events.decide import Rejected
from shared.history.supposed import Considered, forecast
from shared.process.collector import collector_paused
from shared.process.writer import event_time

WAITING_LIMIT = 8
"""Dry runs that wait or are answered."""
PARAMETER = "dry-run"


def is_dry(call: Call) -> bool:
    """Whether a write is to be told and not done. Raises Problem for a kind of dry run that there is not."""
    asked = call.query_params.get(PARAMETER)
    if asked not in (None, "diff"):
        parameters = [{"field": PARAMETER, "reason": 'must be "diff"'}]
        raise Problem(400, "Invalid query", "Request is not valid", parameters)
    return asked is not None


class DryRuns:
    """Those of one plane."""

    def __init__(self, store: ResourceStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def answer(self, commands: Sequence[Put | Remove], call: Call, *, batch: bool) -> Response[bytes]:
        """What a batch would lead to. Raises Problem where the write would be refused, and when too many ask."""
        if self._waiting >= WAITING_LIMIT:
            reason = f"{WAITING_LIMIT} dry runs wait already"
            raise Problem(503, "Service Unavailable", reason, headers={"Retry-After": "5"})
        self._waiting += 1
        try:
            async with self._turn:
                considered = await self._store.consider(commands)
                if isinstance(considered, Rejected):
                    raise rejected(considered, batch=batch)
                return json_response(await asyncio.to_thread(_forecast, considered, actor(call)))
        finally:
            self._waiting -= 1


def _forecast(considered: Considered, who: str) -> dict[str, Any]:
    with collector_paused():
        return forecast(considered, time=event_time(), actor=who)
