"""`zonal demo --netns`: zones as network namespaces with the real VIP range, and nothing left of them afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.demo import namespaces
from shared.demo.namespaces import Namespaces, Unavailable
from tests.xds.envoys import eventually

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BASE_PORT = 27100 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Only names the namespaces: their ports are their own."""
DEMO_SECONDS = 300
"""A sixth of it on an idle machine; others may share the cores."""
STOP_SECONDS = 90
INTERRUPTED = 130


@pytest.fixture
def as_root(netns_prefix: list[str]) -> None:
    """Skips where namespaces would have to be made in a user namespace: the proxies need users of their own."""
    if netns_prefix:
        pytest.skip("the demo in network namespaces needs root: unshare -Urnm has one user only")
    if not shutil.which("curl"):
        pytest.skip("needs curl")


def traces() -> dict[str, str]:
    """What the host's network looks like: namespaces, links, addresses, rules, files of ours."""
    shown = {
        " ".join(command): subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (
            ["ip", "netns", "list"],
            ["ip", "-brief", "link"],
            ["ip", "-brief", "-4", "address"],
            ["ip", "rule"],
            ["nft", "list", "tables"],
        )
    }
    # Other tests make namespaces too: only the ones of this demo count.
    ours = [line for line in shown["ip netns list"].splitlines() if line.startswith(f"zonal-{BASE_PORT}-")]
    configured = sorted(path.name for path in Path("/etc/netns").glob(f"zonal-{BASE_PORT}-*"))
    return {**shown, "ip netns list": "\n".join(ours), "/etc/netns": ", ".join(configured)}


def processes_of(directory: Path) -> list[str]:
    """Command lines of all processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{directory}/d/" in words:
            found.append(words)
    return found


@pytest.fixture
def nothing_left(as_root: None, tmp_path: Path) -> Iterator[None]:
    """After the test the host is as it was before."""
    before = traces()
    yield
    assert traces() == before
    assert before["ip netns list"] == before["/etc/netns"] == ""
    assert processes_of(tmp_path) == []


def start(directory: Path) -> subprocess.Popen[str]:
    """The demo, in a session of its own."""
    command = [sys.executable, "-m", "shared.cli", "demo", "--netns", "-o", "json"]
    return subprocess.Popen(
        [*command, "--base-port", str(BASE_PORT), "--directory", str(directory / "d")],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.netns
def test_the_whole_story(nothing_left: None, tmp_path: Path) -> None:
    """Every step is ok: the same VIPs in both zones, curl by hostname, a cut by taking the link down."""
    demo = start(tmp_path)
    try:
        out, err = demo.communicate(timeout=DEMO_SECONDS)
    finally:
        stop(demo)
    steps: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert [step for step in steps if not step["ok"]] == [], err
    assert demo.returncode == 0, err
    told = " ".join(step["expected"] for step in steps)
    for zone in ("east", "west"):
        assert f"{zone}: getaddrinfo finds the VIP" in told
        assert f"{zone}: curl http://payments.ext.mesh:8443/" in told
        assert f"{zone}: its sidecar got no xDS resource for it" in told
        assert f"{zone}: the application has no way there" in told
        assert f"{zone}: no rule is left" in told
    assert "every service has the same VIP in both zones" in told
    assert "both sides converged" in told
    assert {"step", "ok", "ms", "expected", "seen"} == set(steps[0])


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_an_interrupted_demo(nothing_left: None, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C takes everything away; after kill -9 all processes end by themselves, and the next run cleans up."""
    demo = start(tmp_path)
    try:
        assert demo.stdout is not None
        assert json.loads(demo.stdout.readline())["ok"]
        demo.send_signal(number)
        demo.wait(STOP_SECONDS)
    finally:
        stop(demo)
    if number == signal.SIGINT:
        assert demo.returncode == INTERRUPTED
        return
    assert traces()["ip netns list"], "kill -9 leaves the namespaces"
    eventually(lambda: not processes_of(tmp_path), "the processes of the demo to end", STOP_SECONDS)
    after = Namespaces(BASE_PORT)
    after.open()
    after.close()


def stop(demo: subprocess.Popen[str]) -> None:
    """End it properly if it still runs."""
    if demo.poll() is None:
        demo.send_signal(signal.SIGINT)
        demo.wait(STOP_SECONDS)


@pytest.mark.netns
def test_a_failure_half_way_leaves_nothing(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a namespace cannot be made, those made before it go again."""
    made = namespaces._ip

    def fails(*arguments: str) -> str:
        if "uidrange" in arguments:
            raise Unavailable("no such rule")
        return made(*arguments)

    monkeypatch.setattr(namespaces, "_ip", fails)
    with pytest.raises(Unavailable, match="no such rule"):
        Namespaces(BASE_PORT).open()


@pytest.mark.netns
def test_somebody_elses_run_is_left_alone(nothing_left: None) -> None:
    """While processes run in namespaces of the same name, a second demo refuses; a closing one ends its own."""
    first = Namespaces(BASE_PORT)
    first.open()
    try:
        inside = subprocess.Popen(first.argv("east", ["sleep", "60"]))
        place = f"zonal-{BASE_PORT}-east"
        eventually(lambda: inside.pid in namespaces._pids(place), "somebody in the namespace", STOP_SECONDS)
        with pytest.raises(Unavailable, match="choose another --base-port"):
            Namespaces(BASE_PORT).open()
    finally:
        first.close()
    assert inside.wait(STOP_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize(
    "tool, package", [("ip", "iproute2"), ("nft", "nftables"), ("curl", "curl"), ("setpriv", "util-linux")]
)
def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch, tool: str, package: str) -> None:
    """The error says which package to install."""
    monkeypatch.setattr(shutil, "which", lambda name: None if name == tool else f"/usr/bin/{name}")
    with pytest.raises(Unavailable, match=f"apt-get install {package}$"):
        Namespaces(BASE_PORT).open()


def test_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says that root is needed, and what works without."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="need root"):
        Namespaces(BASE_PORT).open()
