"""The agent's DNS table and its copy on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared.pb import agent_pb2 as pb
from zone_cp.agent import app
from zone_cp.agent.app import Names
from zone_cp.agent.dns_table import NameTable, store

pytestmark = pytest.mark.anyio


def update(number: int) -> pb.DnsUpdate:
    return pb.DnsUpdate(version=str(number), upsert=[pb.DnsName(name=f"n{number}.mesh", ip="242.0.0.1")])


async def test_changes_that_come_together_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They answer at once and are written a moment later, all of them at one time."""
    written = asyncio.Queue[bytes]()
    loop = asyncio.get_running_loop()

    def noted(path: Path, data: bytes) -> None:
        store(path, data)
        loop.call_soon_threadsafe(written.put_nowait, data)

    monkeypatch.setattr(app, "store", noted)
    path = tmp_path / "dns.json"
    names = Names(path, None)
    for number in range(20):
        names.apply(update(number))
        await asyncio.sleep(0)
    assert len(names.table) == 20
    assert not path.exists()
    async with asyncio.timeout(30):
        data = await written.get()
    kept = NameTable()
    kept.load(data)
    assert (kept.version, len(kept)) == ("19", 20)
    await names.stop()
    assert written.empty()


async def test_a_stop_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest table is on disk when the agent has stopped, however long a table may wait."""
    monkeypatch.setattr(app, "STORE_SECONDS", 1000.0)
    path = tmp_path / "dns.json"
    names = Names(path, None)
    names.apply(update(1))
    names.apply(update(2))
    async with asyncio.timeout(30):
        await names.stop()
    found = Names(path, None)
    found.load()
    assert (found.table.version, dict(found.table.names)) == ("2", {"n1.mesh": "242.0.0.1", "n2.mesh": "242.0.0.1"})
