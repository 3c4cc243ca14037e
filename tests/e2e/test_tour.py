"""The README's tour, run as it is written, in a fresh directory beside a running `zonal up`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.xds.envoys import eventually

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
READY = "Ctrl-C"
STOP_SECONDS = 60
BASE_PORT = 18000


def marked() -> str:
    """What stands between the tour's marks."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- tour: begin -->(.*?)<!-- tour: end -->", text, re.DOTALL)
    assert found is not None, "the README has lost its tour"
    return found[1]


def tour() -> list[str]:
    """Its commands."""
    return [line.removeprefix("$ ") for line in marked().splitlines() if line.startswith("$ ")]


def files() -> dict[str, str]:
    """What is to be saved, by the name that the words before it end with."""
    return dict(re.findall(r"as `([^`]+)`:\n\n```yaml\n(.*?)```", marked(), re.DOTALL))


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in which `zonal up` runs."""
    directory = tmp_path_factory.mktemp("tour")
    for name, text in files().items():
        (directory / name).write_text(text)
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
        timeout=2 * STOP_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def zonal(playground: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.cli", *words],
        cwd=playground,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * STOP_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


def told(playground: Path, *words: str) -> Any:
    """What a command says as JSON."""
    code, text = zonal(playground, *words, "-o", "json")
    assert code == 0, text
    return json.loads(text)


def facts(playground: Path) -> dict[tuple[str, str], str]:
    """VIP and names of payments in every zone."""
    found = told(playground, "blame", "mes", "payments")["facts"]
    return {(one["zone"], one["what"]): one["value"] for one in found}


def test_the_night_was_taken_back(playground: Path) -> None:
    """What the night shift wrote is gone, and the undo says whose event it took back."""
    name = told(playground, "get", "mes", "payments")["spec"]["tls"]["verification"]["serverName"]
    assert name == "payments.example.test"
    bad = int((playground / "bad").read_text())
    last = told(playground, "events", "--kind", "mes", "--limit", "1")["items"][-1]
    assert [one["moment"] for one in told(playground, "show", str(last["n"]))["causes"]] == [str(bad)]
    assert told(playground, "show", str(bad))["row"]["actor"] == "night-shift"


def test_the_external_service_is_the_seeds_and_ready(playground: Path) -> None:
    """The README shows the page's own YAML; every zone gives it its names."""
    assert files() == {"httpbin.yaml": (ROOT / "tests/e2e/seeds/legacy-httpbin-universal.yaml").read_text()}

    def counted() -> list[int]:
        code, text = zonal(playground, "get", "externalservices")
        assert code == 0
        return [text.count(one) for one in ("httpbin.mesh", "httpbin.org", "Ready=True")]

    eventually(lambda: counted() == [2, 2, 2], "it is ready in both zones", STOP_SECONDS)


def test_what_was_deleted_comes_back_with_its_address_and_its_names(playground: Path) -> None:
    """An undo, and the undo of that; as long as they are kept, VIP and names are the same ones (decision 15)."""
    before, resource = facts(playground), told(playground, "get", "mes", "payments")["spec"]
    assert len(before) == 8
    assert zonal(playground, "delete", "mes", "payments")[0] == 0
    n = told(playground, "events", "--kind", "ResourceDeleted", "--name", "payments")["items"][-1]["n"]
    eventually(lambda: len(told(playground, "show", str(n))["effects"]) == 8, "what follows", STOP_SECONDS)
    assert zonal(playground, "undo", str(n))[0] == 2
    (result,) = told(playground, "undo", str(n), "--yes")["results"]
    eventually(lambda: facts(playground) == before, "all that was", STOP_SECONDS)
    assert told(playground, "get", "mes", "payments")["spec"] == resource
    again = told(playground, "show", str(result["version"]))
    assert [one["moment"] for one in again["causes"]] == [str(n)]

    def served() -> list[int]:
        zones = told(playground, "show", str(result["version"]))["served"]
        return sorted(len(group["proxies"]) for zone in zones for group in zone["groups"])

    eventually(lambda: served() == [1, 1, 1, 1], "what each proxy was served", STOP_SECONDS)
    assert told(playground, "undo", str(result["version"]), "--yes")["results"][0]["outcome"] == "deleted"
    assert zonal(playground, "undo", str(n), "--yes")[0] == 0
    fact = told(playground, "events", "--zone", "east", "--kind", "Vip")["items"][-1]["n"]
    assert zonal(playground, "undo", f"east:{fact}", "--yes")[0] == 3


def test_the_tour_is_not_empty() -> None:
    """It shows resources, events, proxies and history."""
    words = " ".join(tour())
    history = (
        "events",
        "show",
        "trace",
        "blame",
        "whatif",
        "undo",
        "replay",
        "diff",
        "explain",
        "bisect",
        "verify",
        "bundle",
    )
    shown = ("get", "inspect", "apply", "migrate externalservice", *history)
    assert all(f"zonal {command}" in words for command in shown)
