"""What is remembered between calls, by threads that ask at once: a question about the past has one of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from immutables import Map

from shared.events.cross_mesh import cross_mesh_hosts
from shared.events.external_hosts import external_hosts
from shared.events.state import LogState, ZoneState
from tests.builders import LogBuilder, applied, mesh

THREADS, CALLS = 4, 10_000


@pytest.fixture(autouse=True)
def _switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def states() -> Iterator[LogState]:
    """Of which each is asked for the first time."""
    log = LogBuilder()
    log.append(applied(mesh()))
    (stored,) = log.state.resources.values()
    while True:
        members = Map({stored.key: stored})
        yield LogState("global", kinds=Map({"ExternalService": members, "MeshGateway": members, "Mesh": members}))


@pytest.mark.parametrize(
    "ask", [external_hosts, lambda hub: cross_mesh_hosts(ZoneState("east", hub, LogState("east")))]
)
def test_threads_may_forget_the_same(ask: Callable[[LogState], object]) -> None:
    """Whoever remembers something new lets go of the oldest, which another one may be about to."""

    def work(_: int) -> None:
        for _, state in zip(range(CALLS), states(), strict=False):
            ask(state)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
