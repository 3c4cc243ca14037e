"""Set-up: the Makefile's targets and the lock files."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TARGETS = [
    "setup",
    "demo",
    "demo-netns",
    "up",
    "test",
    "check",
    "bench",
    "sim",
    "soak",
    "fuzz",
    "golden",
    "lock",
    "clean",
]


def make(*arguments: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    # Under `make test` this would be a sub-make, which talks about directories.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    environment["PATH"] = path
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_help_lists_every_target() -> None:
    """`make help`, and `make` alone, name all targets."""
    shown = make("help")
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["help", *TARGETS]
    assert make().stdout == shown.stdout


def test_the_systems_python_installs() -> None:
    """Also for who has .venv/bin first on the PATH, as an activated venv has it: that one has no pip."""
    planned = make("--dry-run", "-W", "deploy/lock/dev.txt", "setup", path=f"{ROOT}/.venv/bin:{os.environ['PATH']}")
    (line,) = [line for line in planned.stdout.splitlines() if " -m pip " in line]
    assert not line.startswith(f"{ROOT}/.venv/")


@pytest.mark.parametrize("target", ["soak", "fuzz"])
def test_what_is_not_built_says_so(target: str) -> None:
    """A target that is not built yet prints so and exits with 2."""
    done = make(target)
    assert done.returncode == 2
    assert f"make {target} is not built yet" in done.stderr


def normal(requirement: str) -> str:
    """The name of a requirement, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", requirement)[0]).lower()


@pytest.mark.parametrize("lock", ["runtime", "dev"])
def test_locks_are_hashed_and_name_no_host(lock: str) -> None:
    """Every locked requirement is pinned and hashed; no line names where it comes from; all we ask for is there."""
    text = (ROOT / "deploy" / "lock" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]
    blocks = re.findall(r"^(\S+)==\S+.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        assert not block.strip() or ("==" in block and "--hash=sha256:" in block), block[:80]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + (project["dependency-groups"]["dev"] if lock == "dev" else [])
    assert {normal(one) for one in wanted} <= {normal(one) for one in blocks}


def test_the_development_lock_contains_the_runtime_lock() -> None:
    """Tests run on exactly the versions that users get."""
    runtime, dev = (
        set(re.findall(r"^\S+==\S+", (ROOT / "deploy" / "lock" / f"{lock}.txt").read_text(), re.MULTILINE))
        for lock in ("runtime", "dev")
    )
    assert runtime <= dev
