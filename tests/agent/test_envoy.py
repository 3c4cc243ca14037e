"""Envoy as a child: found, restarted within bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from zone_cp.agent import envoy as agent_envoy
from zone_cp.agent.envoy import MAX_RESTARTS, Envoy, EnvoyFailed, EnvoyNotFound, find_envoy

pytestmark = pytest.mark.anyio


async def test_crash_loop_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary that always ends is tried a bounded number of times; what it said last is in the error."""
    monkeypatch.setattr(agent_envoy, "RESTART_BASE_SECONDS", 0.001)
    child = Envoy(Path("/bin/sh"), ["-c", f"echo run >> {tmp_path}/runs; echo 'no such flag'; exit 3"], tmp_path / "a")
    with pytest.raises(EnvoyFailed, match=r"the last time with 3:\n(.*\n)*no such flag"):
        await asyncio.wait_for(child.run(), 30)
    assert len((tmp_path / "runs").read_text().split()) == MAX_RESTARTS + 1
    assert child.restarts == MAX_RESTARTS


async def test_endless_line_does_not_stop_the_relay(tmp_path: Path) -> None:
    """Output beyond the limit of a line is dropped; the child neither blocks nor is forgotten."""
    script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done; exec sleep 60"
    child = Envoy(Path("/bin/sh"), ["-c", script], tmp_path / "a")
    running = asyncio.create_task(child.run())
    async with asyncio.timeout(20):
        while "done" not in child._last_lines:  # noqa: ASYNC110 - what a child has said has no event
            await asyncio.sleep(0.02)
    await child.stop(0)
    await asyncio.wait_for(running, 10)
    assert child.pid is None


async def test_a_dropped_listener_is_told(tmp_path: Path) -> None:
    """Envoy says in its log alone that it could not listen at what it had accepted."""
    line = "[2026-11-26 15:01:03.550][1][error][config] [source/l.cc:873] final pre-worker listener init for listener"
    heard: list[tuple[str, str]] = []
    script = f"echo \"{line} 'outbound/127.0.0.1:80' failed: cannot listen() errno=98\"; echo done; exec sleep 60"
    child = Envoy(Path("/bin/sh"), ["-c", script], tmp_path / "a", lambda name, reason: heard.append((name, reason)))
    running = asyncio.create_task(child.run())
    async with asyncio.timeout(20):
        while "done" not in child._last_lines:  # noqa: ASYNC110 - what a child has said has no event
            await asyncio.sleep(0.02)
    assert heard == [("outbound/127.0.0.1:80", "cannot listen() errno=98")]
    assert child.lost == dict(heard)
    await child.stop(0)
    await asyncio.wait_for(running, 10)


def test_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was given wins over $ENVOY, that over the wheel; a name that is nothing is refused."""
    monkeypatch.setenv("ENVOY", "/bin/true")
    assert find_envoy() == Path("/bin/true").resolve()
    assert find_envoy("/bin/sh") == Path("/bin/sh").resolve()
    with pytest.raises(EnvoyNotFound, match="nothing"):
        find_envoy(str(tmp_path / "nothing"))
    monkeypatch.delenv("ENVOY")
    assert find_envoy().name == "envoy"
