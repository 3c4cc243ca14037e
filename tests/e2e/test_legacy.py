"""Legacy ExternalServices in a network namespace: real redirect, DNS and Envoys, and an application that knows none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.netns]

ROOT = Path(__file__).parents[2]


def test_external_services_are_reached_in_every_way(netns_prefix: list[str]) -> None:
    """Three ways to a service, TLS origination, passthrough on and off; from the sidecar and through the egress."""
    if netns_prefix:
        pytest.skip("needs a second user in the namespace: the redirect excludes the proxy's own")
    command = ["unshare", "-n", "-m", sys.executable, "-m", "tests.e2e.legacy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
