"""A zone with 10,000 services on real Envoys: how long one change takes from the zone to its egress, and what a sidecar
in redirect mode takes of memory. Beside them: such bytes pushed barely to an Envoy of the same kind, and an empty one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from shared.bench import limits, services
from shared.bench.http import Api
from shared.bench.place import EGRESS, SIDECAR, Place

SERVICES = 10_000
BATCH = 500
WARM_UP, CHANGES = 20, 200
EAGER = ("--egress-on-demand-above", str(10 * SERVICES))
"""Else the egress would hold none of these clusters before it is asked for them."""
REST_SECONDS = 2.0
"""An Envoy frees what it needed for starting before its memory is looked at."""

STEPS = SERVICES // BATCH + 3 * (WARM_UP + CHANGES) + 2


class Figures(msgspec.Struct, frozen=True):
    """Microseconds of each change and of each bare push; resident bytes of a sidecar's Envoy and of an empty one."""

    changes: tuple[float, ...]
    bare: tuple[float, ...]
    sidecar_bytes: int
    empty_bytes: int


async def measure(step: Callable[[int], None]) -> Figures:
    """See the module. Raises TimeoutError, Nacked."""
    async with Place(log_level="debug", zone_options=EAGER) as place:
        async with place.api() as api:
            g = await _fill(api, step)
        await place.start_egress()
        await place.holds(EGRESS, g)
        await place.start_sidecar(redirect=True)
        await place.holds(SIDECAR, g)
        await asyncio.sleep(REST_SECONDS)
        sidecar = place.envoy_bytes("sidecar")
        await place.stop("sidecar")
        step(1)
        count = WARM_UP + CHANGES
        before = await limits.egress_clusters(place)
        async with place.api() as api:
            for number in range(count):
                await _change(place, api, number)
                step(1)
        after = await limits.egress_clusters(place)
        async with limits.bare_pushes(place, before, after) as bare, place.api() as api:
            changes, barely = await limits.take_turns(
                lambda number: _change(place, api, count + number), bare, count, step
            )
        empty = await limits.measure_empty(place, "sidecar", REST_SECONDS)
        step(1)
    return Figures(changes[WARM_UP:], barely[WARM_UP:], sidecar, empty)


async def _fill(api: Api, step: Callable[[int], None]) -> int:
    await api.apply(services.batch([services.MESH, services.HOSTNAMES]))
    g = 0
    for start in range(0, SERVICES, BATCH):
        g = await api.apply(services.batch([services.service(number) for number in range(start, start + BATCH)]))
        step(1)
    return g


async def _change(place: Place, api: Api, number: int) -> float:
    """Microseconds from when the zone's state takes a change until the egress has ACKed it."""
    path = f"/meshes/default/meshexternalservices/{services.name(number)}"
    g = await api.put(path, services.body(services.service(number, 1)))
    held = await place.deliveries.held(g)
    return (held - place.deliveries.taken(g)) / 1000
