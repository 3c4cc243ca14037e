"""`python -m tests.conformance --port N`: the xDS server for an outside conformance harness; see README.md."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from tests.conformance.plane import ConformancePlane


async def serve(address: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    plane = ConformancePlane(address, port)
    taken = await plane.server.start()
    print(f"xDS and adapter on {address}:{taken}", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await plane.server.stop(1)


def main() -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one and prints it")
    parser.add_argument("--address", default="127.0.0.1")
    options = parser.parse_args()
    asyncio.run(serve(options.address, options.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
