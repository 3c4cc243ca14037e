"""MeshPassthrough in a network namespace: a real redirect, real Envoys, an application that knows nothing of either."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

ROOT = Path(__file__).parents[2]


def test_undeclared_destinations_are_reached_as_policies_say(netns_prefix: list[str]) -> None:
    """By mode, by Host, by server name and wildcard, by address and port; VIPs always work."""
    if netns_prefix:
        pytest.skip("needs a second user in the namespace: the redirect excludes the proxy's own")
    command = ["unshare", "-n", sys.executable, "-m", "tests.e2e.undeclared"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
