"""Cross-mesh listeners in a network namespace: a real redirect, and one listener of the sidecar for all VIPs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

ROOT = Path(__file__).parents[2]


def test_a_redirected_application_reaches_gateways_of_other_meshes(netns_prefix: list[str]) -> None:
    """By VIP and port, beside what is let out; an address whose listener is gone leads nowhere."""
    if netns_prefix:
        pytest.skip("needs a second user in the namespace: the redirect excludes the proxy's own")
    command = ["unshare", "-n", "-m", sys.executable, "-m", "tests.e2e.cross_mesh"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
