"""What the test suite itself promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUITE = """
import pytest

@pytest.mark.netns
def test_needs_namespaces():
    pytest.skip("no namespaces here")

def test_skips_for_another_reason():
    pytest.skip("other")
"""


@pytest.mark.parametrize("required, code, words", [("", 0, "2 skipped"), ("1", 1, "1 failed, 1 skipped")])
def test_a_skip_for_want_of_namespaces_can_be_made_a_failure(
    tmp_path: Path, required: str, code: int, words: str
) -> None:
    """ZONAL_REQUIRE_NETNS=1 fails what needs namespaces and finds none; the summary names every skipped test."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_runtest_makereport\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = netns: namespaces\naddopts = -ra\n")
    (tmp_path / "test_it.py").write_text(SUITE)
    environment = {**os.environ, "ZONAL_REQUIRE_NETNS": required, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
    assert "test_it.py" in done.stdout.partition("short test summary")[2]
