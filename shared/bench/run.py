"""`zonal bench`: measure, print a table, write bench.json. A missed goal is a result; a failed measurement is not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shared.bench import capacity, delivery, dns, facts, fanout, fold, history, large, turns, whatif
from shared.bench.result import Document, Goal, Result, encoded, merged, percentile, result
from shared.commands import output as printing
from shared.commands.output import Output
from shared.process.exit_code import ExitCode

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "bench.json"

Step = Callable[[int], None]
T = TypeVar("T")

NO_GOAL = Goal(on="value", op="<=", bound=None)


class Measurement(msgspec.Struct, frozen=True):
    """Something that is run once and gives one or more results. `take` is told which steps of `steps` are done."""

    names: tuple[str, ...]
    title: str
    steps: int
    take: Callable[[Step], Mapping[str, Result]]


def _to_ack(step: Step) -> Mapping[str, Result]:
    delays = _run(delivery.measure_to_ack(step))
    found = {}
    for name, percent, bound in (("apply_to_ack_p50_us", 50, 3.0), ("apply_to_ack_p99_us", 99, None)):
        limit = percentile(delays.bare, percent)
        goal = Goal(on="ratio", op="<=", bound=bound)
        found[name] = result(percentile(delays.changes, percent), "us", limit=limit, goal=goal)
    return found


def _to_answer(step: Step) -> Mapping[str, Result]:
    delays = _run(delivery.measure_to_answer(step))
    goal = Goal(on="value", op="<=", bound=15_000)
    return {"new_mes_to_first_200_p50_us": result(percentile(delays, 50), "us", goal=goal)}


def _fold(step: Step) -> Mapping[str, Result]:
    folded, decoded = fold.measure(step)
    return {"fold_events_per_s": result(folded, "1/s", limit=decoded, goal=Goal(on="ratio", op=">=", bound=0.5))}


def _fanout(step: Step) -> Mapping[str, Result]:
    seen = _run(fanout.measure(step))
    fast, quick = Goal(on="ratio", op="<=", bound=1.3), Goal(on="ratio", op="<=", bound=1.5)
    many, small = Goal(on="value", op=">=", bound=10_000), Goal(on="value", op="<=", bound=60)
    updates, bare_updates = seen.updates_per_core_second, seen.bare_updates_per_core_second
    grown, bare_grown = seen.resident_bytes_per_stream / 1e3, seen.bare_resident_bytes_per_stream / 1e3
    return {
        "fanout_1000_ms": result(seen.fanout_ms, "ms", limit=seen.bare_fanout_ms, goal=fast),
        "proxy_updates_per_core_s": result(updates, "1/s", limit=bare_updates, goal=many),
        "rss_per_proxy_kb": result(grown, "kB", limit=bare_grown, goal=small),
        "initial_sync_10k_x_100_ms": result(seen.sync_ms, "ms", limit=seen.bare_sync_ms, goal=quick),
    }


def _dns(step: Step) -> Mapping[str, Result]:
    seen, bare = _run(dns.measure(step))
    goal = Goal(on="value", op="<=", bound=2_000)
    return {"dns_p99_us": result(seen.p99_us, "us", limit=bare.p99_us, goal=goal)}


def _turns(step: Step) -> Mapping[str, Result]:
    seen = _run(turns.measure(step))
    return {
        "one_change_10k_1000_us": result(seen.change_us, "us", goal=Goal(on="value", op="<=", bound=2_000)),
        "rebuild_10k_ms": result(seen.rebuild_ms, "ms", goal=Goal(on="value", op="<=", bound=300)),
    }


def _large(step: Step) -> Mapping[str, Result]:
    seen = _run(large.measure(step))
    found = {}
    for name, percent in (("change_to_ack_p50_us", 50), ("change_to_ack_p99_us", 99)):
        value, limit = percentile(seen.changes, percent), percentile(seen.bare, percent)
        found[name] = result(value, "us", limit=limit, goal=Goal(on="ratio", op="<=", bound=1.5))
    goal = Goal(on="ratio", op="<=", bound=1.1)
    found["sidecar_rss_10k_mes_mb"] = result(seen.sidecar_bytes / 1e6, "MB", limit=seen.empty_bytes / 1e6, goal=goal)
    return found


def _facts(step: Step) -> Mapping[str, Result]:
    seen = _run(facts.measure(step))
    bounded = Goal(on="value", op="<=", bound=2_000)
    return {"delivery_facts_writes_1000x1000": result(seen.messages, "messages", limit=seen.pushes, goal=bounded)}


def _history(step: Step) -> Mapping[str, Result]:
    seen = history.measure(step)
    twice, soon = Goal(on="ratio", op="<=", bound=2), Goal(on="value", op="<=", bound=300)
    return {
        "asof_first_ms": result(seen.first_ms, "ms", limit=seen.bare_ms, goal=twice),
        "asof_next_ms": result(percentile(seen.next_ms, 95), "ms", goal=soon),
    }


def _whatif(step: Step) -> Mapping[str, Result]:
    seen = _run(whatif.measure(step))
    second = Goal(on="value", op="<=", bound=1_000)
    return {
        "whatif_1000_proxies_ms": result(seen.median_ms, "ms", goal=second),
        "whatif_1000_proxies_first_ms": result(seen.first_ms, "ms", goal=NO_GOAL),
    }


def _capacity(step: Step) -> Mapping[str, Result]:
    return {"zone_rss_10k_mes_mb": result(_run(capacity.measure(step)) / 1e6, "MB", goal=NO_GOAL)}


MEASUREMENTS = (
    Measurement(("apply_to_ack_p50_us", "apply_to_ack_p99_us"), "apply to ACK", delivery.STEPS_TO_ACK, _to_ack),
    Measurement(("new_mes_to_first_200_p50_us",), "new service to 200", delivery.STEPS_TO_ANSWER, _to_answer),
    Measurement(("fold_events_per_s",), "fold", fold.STEPS, _fold),
    Measurement(
        ("fanout_1000_ms", "proxy_updates_per_core_s", "rss_per_proxy_kb", "initial_sync_10k_x_100_ms"),
        "fan-out and first sync",
        fanout.STEPS,
        _fanout,
    ),
    Measurement(("one_change_10k_1000_us", "rebuild_10k_ms"), "one change in 10k", turns.STEPS, _turns),
    Measurement(("dns_p99_us",), "DNS with 10k names", dns.STEPS, _dns),
    Measurement(
        ("change_to_ack_p50_us", "change_to_ack_p99_us", "sidecar_rss_10k_mes_mb"),
        "10k services on Envoys",
        large.STEPS,
        _large,
    ),
    Measurement(("delivery_facts_writes_1000x1000",), "what is written of ACKs", facts.STEPS, _facts),
    Measurement(("asof_first_ms", "asof_next_ms"), "a moment of 1M events", history.STEPS, _history),
    Measurement(
        ("whatif_1000_proxies_ms", "whatif_1000_proxies_first_ms"),
        "a write foretold for 1,000 proxies",
        whatif.STEPS,
        _whatif,
    ),
    Measurement(("zone_rss_10k_mes_mb",), "zone with 10k services", capacity.STEPS, _capacity),
)


def run(*, only: Sequence[str] = (), output: Output = "table") -> int:
    """Measure what `only` names (all when empty); returns the exit code."""
    known = [name for measurement in MEASUREMENTS for name in measurement.names]
    if unknown := [name for name in only if name not in known]:
        sys.stderr.write(f"no measurement {', '.join(unknown)}; there are {', '.join(known)}\n")
        return ExitCode.USAGE
    results: dict[str, Result] = {}
    failed = False
    with _progress() as progress:
        for measurement in MEASUREMENTS:
            wanted = [name for name in measurement.names if not only or name in only]
            if not wanted:
                continue
            bar = progress.add_task(measurement.title, total=measurement.steps)
            try:
                found = measurement.take(lambda steps, bar=bar: progress.advance(bar, steps))  # type: ignore[misc]
            except (KeyboardInterrupt, asyncio.CancelledError):
                return _INTERRUPTED
            except Exception as error:  # noqa: BLE001 - whatever it is: the others are measured, the exit code tells
                failed = True
                progress.console.print(f"[red]{measurement.title} failed:[/red] {type(error).__name__}: {error}")
                continue
            progress.update(bar, completed=measurement.steps)
            results |= {name: found[name] for name in wanted}
    document = _write(results)
    _show(document, results, output)
    return ExitCode.FAILED if failed else ExitCode.OK


_INTERRUPTED = 130
"""128 + SIGINT, the shell's convention."""


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run in a loop of its own; SIGINT and SIGTERM cancel it, so that every process it started is ended."""

    async def main() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        return await task

    return asyncio.run(main())


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress


def _write(results: Mapping[str, Result]) -> Document:
    before = FILE.read_bytes() if FILE.exists() else None
    document = merged(before, results, commit=_commit(), cpus=len(os.sched_getaffinity(0)))
    fresh = FILE.with_suffix(".new")
    fresh.write_bytes(encoded(document))
    fresh.replace(FILE)
    return document


def _commit() -> str:
    with suppress(OSError):
        said = subprocess.run(("git", "rev-parse", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
        return said.stdout.strip()
    return ""


def _show(document: Document, results: Mapping[str, Result], output: Output) -> None:
    if output != "table":
        printing.document(msgspec.to_builtins(document), output)
        return
    printing.table(
        ["NAME", "VALUE", "UNIT", "LIMIT", "RATIO", "GOAL", "MET"], [_row(name, one) for name, one in results.items()]
    )


def _row(name: str, one: Result) -> list[str]:
    goal = "" if one.goal is None else f"{one.goal_on} {one.goal_op} {one.goal:g}"
    met = {None: "", True: "yes", False: "no"}[one.met]
    limit = "" if one.limit is None else f"{one.limit:.0f}"
    ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
    return [name, f"{one.value:.0f}", one.unit, limit, ratio, goal, met]
