"""What `zonal init` lays out, under real nats-servers: links come up, strangers stay out, zones join later."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from shared.events.log import LogUnavailable
from shared.keys.deployment import Deployment
from shared.keys.init import init
from shared.nats.connection import Connection, NatsSettings, connect
from shared.nats.server import Server, start_server
from shared.nats.topology import EVENTS, HUB_API, ensure_hub, ensure_zone_on_hub

BLOCKS = 4 * 20
WAIT_SECONDS = 20.0


def base_port() -> int:
    """A block of ports nobody listens on now, below those that the system gives to clients."""
    for base in random.sample(range(12_000, 17_900, 100), 50):
        with ExitStack() as stack:
            try:
                for port in range(base, base + BLOCKS):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    pytest.fail("no free block of ports")


def settings(deployment: Deployment, name: str) -> NatsSettings:
    keys = deployment.keys(name)
    port = deployment.ports.nats if name == "global" else deployment.zone_ports(name).nats
    return NatsSettings(
        url=f"tls://127.0.0.1:{port}", nkey_seed_file=str(keys.nats_seed_file), ca_file=str(keys.ca_file), name=name
    )


@asynccontextmanager
async def running(config: Path) -> AsyncIterator[Server]:
    server = await start_server(config)
    try:
        yield server
    finally:
        await server.stop()


async def hub_events(connection: Connection) -> str:
    """Name of the stream that the zone sees on the hub, once the leaf link is up."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                answer = await connection.api(f"{HUB_API}.STREAM.INFO.{EVENTS}", timeout_seconds=1)
                return str(answer["config"]["name"])
            except LogUnavailable:  # the link is still coming up: the server answers "nobody" until it is
                await connection.pause(0.1)


async def answer_to_stranger(deployment: Deployment) -> bytes:
    """What the hub says to a client that trusts it and shows no nkey."""
    side = ssl.create_default_context(cafile=str(deployment.ca_file))
    async with asyncio.timeout(WAIT_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", deployment.ports.nats)
        await reader.readline()
        await writer.start_tls(side, server_hostname="127.0.0.1")
        writer.write(b"CONNECT {}\r\nPING\r\n")
        answer = await reader.readline()
        writer.close()
        return answer


async def greet_leaf_port(deployment: Deployment) -> bytes:
    """What the leaf port sends after a handshake without certificate: nothing, or an error. Raises too."""
    side = ssl.create_default_context(cafile=str(deployment.ca_file))
    reader, writer = await asyncio.open_connection("127.0.0.1", deployment.ports.nats_leaf)
    try:
        assert (await reader.readline()).startswith(b"INFO ")
        await writer.start_tls(side, server_hostname="127.0.0.1")
        answer = await reader.readline()
        if not answer:
            raise ConnectionResetError("closed")
        return answer
    finally:
        writer.close()


@pytest.mark.anyio
async def test_zones_reach_the_hub_and_nobody_else_does(tmp_path: Path) -> None:
    """Global and zones connect with their own nkeys over TLS; a zone added later is let in once the hub restarts."""
    laid = init(tmp_path / "d", ("east",), base_port())
    async with AsyncExitStack() as stack:
        async with running(laid.hub_config):
            await stack.enter_async_context(running(laid.leaf_config("east")))
            admin = await stack.enter_async_context(await connect(settings(laid, "global")))
            await ensure_hub(admin)
            await ensure_zone_on_hub(admin, "east")
            east = await stack.enter_async_context(await connect(settings(laid, "east")))
            assert await hub_events(east) == EVENTS
            assert b"Authorization Violation" in await answer_to_stranger(laid)
        laid = init(tmp_path / "d", ("west",))
        await stack.enter_async_context(running(laid.hub_config))
        await stack.enter_async_context(running(laid.leaf_config("west")))
        west = await stack.enter_async_context(await connect(settings(laid, "west")))
        assert await hub_events(west) == EVENTS
        assert await hub_events(east) == EVENTS


@pytest.mark.anyio
async def test_a_leaf_link_needs_a_client_certificate(tmp_path: Path) -> None:
    """The hub's leaf port ends a TLS handshake that shows no certificate of the deployment."""
    laid = init(tmp_path / "d", ("east",), base_port())
    async with running(laid.hub_config), asyncio.timeout(WAIT_SECONDS):
        with pytest.raises((ssl.SSLError, OSError)):
            await greet_leaf_port(laid)
