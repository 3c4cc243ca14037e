"""One change to many proxies, and many resources to some: the zone's xDS server beside a bare loop on grpc.aio.

`python -m shared.bench.fanout` holds both servers; the clients are processes of their own (`clients`). Rounds of the
two alternate, so that what disturbs the machine disturbs both. What is measured of the control plane's process alone
(its processor time and its memory) is taken while the bare server has no work.
"""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from resource import getpagesize
from typing import Any

import msgspec

from shared.bench.apart import finish, measure_apart, report
from shared.bench.bare_ads import CLUSTER
from shared.bench.result import percentile
from shared.bench.streams import Bare, Product, Spent
from shared.process.collector import settled

STREAMS = 1_000
HELD = 20
"""Clusters that each client of the fan-out holds, one of which changes."""
WARM_UP, ROUNDS = 5, 40
FIRST_STREAMS = 50
"""Connected before memory is first looked at: what a server allocates once is no proxy's."""
SYNC_STREAMS, SYNC_CLUSTERS, SYNC_ROUNDS = 100, 10_000, 3
BODY_BYTES = 560
"""An egress's HTTP cluster has about that."""

REST_SECONDS = 2.0
"""A server gives back what it needed for the beginning of its clients before its memory is looked at."""

STEPS = WARM_UP + ROUNDS + SYNC_ROUNDS


class Figures(msgspec.Struct, frozen=True):
    """Milliseconds of the median round; updates per second of processor time; resident bytes per stream."""

    fanout_ms: float
    bare_fanout_ms: float
    updates_per_core_second: float
    bare_updates_per_core_second: float
    resident_bytes_per_stream: float
    bare_resident_bytes_per_stream: float
    sync_ms: float
    bare_sync_ms: float


async def measure(step: Callable[[int], None]) -> Figures:
    """Measure in a process of its own. Raises Died."""
    return await measure_apart("shared.bench.fanout", Figures, step)


# --- in that process ---------------------------------------------------------------------------------------------

_wire: Any = importlib.import_module("zone_cp.xds.wire")


async def _measured() -> Figures:
    settled()  # as every process of the product does once it has started
    product, bare = Product(), Bare()
    ports = await product.start(), await bare.start()
    try:
        fanout = await _fanout(product, bare, *ports)
        ours, barely = await _syncs(product, bare, *ports)
    finally:
        await product.stop()
        await bare.stop()
    return msgspec.structs.replace(fanout, sync_ms=ours * 1e3, bare_sync_ms=barely * 1e3)


async def _fanout(product: Product, bare: Bare, port: int, bare_port: int) -> Figures:
    clusters = _clusters(HELD)
    with _clients(port, FIRST_STREAMS, "first-"):
        await product.reach(_names("first-", FIRST_STREAMS), clusters)
        before = await _memory_at_rest()
        with _clients(port, STREAMS, "one-"):
            proxies = _names("one-", STREAMS)
            await product.reach(proxies, clusters)
            grown = await _memory_at_rest() - before
            before = _resident_bytes()
            with _clients(bare_port, STREAMS, "bare-"):
                await bare.joined(STREAMS)
                bare_grown = await _memory_at_rest() - before
                ours, barely = await _rounds(product, bare, proxies, next(iter(clusters)))
    return Figures(
        fanout_ms=_median(ours) * 1e3,
        bare_fanout_ms=_median(barely) * 1e3,
        updates_per_core_second=STREAMS * ROUNDS / sum(one.processor for one in ours),
        bare_updates_per_core_second=STREAMS * ROUNDS / sum(one.processor for one in barely),
        resident_bytes_per_stream=grown / STREAMS,
        bare_resident_bytes_per_stream=bare_grown / STREAMS,
        sync_ms=0,
        bare_sync_ms=0,
    )


async def _rounds(
    product: Product, bare: Bare, proxies: Sequence[str], changed: str
) -> tuple[list[Spent], list[Spent]]:
    """What each round took, of the product and of the bare server."""
    ours, barely = [], []
    for turn in range(1, WARM_UP + ROUNDS + 1):
        one = _encoded(changed, turn)
        held, pushed = await product.reach(proxies, {changed: one}), await bare.push([_response([one], turn)])
        if turn > WARM_UP:
            ours.append(held)
            barely.append(pushed)
        report(1)
    return ours, barely


async def _syncs(product: Product, bare: Bare, port: int, bare_port: int) -> tuple[float, float]:
    """Seconds of the median round: new clients that hold nothing are given all."""
    ours, barely = [], []
    clusters = _clusters(SYNC_CLUSTERS)
    batches = importlib.import_module("zone_cp.ads.batch").batches(tuple(clusters.values()))
    responses = [_response(batch, number) for number, batch in enumerate(batches, start=1)]
    for turn in range(SYNC_ROUNDS):
        prefix = f"sync-{turn}-"
        proxies = _names(prefix, SYNC_STREAMS)
        with _clients(port, SYNC_STREAMS, prefix):
            await product.joined(SYNC_STREAMS)
            ours.append(await product.reach(proxies, clusters))
        with _clients(bare_port, SYNC_STREAMS, prefix):
            await bare.joined(SYNC_STREAMS)
            barely.append(await bare.push(responses))
        report(1)
    return _median(ours), _median(barely)


def _median(spent: Sequence[Spent]) -> float:
    return percentile([one.seconds for one in spent], 50)


@contextmanager
def _clients(port: int, count: int, prefix: str) -> Iterator[None]:
    """Clients in a process of their own, for the length of the context."""
    argv = (sys.executable, "-m", "shared.bench.clients", str(port), str(count), prefix)
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:  # leaving it ends their input, and so them
        yield
        if child.poll() is not None:
            raise RuntimeError(f"the clients ended with {child.returncode}")


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def _clusters(count: int) -> dict[str, Any]:
    return {name: _encoded(name, 0) for name in (f"mes/{number:05}" for number in range(count))}


def _encoded(name: str, turn: int) -> Any:
    """A cluster: its name (1) and, in place of all else, a long alt_stat_name (28)."""
    text = f"{turn:08}".ljust(BODY_BYTES - len(name), "x")
    return _wire.encode(CLUSTER, name, _wire.piece(1, name) + _wire.piece(28, text))


def _response(resources: Sequence[Any], number: int) -> bytes:
    fields = b"".join(one.field for one in resources)
    tail: bytes = _wire.piece(4, CLUSTER) + _wire.piece(5, str(number))
    head: bytes = _wire.piece(1, f"g{number}.z0")
    return head + fields + tail


async def _memory_at_rest() -> int:
    await asyncio.sleep(REST_SECONDS)
    return _resident_bytes()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


if __name__ == "__main__":
    finish(asyncio.run(_measured()))
