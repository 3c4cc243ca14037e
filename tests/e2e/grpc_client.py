"""A gRPC client with its own xDS resolver, as a process of its own, and what it calls."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

SECONDS = 20.0
CLIENT = """
import sys, grpc
with grpc.insecure_channel("xds:///backend") as channel:
    call = channel.unary_unary("/test.Echo/Say")
    for line in sys.stdin:
        print(call(line.strip().encode(), timeout=15, wait_for_ready=True).decode(), flush=True)
"""
"""Says a line per call; its environment is read at start, so it is a process of its own."""


@asynccontextmanager
async def echo(name: str) -> AsyncGenerator[int]:
    """A gRPC service that says its name before what it is told."""

    async def say(request: bytes, _: object) -> bytes:
        return name.encode() + b" " + request

    method: Any = grpc.unary_unary_rpc_method_handler(say)
    server = aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Say": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@asynccontextmanager
async def client(
    directory: Path, ads_port: int, creds: dict[str, Any], node: dict[str, Any]
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The client, told by a bootstrap file where to ask, and as whom."""
    server = {"server_uri": f"localhost:{ads_port}", "server_features": ["xds_v3"], **creds}
    bootstrap = {"xds_servers": [server], "node": {"cluster": "client", **node}}
    path = directory / "grpc.json"
    path.write_text(json.dumps(bootstrap))
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP": str(path), "GRPC_VERBOSITY": "NONE"}
    environment["GRPC_EXPERIMENTAL_XDS_BOOTSTRAP_CALL_CREDS"] = "true"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def say(process: asyncio.subprocess.Process, word: str) -> str:
    """What the service answers. Raises EOFError when the client has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n".encode())
    async with asyncio.timeout(SECONDS):
        line = await process.stdout.readline()
    if not line:
        raise EOFError("the client ended")
    return line.decode().strip()
