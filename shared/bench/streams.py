"""The two servers that many clients are connected to: the product's, and the least that grpc.aio can do.

Both are told what every client should have, and tell how long it took until all of it was ACKed.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import msgspec
from grpc import aio
from immutables import Map

from shared.bench.bare_ads import CLUSTER, METHOD, SERVICE, Context
from shared.events.state import Position
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
LOOK_SECONDS = 0.05
SECONDS = 120.0
"""The longest that clients may take for anything."""


class Spent(msgspec.Struct, frozen=True):
    """Seconds of the clock, and of processors in this process."""

    seconds: float
    processor: float

    @classmethod
    def so_far(cls) -> Spent:
        """Up to now, from some moment on."""
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def since(cls, before: Spent) -> Spent:
        """Between a `so_far` and now."""
        now = cls.so_far()
        return cls(now.seconds - before.seconds, now.processor - before.processor)


class Answers:
    """Counts down to nothing left."""

    def __init__(self) -> None:
        self._left = 0
        self._none = asyncio.Event()

    def expect(self, count: int) -> None:
        """So many from now on."""
        self._left = count
        self._none.clear()

    def take(self, count: int = 1) -> None:
        """So many of them are here."""
        self._left -= count
        if self._left == 0:
            self._none.set()

    async def all(self) -> None:
        """Wait for the last. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS):
            await self._none.wait()


class Product:
    """The zone's AdsServer with its hub, in the clear and for anyone."""

    def __init__(self) -> None:
        server: Any = importlib.import_module("zone_cp.ads.server")
        self._snapshot: Any = importlib.import_module("zone_cp.xds.snapshot")
        self._offered: dict[str, Any] = {}
        self._admitted: Any = server.Admitted
        self._answers = Answers()
        self._g = 0
        self._server: Any = server.AdsServer(
            "127.0.0.1", 0, None,
            admit=self._admit,
            on_connected=lambda *_: None,
            on_disconnected=lambda *_: None,
            on_ack=self._on_ack,
            on_nack=lambda *_: None,
            on_observation=lambda *_: None,
        )  # fmt: skip

    async def start(self) -> int:
        """Listen; returns the port."""
        port: int = await self._server.start()
        return port

    async def stop(self) -> None:
        """End every stream."""
        await self._server.stop(0.0)

    async def _admit(self, node: Any, _: str | None) -> Any:
        return self._admitted(node.id)

    def _on_ack(self, _: str, fact: Any) -> None:
        if fact.type_url == CLUSTER:
            self._answers.take(len(fact.versions))

    async def joined(self, count: int) -> None:
        """Wait until so many clients are there and ask for clusters. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS):
            while sum(_asks(stream) for stream in self._server.hub.streams()) < count:  # noqa: ASYNC110 - not measured
                await asyncio.sleep(LOOK_SECONDS)

    async def reach(self, proxies: Sequence[str], changed: Mapping[str, Any]) -> Spent:
        """Let these proxies hold these clusters beside what they hold; what it took until all are ACKed.

        Raises TimeoutError.
        """
        self._answers.expect(len(changed) * len(proxies))
        position = Position(self._g + 1, 0)
        self._g = position.g
        # Proxies share every encoded resource, and none of the maps around them.
        for proxy in proxies:
            before = self._offered.get(proxy) or self._snapshot.Snapshot(
                position, Map({CLUSTER: Map(), LISTENER: Map()})
            )
            self._offered[proxy] = self._snapshot.following(before, position, {CLUSTER: changed})
        started = Spent.so_far()
        for proxy in proxies:
            self._server.offer(proxy, self._offered[proxy])
        await self._answers.all()
        return Spent.since(started)


class Bare:
    """Writes given bytes to every stream and counts what comes back."""

    def __init__(self) -> None:
        self._contexts: set[Context] = set()
        self._changed = asyncio.Condition()
        self._answers = Answers()
        self._server = aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)))
        untyped: Any = self._stream
        methods: dict[str, Any] = {METHOD: grpc.stream_stream_rpc_method_handler(untyped)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))

    async def start(self) -> int:
        """Listen; returns the port."""
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    async def stop(self) -> None:
        """End every stream."""
        await self._server.stop(0.0)

    async def joined(self, count: int) -> None:
        """Wait until so many clients are there, and those of before are gone. Raises TimeoutError."""
        async with asyncio.timeout(SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self._contexts) == count)

    async def push(self, responses: Sequence[bytes]) -> Spent:
        """Send encoded responses to every client; what it took until all are ACKed. Raises TimeoutError."""
        self._answers.expect(len(responses) * len(self._contexts))
        started = Spent.so_far()
        await asyncio.gather(*(_write(context, responses) for context in self._contexts))
        await self._answers.all()
        return Spent.since(started)

    async def _stream(self, _: object, context: Context) -> None:
        try:
            await self._read(context)
        finally:  # also when the client is gone, which cancels this
            self._contexts.discard(context)
            async with self._changed:
                self._changed.notify_all()

    async def _read(self, context: Context) -> None:
        while True:
            raw: Any = await context.read()
            if raw is aio.EOF:
                return
            request = DeltaDiscoveryRequest.FromString(raw)
            if request.response_nonce:
                self._answers.take()
            elif request.type_url == CLUSTER:
                async with self._changed:
                    self._contexts.add(context)
                    self._changed.notify_all()


def _asks(stream: Any) -> bool:
    return any(one.type_url == CLUSTER for one in stream.xds.status())


async def _write(context: Context, responses: Sequence[bytes]) -> None:
    for response in responses:
        await context.write(response)
