"""What it costs to foretell one write for 1,000 proxies in two zones, on the past that `shared.bench.history` reads.

`python -m shared.bench.whatif` changes a service, makes one and deletes one, in turn. Processor time is measured. The
states of the end are known beforehand, as they are to a running plane; nothing else is.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from shared.api.store import Put, Remove
from shared.bench import history, services
from shared.bench.apart import finish, measure_apart, report
from shared.bench.result import percentile
from shared.events.history import History
from shared.history.generate import MESH
from shared.history.supposed import FORESEER
from shared.history.whatif import whatif_of
from shared.model.resource import MeshExternalService, ResourceKey
from shared.process.collector import collector_paused, settled

QUESTIONS = 9
STEPS = 1 + QUESTIONS


class Figures(msgspec.Struct, frozen=True):
    """Milliseconds of processor time: of the first question, which finds nothing encoded yet, and of the median one."""

    first_ms: float
    median_ms: float


async def measure(step: Callable[[int], None]) -> Figures:
    """Measure in a process of its own. Raises Died."""
    return await measure_apart("shared.bench.whatif", Figures, step)


def _measured() -> Figures:
    store = history.made(history.SIZE)
    importlib.import_module(FORESEER)
    with collector_paused(), tempfile.TemporaryDirectory(prefix="zonal-bench-") as place:
        past = history.opened(store, Path(place))
        for zone in past.zones:
            past.state(zone, past.position(zone))
        report(1)
        spent = [_asked(past, number) for number in range(QUESTIONS)]
    return Figures(spent[0] * 1e3, percentile(spent, 50) * 1e3)


def _asked(past: History, number: int) -> float:
    wanted = services.service(number)
    fresh = MeshExternalService(name=f"fresh-{number}", mesh=MESH, spec=wanted.spec)
    key = ResourceKey("MeshExternalService", MESH, services.name(1000 + number))
    settled()
    started = time.process_time()
    found = whatif_of(past, "", [(Put(wanted), Put(fresh), Remove(key))[number % 3]])
    spent = time.process_time() - started
    if isinstance(found, tuple) or found["touched"] != len(past.zones):
        raise RuntimeError(f"the egress of each zone was to be touched: {found}")
    report(1)
    return spent


if __name__ == "__main__":
    finish(_measured())
