"""A control plane for the agent's own tests: real gRPC over TLS, the xDS it is given, and everything it was told."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc

from shared.keys.pki import create_authority, issue
from shared.pb import agent_pb2 as pb
from shared.pb import discovery_pb2 as discovery

P = ParamSpec("P")
T = TypeVar("T")


@cache
def grpc_loop() -> asyncio.AbstractEventLoop:
    """The one loop of all gRPC here: grpc.aio's poller outlives loops, and stumbles over those that were closed."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="grpc", daemon=True).start()
    return loop


def on_grpc_loop(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let a coroutine method run there, whatever loop awaits it."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(method(*args, **kwargs), grpc_loop()))

    return call


CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
WAIT_SECONDS = 20


class ControlPlane:
    """`resources`: type URL → name → bytes of the message; `serve` changes it and pushes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority, key = create_authority(datetime.now(UTC))
        self.pair = issue(authority, key, name="cp", hosts=["127.0.0.1"], now=datetime.now(UTC), server=True)
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_text(authority)
        self.port = 0
        self.resources: dict[str, dict[str, bytes]] = {CDS: {}, LDS: {}}
        self.nodes: list[discovery.Node] = []
        self.ads_tokens: list[str] = []
        self.nacks: list[str] = []
        self.attach_tokens: list[str] = []
        self.hellos: list[pb.Hello] = []
        self.observations: list[pb.Observation] = []
        self.acked: list[str] = []
        self.dns = pb.DnsUpdate()
        self._changed = asyncio.Condition()
        self._ads: set[Any] = set()
        self._attached: set[Any] = set()
        self._server: Any = None

    @on_grpc_loop
    async def start(self) -> None:
        self._server = grpc.aio.server()
        ads: Any = grpc.stream_stream_rpc_method_handler(self._serve_ads)
        attach: Any = grpc.stream_stream_rpc_method_handler(
            self._serve_attach,
            request_deserializer=pb.AgentMessage.FromString,
            response_serializer=pb.ControlMessage.SerializeToString,
        )
        for service, methods in {
            "envoy.service.discovery.v3.AggregatedDiscoveryService": {"DeltaAggregatedResources": ads},
            "zonal.agent.v1.Agent": {"Attach": attach},
        }.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        certificate, key = self.pair
        credentials = grpc.ssl_server_credentials([(key.encode(), certificate.encode())])
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    @on_grpc_loop
    async def stop(self) -> None:
        await self._server.stop(0)

    @on_grpc_loop
    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until something that was told makes `condition` true."""
        async with asyncio.timeout(WAIT_SECONDS), self._changed:
            await self._changed.wait_for(condition)
            return condition()

    @on_grpc_loop
    async def serve(self, type_url: str, name: str, body: bytes) -> None:
        self.resources[type_url][name] = body
        for context in list(self._ads):
            await context.write(self._response(type_url))

    @on_grpc_loop
    async def push_dns(self, update: pb.DnsUpdate) -> None:
        for context in list(self._attached):
            await context.write(pb.ControlMessage(dns=update))

    def _response(self, type_url: str) -> bytes:
        response = discovery.DeltaDiscoveryResponse(type_url=type_url, nonce="n")
        for name, body in self.resources.get(type_url, {}).items():
            entry = response.resources.add(name=name, version=str(hash(body)))
            entry.resource.type_url, entry.resource.value = type_url, body
        return response.SerializeToString()

    async def _note(self, into: list[Any], what: Any) -> None:
        async with self._changed:
            into.append(what)
            self._changed.notify_all()

    async def _serve_ads(self, _: Any, context: Any) -> None:
        await self._note(self.ads_tokens, dict(context.invocation_metadata()).get("authorization"))
        self._ads.add(context)
        asked: deque[str] = deque()
        try:
            while (raw := await context.read()) is not grpc.aio.EOF:
                request = discovery.DeltaDiscoveryRequest.FromString(raw)
                if request.node.id:
                    await self._note(self.nodes, request.node)
                if request.error_detail.message:
                    await self._note(self.nacks, request.error_detail.message)
                if request.type_url not in asked:
                    asked.append(request.type_url)
                    await context.write(self._response(request.type_url))
        finally:
            self._ads.discard(context)

    async def _serve_attach(self, _: Any, context: Any) -> None:
        await self._note(self.attach_tokens, dict(context.invocation_metadata()).get("authorization"))
        self._attached.add(context)
        with suppress(asyncio.CancelledError):
            try:
                while (message := await context.read()) is not grpc.aio.EOF:
                    match message.WhichOneof("message"):
                        case "hello":
                            await context.write(pb.ControlMessage(dns=self.dns))
                            await self._note(self.hellos, message.hello)
                        case "observation":
                            await self._note(self.observations, message.observation)
                        case "dns_ack":
                            await self._note(self.acked, message.dns_ack.version)
                        case other:
                            raise AssertionError(other)
            finally:
                self._attached.discard(context)
