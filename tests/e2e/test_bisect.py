"""`zonal bisect` as a user runs it: a file of the past, real Envoys, a real upstream and `curl`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.events.event import ProxyConnected
from shared.events.history import History
from shared.history.bundle import write_bundle
from shared.model.resource import ResourceKey
from tests.builders import LogBuilder, ZoneBuilder, applied, at, dataplane, egress, generator, mes, mesh
from tests.conftest import take_port
from tests.xds.envoys import eventually
from tests.xds.servers import Server, Servers

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
NOISE = 16
"""Other services that come, move and go around the one that is looked at; the zone decides about each."""
BY_NAME = 'curl -sSf -m 10 -o /dev/null -K "$ZONAL_BISECT_CURL" http://payments.ext.local/'
SECONDS = 120
COMMAND = (sys.executable, "-m", "shared.cli", "bisect", "--bundle")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Server]:
    """What payments calls."""
    with Servers() as servers:
        yield servers.add("payments")


@pytest.fixture(scope="module")
def dead() -> int:
    """A port at which nobody listens."""
    return take_port()


@pytest.fixture(scope="module")
def past(upstream: Server, dead: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About sixty events; in the middle mallory moves payments to where nobody listens."""
    hub, zone = LogBuilder(), ZoneBuilder()
    hub.append(applied(mesh()), applied(generator()), applied(mes(endpoints=(f"127.0.0.1:{upstream.port}",))))
    zone.apply(egress(), dataplane(transparentProxying={"redirectPortOutbound": 15001}))
    keys = {
        ".egress-1": ResourceKey("ZoneEgress", "", "egress-1", "east"),
        "default.web-1": ResourceKey("Dataplane", "default", "web-1", "east"),
    }
    for proxy, key in keys.items():
        zone.write(ProxyConnected(proxy, key, "1", ("redirect", "access-log=/var/log/of/the/host"), "/no/such/ca.pem"))
    zone.follow(hub)
    for number in range(NOISE):
        if number == NOISE // 2:
            wrong = mes(endpoints=(f"127.0.0.1:{dead}",))
            hub.append(applied(wrong), seconds=number, actor="mallory@example.com")
        hub.append(applied(mes(f"other-{number}", endpoints=(f"10.0.0.{number}:443",))), seconds=number, actor="ci")
        zone.follow(hub)
    file = tmp_path_factory.mktemp("past") / "past.bundle"
    write_bundle(History.of(hub.events, {"east": zone.own.events}), file, time=at(99))
    return file


def bisect(past: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return subprocess.run(
        [*COMMAND, str(past), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_the_event_that_broke_a_service_is_found_by_curl(past: Path) -> None:
    """By its hostname, through a sidecar and a zone egress that have never seen the running system."""
    done = bisect(past, "--good", "3", "--proxy", "default.web-1", "--check", BY_NAME, "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["count"] == 1
    (event,) = told["events"]
    assert event["actor"] == "mallory@example.com"
    assert [change["path"] for change in event["changes"]] == ["spec.endpoints[address=127.0.0.1].port"]
    assert told["steps"] <= 7
    assert "step 1 of about 6" in done.stderr
    assert "/no/such/ca.pem, the proxy's system CA, is not here" in done.stderr


def test_a_probe_finds_it_without_a_command(past: Path) -> None:
    """A request by the hostname of the service; 503 is what the sidecar says when nobody listens."""
    words = ("--good", "3", "--proxy", "default.web-1", "--probe", "http://payments.ext.local/")
    done = bisect(past, *words, "-o", "json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [event["actor"] for event in told["events"]] == ["mallory@example.com"]
    assert told["reason"] == "the answer is 503"
    both = bisect(past, *words, "--check", "true")
    assert (both.returncode, "give one of --check, --probe and --predicate" in both.stderr) == (2, True)
    assert bisect(past, *words[:-1], "ftp://x").returncode == 2


def test_an_end_that_is_not_as_claimed_is_told_at_once(past: Path, upstream: Server, dead: int) -> None:
    """Here because an endpoint map leads the broken endpoint to where somebody listens: then nothing is broken."""
    mapped = f"127.0.0.1:{dead}=127.0.0.1:{upstream.port}"
    words = ("--good", "3", "--proxy", "default.web-1", "--check", BY_NAME, "--endpoint-map", mapped)
    done = bisect(past, *words)
    assert done.returncode == 3
    assert "the bad moment is not bad: it is good (the check passed)" in done.stderr
    assert "step" not in done.stderr
    assert not done.stdout


def test_a_predicate_needs_no_envoy(past: Path, upstream: Server) -> None:
    """The same event by its field, as a person reads it."""
    done = bisect(past, "--good", "3", "--predicate", f"field mes/payments spec.endpoints[0].port == {upstream.port}")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("12 by mallory@example.com at ")
    assert f"    - spec.endpoints[address=127.0.0.1].port: {upstream.port}" in rest
    wrong = bisect(past, "--good", "3", "--predicate", "hostname x is gone")
    assert wrong.returncode == 2
    assert "is none of: cluster|" in wrong.stderr


def test_nothing_is_left_when_it_is_interrupted(past: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a check ends the check, the Envoys and the directory."""
    note = tmp_path / "note"
    check = f'echo "$PPID $$ $ZONAL_BISECT_CURL $ZONAL_BISECT_ADMIN" > {note}.new; mv {note}.new {note}; sleep 600'
    running = subprocess.Popen(
        [*COMMAND, str(past), "--good", "3", "--proxy", "default.web-1", "--check", check, "--timeout", "500"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        print(line)
        if "the good end" in line:
            break
    eventually(lambda: note.exists() or running.poll() is not None, "the check to run", SECONDS)
    _, shell, curl, _ = note.read_text().split()
    running.send_signal(signal.SIGINT)
    assert running.wait(SECONDS) == 1
    assert not Path(curl).parent.exists()
    assert not Path(f"/proc/{shell}").exists()
    assert re.search("interrupted", running.stderr.read())
