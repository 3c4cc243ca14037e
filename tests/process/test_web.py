"""Serving HTTP in the process's own loop."""

from __future__ import annotations

import socket
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
