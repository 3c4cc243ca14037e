"""Fixtures that every test may use."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the product does."""
    return "asyncio"


def take_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that was free on loopback a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function giving another free TCP port of loopback at every call."""
    given: set[int] = set()

    def take() -> int:
        while (port := take_port()) in given:
            continue
        given.add(port)
        return port

    return take
