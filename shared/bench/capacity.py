"""How much memory a zone control plane takes for many services."""

from __future__ import annotations

from collections.abc import Callable

from shared.bench import services
from shared.bench.place import EGRESS, Place

SERVICES = 10_000
BATCH = 500
STEPS = SERVICES // BATCH + 1


async def measure(step: Callable[[int], None]) -> float:
    """Resident bytes of a `zonal zone` that serves an egress, once the egress has ACKed all of SERVICES."""
    async with Place() as place:
        async with place.api() as api:
            await api.apply(services.batch([services.MESH, services.HOSTNAMES]))
            await place.start_egress()
            g = 0
            for start in range(0, SERVICES, BATCH):
                batch = [services.service(number) for number in range(start, start + BATCH)]
                g = await api.apply(services.batch(batch))
                step(1)
        await place.holds(EGRESS, g)
        step(1)
        return float(place.resident_bytes("zone"))
