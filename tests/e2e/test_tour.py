"""The README's tour, run as it is written, in a fresh directory beside a running `zonal up`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
READY = "Ctrl-C"
STOP_SECONDS = 60
BASE_PORT = 18000


def tour() -> list[str]:
    """The commands between the tour's marks."""
    text = (ROOT / "README.md").read_text()
    marked = re.search(r"<!-- tour: begin -->(.*?)<!-- tour: end -->", text, re.DOTALL)
    assert marked is not None, "the README has lost its tour"
    return [line.removeprefix("$ ") for line in marked[1].splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which `zonal up` runs."""
    directory = tmp_path_factory.mktemp("tour")
    up = subprocess.Popen(
        [sys.executable, "-m", "shared.cli", "up", "--base-port", str(BASE_PORT)],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert up.stdout is not None
    said = []
    try:
        for line in up.stdout:
            said.append(line)
            if READY in line:
                break
        else:
            pytest.fail("zonal up ended early:\n" + "".join(said))
        yield directory
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize("command", tour())
def test_every_command_of_the_tour_works(playground: Path, command: str) -> None:
    """It ends well and prints something."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=playground,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_tour_is_not_empty() -> None:
    """It shows resources, events, proxies and history."""
    words, shown = " ".join(tour()), ("get", "events", "inspect", "explain", "diff", "replay", "bisect")
    assert all(f"zonal {command}" in words for command in shown)
