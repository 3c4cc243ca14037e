"""The agent against the zone's own ADS server: both ends of both streams are the product's."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import pytest
from immutables import Map

from shared.events.state import Position
from shared.keys.pki import create_authority, issue
from tests.agent.control_plane import WAIT_SECONDS, on_grpc_loop
from tests.e2e.test_agent_proxy import DATAPLANE, RUN, TOKEN
from zone_cp.ads.names import DnsTable
from zone_cp.ads.server import Admission, Admitted, AdsServer, NodeInfo, TlsFiles
from zone_cp.xds.snapshot import Snapshot

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


class Zone:
    """An ADS server that admits whoever shows the token, and what its callbacks were told."""

    def __init__(self, certificate: str, key: str) -> None:
        self.told: list[tuple[str, str]] = []
        self.server = AdsServer(
            "127.0.0.1",
            0,
            TlsFiles(certificate.encode(), key.encode()),
            admit=self._admit,
            on_connected=lambda proxy, _connection, _node: self.told.append(("connected", proxy)),
            on_disconnected=lambda _proxy, _connection, reason: self.told.append(("disconnected", reason)),
            on_ack=lambda _proxy, _ack: None,
            on_nack=lambda _proxy, nack: self.told.append(("nack", nack.message)),
            on_observation=lambda _proxy, seen: self.told.append(("observed", seen.cluster)),
        )

    async def _admit(self, node: NodeInfo, token: str | None) -> Admission:
        assert token == TOKEN
        return Admitted(node.id)

    @on_grpc_loop
    async def start(self) -> int:
        self.server.offer("default.app", Snapshot(Position(1, 1), Map()))
        self.server.offer_dns("default.app", DnsTable("a", Map({"payments.ext.mesh": "242.0.0.1"}), 5))
        return await self.server.start()

    @on_grpc_loop
    async def change(self, version: str, names: dict[str, str]) -> None:
        self.server.offer_dns("default.app", DnsTable(version, Map(names), 5))
        await self.server.agents.dns_acked("default.app", version, WAIT_SECONDS)

    @on_grpc_loop
    async def stop(self) -> None:
        await self.server.stop(2)


async def test_names_and_drain(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Tables reach the agent whole and by difference, and a control plane that stops lets its proxies go on."""
    authority, key = create_authority(datetime.now(UTC))
    zone = Zone(*issue(authority, key, name="cp", hosts=["127.0.0.1"], now=datetime.now(UTC), server=True))
    port = await zone.start()
    (tmp_path / "ca.pem").write_text(authority)
    (tmp_path / "token").write_text(TOKEN)
    settings = {
        "kind": "sidecar",
        "cp_address": f"https://127.0.0.1:{port}",
        "ca_cert_file": str(tmp_path / "ca.pem"),
        "dataplane": DATAPLANE,
        "dataplane_token_file": str(tmp_path / "token"),
        "workdir": str(tmp_path / "proxy"),
        "admin_port": free_port(),
        "dns_port": free_port(),
        "concurrency": 1,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, json.dumps(settings), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        ready: dict[str, Any] = json.loads(await asyncio.wait_for(child.stdout.readline(), WAIT_SECONDS))
        await zone.change("b", {"payments.ext.mesh": "242.0.0.1", "ledger.ext.mesh": "242.128.0.1"})
        assert await address(ready, "ledger.ext.mesh") == ["242.128.0.1"]
        await zone.change("c", {"ledger.ext.mesh": "242.128.0.2"})
        assert await address(ready, "ledger.ext.mesh") == ["242.128.0.2"]
        await zone.stop()
        assert await address(ready, "ledger.ext.mesh") == ["242.128.0.2"]
        assert child.returncode is None
        assert zone.told[0] == ("connected", "default.app")
        assert not [what for what, _ in zone.told if what == "nack"]
    finally:
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), WAIT_SECONDS) == 0


async def address(ready: dict[str, Any], name: str) -> list[str]:
    host, _, port = ready["dns"].rpartition(":")
    answer = await dns.asyncquery.udp(dns.message.make_query(name, "A"), host, port=int(port), timeout=5)
    return [record.to_text() for records in answer.answer for record in records]
