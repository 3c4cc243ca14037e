"""Two thousand sidecars come back at once to a zone control plane that was killed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from shared.bench import services
from shared.bench.place import ZONE, Place
from shared.keys.tokens import TokenIssuer
from tests.e2e.reconnecting import Load, Round

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

PROXIES = 2_000
WITHIN_SECONDS = 90.0
PEAK_MAX = 1.25
"""What the control plane may use at most while all connect, of what it uses once all are connected."""
DATAPLANE = (
    '{"type":"Dataplane","mesh":"default","name":"%s","networking":{"address":"127.0.0.1","inbound":[{"port":%d,'
    '"servicePort":%d,"tags":{"kuma.io/service":"app","kuma.io/protocol":"http"}}]}}'
)


class Sidecars:
    """The load process."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    def begin(self) -> None:
        """Let all of them connect at once."""
        assert self._child.stdin is not None
        self._child.stdin.write(b"connect\n")

    async def settled(self) -> Round:
        """What the round saw, once it is over."""
        assert self._child.stdout is not None
        async with asyncio.timeout(WITHIN_SECONDS):
            return msgspec.json.decode(await self._child.stdout.readline(), type=Round)


@asynccontextmanager
async def sidecars(load: Load) -> AsyncIterator[Sidecars]:
    """A load process, ended with its context."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.reconnecting",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None
    try:
        child.stdin.write(msgspec.json.encode(load) + b"\n")
        yield Sidecars(child)
    finally:
        child.kill()
        await child.wait()


async def test_two_thousand_come_back_at_once() -> None:
    """All recover, no stream is cancelled, nothing is sent again that is held, and memory has no peak while they do."""
    async with Place() as place:
        async with place.api() as api:
            await api.apply(services.batch([services.MESH, services.HOSTNAMES]))
        load = Load(
            port=place.ports.ads,
            ca=place.deployment.ca_file.read_text(),
            token=TokenIssuer.load(place.deployment.token_signing_key).dataplane_token("default", zone=ZONE),
            proxies={f"default.app-{n}": DATAPLANE % (f"app-{n}", 20_000, 30_000) for n in range(PROXIES)},
        )
        async with sidecars(load) as crowd:
            crowd.begin()
            first = await crowd.settled()
            assert (first.settled, first.ended) == (PROXIES, {})
            assert first.resources >= PROXIES

            await place.stop("zone")
            await place.start_zone()
            crowd.begin()
            second = await crowd.settled()
            assert (second.settled, second.ended) == (PROXIES, {})
            assert (second.resources, second.removed) == (0, 0)
            peak, settled = place.resident_bytes("zone", peak=True), place.resident_bytes("zone")
            assert peak < settled * PEAK_MAX
            async with place.api(zone=True) as zone:
                found = await zone.get(f"/proxies?size={2 * PROXIES}")
            assert sum(row["online"] for row in found["items"]) == PROXIES
