"""Rotation: one certificate per workload, replaced well before it expires.

A certificate is issued the first time it is asked for and again when it has lived 70 to 80 percent of its
life, at a moment spread by `jitter` so that a zone's proxies do not all rotate at once. Timers are only a
hint: what counts is the wall clock, which may jump while a host sleeps. When the zone's intermediate has
expired nothing is retried; the next call of `trust` brings what is overdue up to date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from zone_cp.identity.issuer import Issuer, NotIssuable
from zone_cp.identity.svid import Svid

Workload: TypeAlias = tuple[str, str]
"""(mesh, SPIFFE id)."""

EARLIEST_SHARE = 0.7
LATEST_SHARE = 0.8
LONGEST_NAP_SECONDS = 3600.0
SHORTEST_NAP_SECONDS = 0.05
LIMIT = 100_000
"""Certificates held at most: a guard against a compiler that asks for ids without end."""


def wall_clock() -> datetime:
    """Now, aware, UTC."""
    return datetime.now(UTC)


class _Held:
    def __init__(self, svid: Svid, due: datetime) -> None:
        self.svid = svid
        self.due = due
        self.timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Rotation:
    """Holds the current certificate of every workload asked for. Lives on one event loop, not thread-safe.

    `jitter` gives numbers in [0, 1) (random.random in production). `on_rotated` is called after a certificate
    was *replaced*, never for the first one; `on_issued` for every one, the first included, with (mesh, svid):
    to record serial, fingerprint and validity (decision 30).
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        jitter: Callable[[], float],
        on_rotated: Callable[[str, str], None],
        clock: Callable[[], datetime] = wall_clock,
        on_issued: Callable[[str, Svid], None] | None = None,
    ) -> None:
        self._loop = loop
        self._jitter = jitter
        self._clock = clock
        self._on_rotated = on_rotated
        self._on_issued = on_issued
        self._issuers: dict[str, tuple[Issuer, float]] = {}
        self._held: dict[Workload, _Held] = {}

    # --- what the compiler asks ---

    def identity(self, mesh: str, spiffe_id: str) -> Svid:
        """The current certificate, issued now if there is none. Raises NotIssuable."""
        held = self._held.get((mesh, spiffe_id))
        if held is None or self._clock() >= held.svid.not_after:
            held = self._issue((mesh, spiffe_id))
        return held.svid

    def trust_bundle(self, mesh: str) -> str:
        """The root of the mesh, PEM. Raises NotIssuable when this zone has no authority of the mesh yet."""
        return self._issuer(mesh)[0].root_pem

    # --- what the zone tells ---

    def trust(self, mesh: str, issuer: Issuer, seconds: float) -> None:
        """Issue the mesh's certificates with `issuer` from now on, for `seconds` each.

        What is overdue, or hangs on another root or another lifetime, is replaced at once; everything else
        at its own time. Idempotent.
        """
        before = self._issuers.get(mesh)
        self._issuers[mesh] = (issuer, seconds)
        replace_all = before is not None and (before[0].root_pem != issuer.root_pem or before[1] != seconds)
        now = self._clock()
        for workload, held in list(self._held.items()):
            if workload[0] == mesh and (replace_all or held.due <= now):
                self._rotate(workload)

    def distrust(self, mesh: str) -> None:
        """Forget a mesh, with all its certificates."""
        self._issuers.pop(mesh, None)
        self.keep([workload for workload in self._held if workload[0] != mesh])

    def keep(self, wanted: Collection[Workload]) -> None:
        """Forget the certificates of workloads that are not in `wanted`: they are issued no more."""
        kept = set(wanted)
        for workload in [one for one in self._held if one not in kept]:
            self._held.pop(workload).stop()

    def held(self) -> tuple[tuple[str, Svid], ...]:
        """Every certificate in use as (mesh, svid), for inspection."""
        return tuple((workload[0], held.svid) for workload, held in sorted(self._held.items()))

    def close(self) -> None:
        """Stop all timers."""
        self.keep(())

    # --- inside ---

    def _issuer(self, mesh: str) -> tuple[Issuer, float]:
        known = self._issuers.get(mesh)
        if known is None:
            raise NotIssuable(f"this zone has no intermediate certificate of mesh {mesh} yet")
        return known

    def _issue(self, workload: Workload) -> _Held:
        mesh, spiffe_id = workload
        issuer, seconds = self._issuer(mesh)
        if workload not in self._held and len(self._held) >= LIMIT:
            raise NotIssuable(f"this zone holds {LIMIT} certificates already")
        now = self._clock()
        svid = issuer.issue(spiffe_id, seconds, now)
        share = EARLIEST_SHARE + (LATEST_SHARE - EARLIEST_SHARE) * self._jitter()
        held = _Held(svid, now + (svid.not_after - now) * share)
        old = self._held.get(workload)
        if old is not None:
            old.stop()
        self._held[workload] = held
        self._arm(workload, held)
        if self._on_issued is not None:
            self._on_issued(mesh, svid)
        return held

    def _arm(self, workload: Workload, held: _Held) -> None:
        left = (held.due - self._clock()) / timedelta(seconds=1)
        nap = min(max(left, SHORTEST_NAP_SECONDS), LONGEST_NAP_SECONDS)
        held.timer = self._loop.call_later(nap, self._wake, workload)

    def _wake(self, workload: Workload) -> None:
        held = self._held.get(workload)
        if held is None:
            return
        if self._clock() < held.due:
            self._arm(workload, held)
        else:
            self._rotate(workload)

    def _rotate(self, workload: Workload) -> None:
        try:
            self._issue(workload)
        except NotIssuable:
            return  # the old one stands until it expires; `trust` tries again
        self._on_rotated(*workload)
