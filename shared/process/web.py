"""Serve an ASGI application in the process's own event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from shared.process.lifecycle import Lifecycle

START_SECONDS = 10.0
GRACE_SECONDS = 3
BACKLOG = 2048
"""Connections that may wait to be taken, as uvicorn has it."""


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the process and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    def install_signal_handlers(self) -> None:
        """Signals belong to the process."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        self.listening.set()


async def serve_api(life: Lifecycle, application: Any, host: str, port: int) -> None:
    """Listen on host:port until the process stops. Returns once it listens; raises OSError when it cannot."""
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        http="httptools",
        ws="none",
    )
    server = _Server(config)
    # uvicorn would end the process, in the midst of everything, where it cannot listen.
    listener = _listener(host, port)

    async def serve() -> None:
        await server._serve([listener])  # noqa: SLF001 - `serve` would take the process's signals over

    task = life.start("api", serve())

    async def stop() -> None:
        server.should_exit = True
        await asyncio.wait((task,), timeout=GRACE_SECONDS + 1)

    life.on_stop("api grace", stop)
    listening = asyncio.create_task(server.listening.wait())
    done, _ = await asyncio.wait((task, listening), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if task in done or not server.started:
        raise OSError(f"cannot serve HTTP on {host}:{port}")


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]
        message = f"cannot serve HTTP on {host}:{port}: {reason}; api_host and api_port say where to"
        raise OSError(error.errno, message) from None
    # As asyncio does with sockets of its own making: else the end of an answer waits 40 ms for the ACK of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
