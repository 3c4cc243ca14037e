"""The conformance server as a harness meets it: a process of its own, one port, state by type and name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from shared.pb.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
)
from tests.ads.stream_pair import SHORT, carried
from tests.conformance.outside import SECONDS, state, tell

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
pytestmark = pytest.mark.anyio


@asynccontextmanager
async def harness() -> AsyncGenerator[aio.Channel]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance", "--port", "0", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            line = (await process.stdout.readline()).decode()
        async with aio.insecure_channel(line.strip().rpartition(" ")[2]) as channel:
            yield channel
        process.terminate()
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.parametrize("variant", ["sotw", "delta"])
async def test_a_harness_sets_updates_and_removes_and_sees_its_own_versions(variant: str) -> None:
    """Per type: the version chosen is the version reported; a new version of a resource is a new resource."""
    delta = variant == "delta"
    request: Any = DeltaDiscoveryRequest if delta else DiscoveryRequest
    response: Any = DeltaDiscoveryResponse if delta else DiscoveryResponse
    async with harness() as channel:
        call: Any = channel.stream_stream(f"{ADS}/{'Delta' if delta else 'Stream'}AggregatedResources")()

        async def receive() -> tuple[str, list[str]]:
            async with asyncio.timeout(SECONDS):
                got = response.FromString(await call.read())
            await call.write(request(type_url=got.type_url, response_nonce=got.nonce).SerializeToString())
            version = got.system_version_info if delta else got.version_info
            removed = [f"-{name}" for name in getattr(got, "removed_resources", ())]
            return version, sorted(name for name, _ in carried(got)) + removed

        await tell(channel, "n", "SetState", "State", types=[state("CDS", "1", "A", "B"), state("LDS", "7", "L")])
        await call.write(request(node=Node(id="n"), type_url=SHORT["CDS"]).SerializeToString())
        assert await receive() == ("1", ["A", "B"])
        change = {"type_url": SHORT["CDS"], "name": "A"}
        await tell(channel, "n", "SetResource", "ResourceChange", version="2", **change)
        assert await receive() == ("2", ["A"] if delta else ["A", "B"])
        await tell(channel, "n", "RemoveResource", "ResourceChange", version="3", **change)
        assert await receive() == ("3", ["-A"] if delta else ["B"])
        await call.write(request(type_url=SHORT["LDS"]).SerializeToString())
        assert await receive() == ("7", ["L"])
        await tell(channel, "n", "ClearState", "Node")
        assert {names[0] if names else "" for _, names in [await receive(), await receive()]} == (
            {"-B", "-L"} if delta else {""}
        )


async def test_what_makes_no_sense_is_refused() -> None:
    """No node, an unknown resource to remove, a body of another type."""
    async with harness() as channel:
        for method, fields in (
            ("RemoveResource", {"type_url": SHORT["CDS"], "name": "x"}),
            ("SetResource", {"type_url": "type.googleapis.com/unknown", "name": "x"}),
        ):
            with pytest.raises(aio.AioRpcError) as refused:
                await tell(channel, "n", method, "ResourceChange", **fields)
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
