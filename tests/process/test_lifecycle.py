"""The life of a process."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from structlog.testing import capture_logs

from shared.process import lifecycle
from shared.process.exit_code import ExitCode
from shared.process.lifecycle import Lifecycle


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_reverse_order(number: signal.Signals) -> None:
    """SIGTERM and SIGINT stop what was started, last first, and the exit code is 0."""
    order: list[str] = []

    async def service(name: str) -> None:
        try:
            await forever()
        finally:
            order.append(name)

    async def start(life: Lifecycle) -> None:
        life.start("log", service("log"))

        async def drained() -> None:
            order.append("drained")

        life.on_stop("drain", drained)
        life.start("ads", service("ads"))
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)

    assert lifecycle.run(start) == ExitCode.OK
    assert order == ["ads", "drained", "log"]


def test_a_failed_service_fails_the_process_and_stops_the_rest() -> None:
    """An exception in the background ends the process with 1, after an orderly stop."""
    stopped: list[str] = []

    async def broken() -> None:
        raise RuntimeError("broken")

    async def start(life: Lifecycle) -> None:
        async def stop() -> None:
            stopped.append("first")

        life.on_stop("first", stop)
        life.start("second", broken())

    assert lifecycle.run(start) == ExitCode.FAILED
    assert stopped == ["first"]


def test_a_service_that_ends_unasked_is_a_failure() -> None:
    """Returning is no more right than raising: a service lives as long as its process."""

    async def brief() -> None:
        pass

    async def start(life: Lifecycle) -> None:
        life.start("brief", brief())

    assert lifecycle.run(start) == ExitCode.FAILED


def test_a_failed_start_stops_what_was_started() -> None:
    """When the second thing does not start, the first one is stopped."""
    stopped: list[str] = []

    async def start(life: Lifecycle) -> None:
        async def stop() -> None:
            stopped.append("first")

        life.on_stop("first", stop)
        raise RuntimeError("port taken")

    assert lifecycle.run(start) == ExitCode.FAILED
    assert stopped == ["first"]


def test_a_stop_while_starting_cancels_the_start() -> None:
    """A process that still waits for its peers obeys at once."""

    async def start(life: Lifecycle) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await forever()

    assert lifecycle.run(start) == ExitCode.OK


def test_a_stop_is_bounded() -> None:
    """What does not stop within its grace is left, and the next one gets its turn."""
    stopped: list[str] = []

    async def start(life: Lifecycle) -> None:
        async def stop() -> None:
            stopped.append("first")

        life.on_stop("first", stop)
        life.on_stop("stuck", forever, stop_seconds=0.01)
        life.stop()

    assert lifecycle.run(start) == ExitCode.OK
    assert stopped == ["first"]


def test_a_second_signal_ends_the_grace() -> None:
    """Whoever asks twice does not wait for the grace to pass, and nothing is said to have taken too long."""

    async def start(life: Lifecycle) -> None:
        life.on_stop("stuck", forever, stop_seconds=600)
        life.stop()
        asyncio.get_running_loop().call_later(0.01, life.stop)

    with capture_logs() as said:
        assert lifecycle.run(start) == ExitCode.OK
    assert [entry["event"] for entry in said] == ["stopping", "stop cut short"]
