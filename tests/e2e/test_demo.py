"""`zonal demo` and `zonal up` as a user runs them: what they print, how they end, that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest

from shared.keys import deployment
from tests.e2e.living import left_behind
from tests.xds.envoys import eventually

pytestmark = pytest.mark.e2e

BASE_PORT = 25700
DEMO_SECONDS = 300
STOP_SECONDS = 90
INTERRUPTED = 130


def zonal(*arguments: str, base_port: int, directory: Path) -> subprocess.Popen[str]:
    place = ["--base-port", str(base_port), "--directory", str(directory)]
    return subprocess.Popen(
        [sys.executable, "-m", "shared.cli", *arguments, *place],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def bounded(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """End the process should it take longer, so that nothing waits for ever."""
    timer = threading.Timer(seconds, process.terminate)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_SECONDS)


def steps(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_story_as_json(tmp_path: Path) -> None:
    """Exit 0, one JSON object per step and nothing else, every check named with what was seen; nothing stays."""
    demo = zonal("demo", "-o", "json", base_port=BASE_PORT, directory=tmp_path)
    with bounded(demo, DEMO_SECONDS):
        out, err = demo.communicate()
    assert (demo.returncode, err) == (0, "")
    told = steps(out)
    assert all(set(step) == {"step", "ok", "ms", "expected", "seen"} for step in told)
    assert [step["ok"] for step in told] == [True] * 11
    assert all(step["expected"] and step["seen"] and step["ms"] >= 0 for step in told)
    assert left_behind(tmp_path) == []
    for log in (tmp_path / "logs").glob("*.log"):
        assert "Traceback" not in log.read_text(errors="replace"), log.name


def test_an_interrupted_story(tmp_path: Path) -> None:
    """SIGINT in the middle stops everything in order: the shell's code for it, and nothing stays."""
    demo = zonal("demo", "-o", "json", base_port=BASE_PORT, directory=tmp_path)
    with bounded(demo, DEMO_SECONDS):
        assert demo.stdout is not None
        assert json.loads(demo.stdout.readline())["ok"]
        assert left_behind(tmp_path)
        demo.send_signal(signal.SIGINT)
        _, err = demo.communicate()
    assert (demo.returncode, err) == (INTERRUPTED, "")
    assert left_behind(tmp_path) == []


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """What cannot work fails: non-zero, what was expected and what was seen instead, and nothing stays."""
    with socket.create_server(("127.0.0.1", BASE_PORT + 2)), socket.create_server(("127.0.0.1", BASE_PORT + 24)):
        demo = zonal("demo", "-o", "json", base_port=BASE_PORT, directory=tmp_path)
        with bounded(demo, DEMO_SECONDS):
            out, err = demo.communicate()
    assert (demo.returncode, err) == (1, "")
    (step,) = steps(out)
    assert (step["ok"], step["expected"]) == (False, "every process is up")
    assert f"address already in use: 127.0.0.1:{BASE_PORT + 2} (global nats), " in step["seen"]
    assert f"127.0.0.1:{BASE_PORT + 24} (east dns)" in step["seen"]
    assert "--base-port" in step["seen"]
    assert left_behind(tmp_path) == []


@contextmanager
def up(directory: Path) -> Iterator[str]:
    """`zonal up` until its hints are there; leaving it is Ctrl-C."""
    process = zonal("up", base_port=BASE_PORT, directory=directory)
    with bounded(process, DEMO_SECONDS):
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        else:
            pytest.fail("zonal up ended early:\n" + "".join(said))
        yield "".join(said)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert left_behind(directory) == []


def ask(directory: Path, command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli", *command.split()[1:]],
        env={**os.environ, deployment.CONTEXT_VARIABLE: str(directory / "context.yaml")},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def given(directory: Path) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    """VIP and hostnames of every service in every zone."""
    listed = json.loads(ask(directory, "zonal get meshexternalservices -o json"))
    return {(row["zone"], row["name"]): (row["vip"], tuple(row["hostnames"])) for row in listed["status"]}


def test_up_stays_and_is_taken_up_again(tmp_path: Path) -> None:
    """Its hints work while it stays; Ctrl-C ends it with 0; a second start gives the same VIPs and hostnames."""
    with up(tmp_path) as said:
        hints = [line.strip() for line in said.splitlines()]
        for hint in [line for line in hints if line.startswith("zonal ") and "--follow" not in line]:
            assert ask(tmp_path, hint).strip(), hint
        digs = [line.split() for line in hints if line.startswith("dig ")]
        assert len(digs) == 2
        curls = [line.split("#")[0].split() for line in hints if line.startswith("curl ")]
        assert len(curls) == 2
        for _, url in curls:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert json.load(answer)["sni"] == "payments.example.test"
        assert any(line.startswith("export PATH=") for line in hints) == (shutil.which("zonal") is None)
        for _, server, _, port, _, name, *_ in digs:
            answer = dns.query.udp(dns.message.make_query(name, "A"), server[1:], port=int(port), timeout=5)
            assert answer.answer
        before = given(tmp_path)
        assert len(before) == 6
        assert all(vip and names for vip, names in before.values())
    with up(tmp_path) as said:
        assert "taking up the deployment" in said
        eventually(lambda: given(tmp_path) == before, "the same VIPs and names", STOP_SECONDS)
