"""What a zone says its proxies hold, beside what their Envoys say they have: the whole way, over agents and the API."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.service.status import v3 as status
from grpc import aio, ssl_channel_credentials

from shared.demo.looking import eventually
from tests.e2e.living import Living

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
BASE_PORT = 26_700
SECONDS = 90.0


async def zonal(system: Living, zone: str | None, *words: str) -> tuple[int, str]:
    """A command that asks a zone, or global."""
    ports = system.ports if zone is None else system.zone_ports[zone]
    flags = ("--api", f"http://127.0.0.1:{ports.api}", "--token-file", str(system.deployment.admin_token))
    return await run(*words, *flags)


async def run(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.cli", *words, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_every_envoy_has_what_its_zone_says_it_holds(tmp_path: Path) -> None:
    """`inspect xds --actual` finds no difference on sidecars and egresses; `get proxies` lists them; CSDS too."""
    async with Living(tmp_path, BASE_PORT) as system:
        await system.begin()
        zone = min(system.zone_ports)
        async with system.client(zone) as client:
            rows: list[dict[str, Any]] = (await client.get("/proxies")).json()["items"]
        proxies = sorted(row["proxy"] for row in rows if row["online"])
        assert len(proxies) >= 2
        code, listed = await zonal(system, zone, "get", "proxies")
        assert code == 0
        for proxy in proxies:
            assert proxy in listed
            inspected = partial(zonal, system, zone, "inspect", "xds", proxy, "--actual")
            _, told = await eventually(
                inspected, lambda said: said[0] == 0 and "Envoy has what is intended." in said[1], proxy, SECONDS
            )
            assert "refused" not in told.split("\n", 2)[2], told
            await _served(system, zone, proxy)
        for proxy in proxies:
            await _served(system, zone, proxy, on_global=True)
        await _served_offline(system, tmp_path, zone, proxies)
        assert (await zonal(system, zone, "inspect", "xds", "nobody"))[0] != 0
        await _csds(system, zone, proxies)


async def _served(system: Living, zone: str, proxy: str, *, on_global: bool = False) -> None:
    """What is replayed from the log is what the proxy was given, keys and certificates included, by its digest: over
    HTTP and by the command; on global by the records that come up from the zone.
    """
    plane = None if on_global else zone
    named = {"zone": zone} if on_global else {}
    async with system.client(plane) as client:

        async def verdict() -> str:
            found = await client.get("/history/replay", params={**named, "proxy": proxy, "kind": "Cluster"})
            return str(found.json()["served"]["verdict"])

        # Records are written about once a second.
        await eventually(verdict, lambda said: said == "served", "a record of what was served", SECONDS)
    options = [f"--{name}={value}" for name, value in named.items()]
    code, told = await zonal(system, plane, "replay", *options, "--proxy", proxy, "-o", "json")
    assert code == 0
    assert json.loads(told)["served"]["verdict"] == "served"


async def _served_offline(system: Living, tmp_path: Path, zone: str, proxies: list[str]) -> None:
    """The same from a bundle that global gave, and from a copy of the hub's store alone."""
    bundle, copy = tmp_path / "past.bundle", tmp_path / "copy"
    assert (await zonal(system, None, "bundle", "export", str(bundle)))[0] == 0
    await asyncio.to_thread(shutil.copytree, system.deployment.hub_store, copy)
    for source in (("--bundle", str(bundle)), ("--store", str(copy))):
        for proxy in proxies:
            code, told = await run("replay", "--zone", zone, "--proxy", proxy, "-o", "json", *source)
            assert code == 0
            assert json.loads(told)["served"]["verdict"] == "served", (source, proxy)


async def _csds(system: Living, zone: str, proxies: list[str]) -> None:
    target = f"{system.deployment.host(zone)}:{system.zone_ports[zone].ads}"
    credentials = ssl_channel_credentials(system.deployment.ca_file.read_bytes())
    metadata = (("authorization", f"Bearer {system.deployment.admin_token.read_text().strip()}"),)
    async with aio.secure_channel(target, credentials) as channel:
        call: Any = channel.unary_unary("/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus")

        async def told() -> tuple[list[str], set[status.ConfigStatus]]:
            answer = status.ClientStatusResponse.parse(await call(b"", metadata=metadata, timeout=SECONDS))
            states = {one.config_status for config in answer.config for one in config.generic_xds_configs}
            return sorted(config.node.id for config in answer.config if config.node), states

        wanted = (proxies, {status.ConfigStatus.SYNCED})
        await eventually(told, lambda seen: seen == wanted, "all of it is in step", SECONDS)
