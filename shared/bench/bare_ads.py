"""The least that can push a cluster to an Envoy: delta ADS that splices given bytes and waits for the ACK."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias

import grpc
from grpc import aio

from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

METHOD = "DeltaAggregatedResources"
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"


class Nacked(Exception):
    """Envoy refused what was pushed."""


class BareAds:
    """Serves one Envoy the clusters `first` and nothing else, then what is pushed. Use `async with`. port: where."""

    def __init__(self, certificate: bytes, key: bytes, first: Mapping[str, bytes]) -> None:
        self._first = b"".join(first.values())
        self._nonce = 0
        self._context: Context | None = None
        self._answers: asyncio.Queue[tuple[int, DeltaDiscoveryRequest]] = asyncio.Queue()
        self._server = aio.server()
        untyped: Any = self._stream
        methods: dict[str, Any] = {METHOD: grpc.stream_stream_rpc_method_handler(untyped)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self.port: int = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(0)

    async def settled(self) -> None:
        """Wait until Envoy holds the first clusters. Raises Nacked."""
        await self._answer(1)

    async def push(self, resources: Sequence[bytes]) -> float:
        """Send encoded `resources` fields; microseconds until the ACK was here. Raises Nacked."""
        if self._context is None:
            raise RuntimeError("no Envoy is connected")
        response = self._response(CLUSTER, b"".join(resources))
        started = time.monotonic_ns()
        await self._context.write(response)
        return (await self._answer(self._nonce) - started) / 1000

    async def _answer(self, nonce: int) -> int:
        while True:
            moment, request = await self._answers.get()
            if request.response_nonce == str(nonce):
                if request.HasField("error_detail"):
                    raise Nacked(request.error_detail.message)
                return moment

    def _response(self, type_url: str, resources: bytes) -> bytes:
        self._nonce += 1
        return resources + DeltaDiscoveryResponse(type_url=type_url, nonce=str(self._nonce)).SerializeToString()

    async def _stream(self, _: object, context: Context) -> None:
        while True:
            raw: Any = await context.read()
            if raw is aio.EOF:
                return
            moment = time.monotonic_ns()
            request = DeltaDiscoveryRequest.FromString(raw)
            if request.response_nonce:
                self._answers.put_nowait((moment, request))
            else:
                await self._subscribed(request.type_url, context)

    async def _subscribed(self, type_url: str, context: Context) -> None:
        """A subscription begins: clusters get the first ones, all else gets nothing, which lets Envoy start."""
        if type_url == CLUSTER:
            self._context = context
            self._nonce = 0
            await context.write(self._response(CLUSTER, self._first))
        else:
            await context.write(DeltaDiscoveryResponse(type_url=type_url, nonce=f"{type_url}/1").SerializeToString())
