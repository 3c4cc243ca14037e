"""The command around the measurements."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from shared.bench import capacity, delivery, dns, dns_load, facts, fanout, fold, history, large, turns
from shared.bench import run as bench
from shared.bench.result import Goal, Result, result
from shared.history.generate import Size

MISSED = result(9, "us", limit=1, goal=Goal(on="ratio", op="<=", bound=3.0))


REAL = bench.MEASUREMENTS


def _misses(step: Callable[[int], None]) -> Mapping[str, Result]:
    step(1)
    return {"a": MISSED, "b": MISSED}


def _fails(_: Callable[[int], None]) -> Mapping[str, Result]:
    raise OSError("no ports")


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bench.json of the test, and measurements that take no time: one pair whose goal is missed, one that fails."""
    path = tmp_path / "bench.json"
    monkeypatch.setattr(bench, "FILE", path)
    quick = bench.Measurement(("a", "b"), "quick", 2, _misses)
    monkeypatch.setattr(bench, "MEASUREMENTS", (bench.Measurement(("c",), "broken", 1, _fails), quick))
    return path


def names(path: Path) -> list[str]:
    """Names of the results in a file."""
    return sorted(json.loads(path.read_text())["results"])


def test_a_missed_goal_is_no_failure(file: Path) -> None:
    """A run whose goals are missed exits with 0 and says so in its file."""
    assert bench.run(only=("a", "b")) == 0
    assert json.loads(file.read_text())["results"]["a"]["met"] is False


def test_a_failed_measurement_fails_the_run_and_keeps_the_others(file: Path) -> None:
    """A measurement that fails makes the exit code 1; what could be measured is written."""
    assert bench.run() == 1
    assert names(file) == ["a", "b"]


def test_only_what_was_asked_for_is_reported(file: Path) -> None:
    """A partial run writes the names it was given, even where one measurement gives several."""
    assert bench.run(only=("b",)) == 0
    assert names(file) == ["b"]


def test_an_unknown_name_is_a_usage_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that nothing measures is refused with the names there are, before anything runs."""
    assert bench.run(only=("d",)) == 2
    assert "a, b" in capsys.readouterr().err
    assert not file.exists()


def test_the_names_are_those_of_the_issue() -> None:
    """The real measurements have the agreed names and sizes."""
    assert {name for one in REAL for name in one.names} == {
        "apply_to_ack_p50_us",
        "apply_to_ack_p99_us",
        "new_mes_to_first_200_p50_us",
        "change_to_ack_p50_us",
        "change_to_ack_p99_us",
        "sidecar_rss_10k_mes_mb",
        "fanout_1000_ms",
        "proxy_updates_per_core_s",
        "rss_per_proxy_kb",
        "initial_sync_10k_x_100_ms",
        "fold_events_per_s",
        "one_change_10k_1000_us",
        "rebuild_10k_ms",
        "dns_p99_us",
        "asof_first_ms",
        "asof_next_ms",
        "whatif_1000_proxies_ms",
        "whatif_1000_proxies_first_ms",
        "zone_rss_10k_mes_mb",
        "delivery_facts_writes_1000x1000",
    }
    assert delivery.CHANGES == 200
    assert fanout.STREAMS == 1_000
    assert (fanout.SYNC_STREAMS, fanout.SYNC_CLUSTERS) == (100, 10_000)
    assert (large.SERVICES, large.CHANGES) == (10_000, 200)
    assert fold.EVENTS == 100_000
    assert (facts.PROXIES, facts.CHANGES) == (1_000, 1_000)
    assert (turns.SERVICES, turns.SIDECARS) == (10_000, 1_000)
    assert (dns.NAMES, dns_load.QUERIES_PER_SECOND) == (10_000, 5_000)
    assert Size(events=1_000_000, resources=10_000, proxies=1_000) == history.SIZE
    assert capacity.SERVICES == 10_000


def test_a_moment_is_measured_on_a_real_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The past is made once; first, bare and further answers are times of work that was done."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(history, "SIZE", Size(events=3000, resources=120, proxies=8))
    monkeypatch.setattr(history, "MOMENTS", 3)
    steps: list[int] = []
    seen = [history.measure(steps.append) for _ in range(2)]
    assert all(one.first_ms > 0 and one.bare_ms > 0 and len(one.next_ms) == 3 for one in seen)
    assert sum(steps) == 2 * history.STEPS
    assert len(list(tmp_path.iterdir())) == 1
