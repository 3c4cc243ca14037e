"""Rotation of workload certificates, on a loop whose time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from shared.keys import ca
from zone_cp.identity.issuer import Issuer, NotIssuable
from zone_cp.identity.rotation import Rotation

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
WEB = "spiffe://default/web"


class TimerLoop:
    """The two methods of an event loop that timers need; time moves only when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[..., object], tuple[Any, ...], TimerLoop.Handle]] = []

    class Handle:
        """What call_later gives back."""

        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> TimerLoop.Handle:
        handle = TimerLoop.Handle()
        self._timers.append((self.now + delay, callback, args, handle))
        return handle

    @property
    def armed(self) -> int:
        return sum(not handle.cancelled for *_, handle in self._timers)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self._timers if timer[0] <= end]:
            first = min(due, key=lambda timer: timer[0])
            self._timers.remove(first)
            self.now = max(self.now, first[0])
            if not first[3].cancelled:
                first[1](*first[2])
        self.now = end

    def clock(self) -> datetime:
        return BEGIN + timedelta(seconds=self.now)


class World:
    """A rotation, its loop and what it said."""

    def __init__(self, *, jitter: float = 0.0, days: int = 30) -> None:
        self.loop = TimerLoop()
        self.rotated: list[tuple[str, str]] = []
        self.issued: list[str] = []
        self.root, self.root_key = ca.create_root("default", "ca-1", BEGIN)
        self.rotation = Rotation(
            loop=cast("asyncio.AbstractEventLoop", self.loop),
            jitter=lambda: jitter,
            clock=self.loop.clock,
            on_rotated=lambda mesh, spiffe_id: self.rotated.append((mesh, spiffe_id)),
            on_issued=lambda _mesh, svid: self.issued.append(svid.serial),
        )
        self.rotation.trust("default", self.issuer(days), 3600)

    def issuer(self, days: int = 30) -> Issuer:
        own, key = ca.create_intermediate(
            self.root, self.root_key, mesh="default", zone="east", now=self.loop.clock(), days=days
        )
        return Issuer(own, key, self.root)


def test_a_workload_has_one_certificate_until_it_rotates() -> None:
    """Asking again gives the same certificate; two workloads have two."""
    world = World()
    first = world.rotation.identity("default", WEB)
    assert world.rotation.identity("default", WEB) is first
    assert world.rotation.identity("default", "spiffe://default/api").serial != first.serial
    assert world.rotated == []
    assert len(world.issued) == 2


@pytest.mark.parametrize("jitter, earliest, latest", [(0.0, 2519, 2521), (0.999, 2878, 2881)])
def test_rotation_comes_at_seventy_to_eighty_percent(jitter: float, earliest: float, latest: float) -> None:
    """A one-hour certificate is replaced after 42 to 48 minutes, as jitter says, and its owner is told."""
    world = World(jitter=jitter)
    first = world.rotation.identity("default", WEB)
    world.loop.advance(earliest)
    assert world.rotation.identity("default", WEB) is first
    world.loop.advance(latest - earliest)
    assert world.rotated == [("default", WEB)]
    second = world.rotation.identity("default", WEB)
    assert second.serial != first.serial
    assert second.not_after > first.not_after


def test_rotation_goes_on() -> None:
    """Over a day every certificate served was valid when served, and replaced ones are told once each."""
    world = World(jitter=0.5)
    for _ in range(24 * 6):
        assert world.rotation.identity("default", WEB).not_after > world.loop.clock()
        world.loop.advance(600)
    assert len(world.rotated) == len(world.issued) - 1 == 86400 // 2700
    assert world.loop.armed == 1


def test_a_new_intermediate_waits_for_rotation() -> None:
    """A renewed intermediate of the same root disturbs nobody."""
    world = World()
    first = world.rotation.identity("default", WEB)
    world.rotation.trust("default", world.issuer(), 3600)
    assert world.rotation.identity("default", WEB) is first


def test_a_new_root_or_lifetime_replaces_at_once() -> None:
    """Another root, or another lifetime, is in every certificate from then on."""
    world = World()
    world.rotation.identity("default", WEB)
    world.rotation.trust("default", world.issuer(), 60)
    assert world.rotated == [("default", WEB)]
    assert world.rotation.identity("default", WEB).not_after == BEGIN + timedelta(seconds=60)
    world.root, world.root_key = ca.create_root("default", "ca-2", BEGIN)
    world.rotation.trust("default", world.issuer(), 60)
    assert len(world.rotated) == 2
    assert world.rotation.trust_bundle("default") == world.root


def test_an_expired_intermediate_heals_when_renewed() -> None:
    """With the intermediate expired no certificate is given; a renewed one brings workloads back at once."""
    world = World(days=1)
    world.rotation.identity("default", WEB)
    world.loop.advance(2 * 86400)
    with pytest.raises(NotIssuable, match="expired"):
        world.rotation.identity("default", WEB)
    assert world.loop.armed == 0
    world.rotated.clear()
    world.rotation.trust("default", world.issuer(), 3600)
    assert world.rotated == [("default", WEB)]
    assert world.rotation.identity("default", WEB).not_after > world.loop.clock()


def test_a_mesh_without_authority_is_named() -> None:
    """Before the zone has an intermediate nothing is issued, and the reason names the mesh."""
    world = World()
    with pytest.raises(NotIssuable, match="mesh other"):
        world.rotation.identity("other", "spiffe://other/web")
    with pytest.raises(NotIssuable, match="mesh other"):
        world.rotation.trust_bundle("other")


def test_what_nobody_needs_is_not_rotated() -> None:
    """Workloads that are gone, and distrusted meshes, leave no timer behind."""
    world = World()
    for name in ("a", "b", "c"):
        world.rotation.identity("default", f"spiffe://default/{name}")
    world.rotation.keep([("default", "spiffe://default/b")])
    assert [svid.spiffe_id for _, svid in world.rotation.held()] == ["spiffe://default/b"]
    assert world.loop.armed == 1
    world.rotation.distrust("default")
    assert world.loop.armed == 0
    with pytest.raises(NotIssuable):
        world.rotation.identity("default", WEB)


@pytest.mark.anyio
async def test_short_certificates_rotate_on_a_real_loop() -> None:
    """On asyncio's own timers a two-second certificate is replaced before its end."""
    rotated = asyncio.Event()
    root, root_key = ca.create_root("default", "ca-1", datetime.now(UTC))
    own, key = ca.create_intermediate(root, root_key, mesh="default", zone="east", now=datetime.now(UTC))
    rotation = Rotation(
        loop=asyncio.get_running_loop(), jitter=lambda: 0.0, on_rotated=lambda _mesh, _spiffe_id: rotated.set()
    )
    rotation.trust("default", Issuer(own, key, root), 2)
    first = rotation.identity("default", WEB)
    await asyncio.wait_for(rotated.wait(), 5)
    assert rotation.identity("default", WEB).serial != first.serial
    assert datetime.now(UTC) < first.not_after
    rotation.close()
