from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import uvicorn

from shared.api.app import build_api
from tests.api.memory_store import ADMIN, MemoryStore, Tokens
from tests.conftest import take_port

LIMIT_SECONDS = 10


@pytest.mark.anyio
async def test_events_are_followed_as_they_come() -> None:
    """Followed events are one JSON document a line, from `after` on; a line arrives with its write; leaving ends it."""
    store = MemoryStore()
    api = build_api(store, authenticator=Tokens(), role="global")
    port = take_port()
    server = uvicorn.Server(
        uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=5)
    )
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(LIMIT_SECONDS), httpx.AsyncClient(headers=ADMIN) as client:
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            url = f"http://127.0.0.1:{port}"
            for name in ("a", "b"):
                await client.put(f"{url}/meshes/{name}", json={})
            async with client.stream("GET", f"{url}/events/follow?after=1") as stream:
                assert stream.headers["content-type"].startswith("application/x-ndjson")
                lines = stream.aiter_lines()
                assert json.loads(await anext(lines))["n"] == 2
                await client.put(f"{url}/meshes/c", json={})
                event = json.loads(await anext(lines))
                assert (event["n"], event["change"]["resource"]["name"]) == (3, "c")
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, LIMIT_SECONDS)
