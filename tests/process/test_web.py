"""Serving HTTP in the process's own loop."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from typing import Any

from structlog.testing import capture_logs

from shared.process import lifecycle
from shared.process.exit_code import ExitCode
from shared.process.lifecycle import Lifecycle
from shared.process.web import serve_api


def test_a_port_that_is_taken_is_named_and_ends_the_process_in_order() -> None:
    """What was started before is stopped, the exit code is 1, and the log names address, reason and settings."""
    stopped: list[str] = []

    async def application(*_: Any) -> None:
        """Never asked."""

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        async def start(life: Lifecycle) -> None:
            async def stop() -> None:
                stopped.append("first")

            life.on_stop("first", stop)
            await serve_api(life, application, "127.0.0.1", port)

        with capture_logs() as logs:
            assert lifecycle.run(start) == ExitCode.FAILED
    assert stopped == ["first"]
    (failed,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert f"127.0.0.1:{port}: Address already in use; api_host and api_port" in str(failed["exc_info"])


DELAYED_ACK_SECONDS = 0.04
"""How long Linux keeps an ACK back (TCP_DELACK_MIN)."""


def test_an_answer_does_not_wait_for_the_ack_of_its_head() -> None:
    """Head and body are two writes; with Nagle's algorithm the second waits for what the client's kernel delays."""
    taken: list[float] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                await send({"type": f"{(await receive())['type']}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def start(life: Lifecycle) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        await serve_api(life, application, "127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(41):
            started = time.monotonic()
            writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            taken.append(time.monotonic() - started)
        writer.close()
        life.stop()

    assert lifecycle.run(start) == ExitCode.OK
    assert statistics.median(taken) < DELAYED_ACK_SECONDS
