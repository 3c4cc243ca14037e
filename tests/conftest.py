"""Fixtures that every test may use."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator

import pytest
from hypothesis import settings

# Whole systems share these processors: how long one example takes says nothing.
settings.register_profile("zonal", deadline=None)
settings.load_profile("zonal")


def pytest_configure() -> None:
    """Debian keeps ip and nft where only root's PATH looks."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")  # as `zonal` does
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@pytest.fixture(scope="session", autouse=True)
def _caches_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """What commands keep of a system's past is not kept below the user's caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the product does."""
    return "asyncio"


@pytest.fixture(scope="session")
async def one_event_loop(anyio_backend: str) -> AsyncGenerator[str]:
    """All asynchronous tests of a worker share one event loop: grpc.aio's poller belongs to the first it meets and
    calls into it even after it was closed.
    """
    yield anyio_backend  # noqa: PT022 - a generator keeps the loop until the session ends


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every asynchronous test runs on that loop."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("anyio"):
            item.fixturenames.insert(0, "one_event_loop")


FIRST_PORT, PORTS = 20_000, 1_250
"""Each of four xdist workers takes from a span of its own; whole systems stand outside, from 25 000 and at 18 000."""
_turn = itertools.count(random.randrange(PORTS))


def take_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that was free on loopback a moment ago, and that no later call gives again soon."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    for _ in range(PORTS):
        port = FIRST_PORT + worker * PORTS + next(_turn) % PORTS
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function giving another free TCP port of loopback at every call."""
    return take_port


NAMESPACES = (["sh", "-c", "ip netns add zonal-probe && ip netns del zonal-probe"], ["unshare", "-Urnm", "true"])


@pytest.fixture(scope="session")
def netns_prefix() -> list[str]:
    """Words to put before a command that needs namespaces: none as root, `unshare -Urnm` where that is allowed.

    Skips the test where neither works; see `pytest_runtest_makereport`.
    """
    as_root, unshare = NAMESPACES
    if not shutil.which("ip") or not shutil.which("nft"):
        pytest.skip("needs ip (iproute2) and nft (nftables)")
    if os.geteuid() == 0 and not subprocess.run(as_root, capture_output=True, check=False).returncode:
        return []
    if not subprocess.run(unshare, capture_output=True, check=False).returncode:
        return unshare[:-1]
    return pytest.skip("network namespaces are allowed neither directly nor by unshare -Urnm")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With ZONAL_REQUIRE_NETNS=1 a test that needs namespaces fails where it would have been skipped."""
    report = yield
    required = os.environ.get("ZONAL_REQUIRE_NETNS") == "1"
    if required and report.skipped and item.get_closest_marker("netns") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and ZONAL_REQUIRE_NETNS=1: {report.longrepr}"
    return report
