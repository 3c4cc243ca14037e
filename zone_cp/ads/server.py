"""AdsServer: the asyncio skin around the hub. Reads, admits, feeds, writes; decides nothing about xDS.

Traps that this file is shaped by (design/xds.md §2): one writer per stream, since overlapping writes kill the
call; pending-request limits raised, since the C core silently cancels random streams of a reconnect storm;
bytes in and out without (de)serializers; the server is stopped before its loop ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, assert_never

import grpc
import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from grpc import aio

from shared.events.state import Position
from shared.pb.agent_pb2 import Observation
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest
from zone_cp.ads.agents import AGENT_SERVICE, Agents
from zone_cp.ads.delta import Acked, Nacked, RemoteProtocolError
from zone_cp.ads.hub import DnsTable, Hub, ProxyDelivery, Stream
from zone_cp.xds.snapshot import Snapshot

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
FIRST_REQUEST_SECONDS = 10.0
MAX_REQUEST_BYTES = 64 * 1024 * 1024
DRAINING = "the control plane is stopping: reconnect"

OPTIONS = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM bytes of the server's certificate chain and its private key."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Never shows the key."""
        return "TlsFiles(certificate=…, key=…)"


class NodeInfo(msgspec.Struct, frozen=True):
    """Who a stream says it is; metadata is the node's metadata as plain JSON values."""

    id: str
    cluster: str = ""
    metadata: dict[str, Any] = {}


class Admitted(msgspec.Struct, frozen=True):
    """The stream serves this proxy."""

    proxy: str


class Refused(msgspec.Struct, frozen=True):
    """The stream ends with this status and a reason that helps the operator of the proxy."""

    status: grpc.StatusCode
    reason: str


def grpc_status(name: str) -> grpc.StatusCode:
    """The gRPC status of that name, for those who judge without gRPC."""
    return grpc.StatusCode[name]


Admission: TypeAlias = Admitted | Refused
Admit: TypeAlias = Callable[[NodeInfo, str | None], Awaitable[Admission]]


Connected: TypeAlias = Callable[[str, str, NodeInfo], None]
"""proxy, connection id, node."""
Disconnected: TypeAlias = Callable[[str, str, str], None]
"""proxy, connection id, reason."""


class AdsServer:
    """ADS and the agents' service on one port. Callbacks run on the server's loop and must not block.

    A connection id is unique in this process and grows with time. When a second stream of a proxy arrives,
    `on_disconnected` of the older is called before `on_connected` of the newer.
    """

    def __init__(
        self,
        address: str,
        port: int,
        tls: TlsFiles | None,
        *,
        admit: Admit,
        on_connected: Connected,
        on_disconnected: Disconnected,
        on_ack: Callable[[str, Acked], None],
        on_nack: Callable[[str, Nacked], None],
        on_observation: Callable[[str, Observation], None],
        connection_prefix: str = "",
    ) -> None:
        """port 0 takes a free one; connection_prefix makes ids unique across restarts."""
        self._address, self._port, self._tls = address, port, tls
        self._admit = admit
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._on_ack, self._on_nack = on_ack, on_nack
        self._prefix = connection_prefix
        self._count = 0
        self._draining = False
        self._server: aio.Server | None = None
        self._reported: dict[str, Stream] = {}
        self.hub = Hub()
        self.agents = Agents(on_observation)

    # -- life -------------------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Listen; returns the port. Raises RuntimeError when the port is taken."""
        self._server = server = aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(ADS_SERVICE, {"DeltaAggregatedResources": _handler(self._delta)}),
                grpc.method_handlers_generic_handler(AGENT_SERVICE, {"Attach": _handler(self._attach)}),
            )
        )
        target = f"{self._address}:{self._port}"
        if self._tls is None:
            port = server.add_insecure_port(target)
        else:
            credentials = grpc.ssl_server_credentials([(self._tls.key, self._tls.certificate)])
            port = server.add_secure_port(target, credentials)
        await server.start()
        return port

    async def stop(self, drain_seconds: float) -> None:
        """Tell agents to move, end every stream, and wait at most drain_seconds for that."""
        if self._server is None:
            return
        self._draining = True
        self.agents.drain()
        for stream in self.hub.streams():
            stream.end(DRAINING)
        await self._server.stop(drain_seconds)
        self._server = None

    # -- what is served ---------------------------------------------------------------------------------------

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        """Let the proxy have this snapshot, now or when it connects."""
        self.hub.offer(proxy, snapshot)

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """Let the proxy's agent answer from this table, now or when it attaches."""
        self.agents.offer(proxy, table)

    def forget(self, proxy: str) -> None:
        """Drop what was offered to a proxy that is gone for good."""
        self.hub.forget(proxy)
        self.agents.forget(proxy)

    def deliveries(self) -> tuple[ProxyDelivery, ...]:
        """How far every proxy has come."""
        return self.hub.deliveries()

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> ProxyDelivery:
        """Wait until a proxy has answered all of a position; see Hub.acked."""
        return await self.hub.acked(proxy, position, timeout_seconds)

    # -- ADS --------------------------------------------------------------------------------------------------

    async def _delta(self, _: object, context: Context) -> None:
        self._count += 1
        order = self._count
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, DRAINING)
        raw = await _first(context)
        request = await _parse(raw, context)
        node = NodeInfo(request.node.id, request.node.cluster, json_format.MessageToDict(request.node.metadata))
        proxy = await self._admitted(node, context)
        stream = Stream(proxy, f"{self._prefix}{order}", order)
        await self._serve(stream, node, request, context)

    async def _admitted(self, node: NodeInfo, context: Context) -> str:
        admission = await self._admit(node, _token(context))
        match admission:
            case Refused(status=status, reason=reason):
                await context.abort(status, reason)
            case Admitted(proxy=proxy):
                return proxy
        assert_never(admission)

    async def _serve(self, stream: Stream, node: NodeInfo, request: DeltaDiscoveryRequest, context: Context) -> None:
        older = self.hub.attach(stream)
        if older is not None:
            self._report_end(older, older.ended.result())
        if older is stream:
            await context.abort(grpc.StatusCode.ABORTED, stream.ended.result())
        self._reported[stream.connection] = stream
        reason = "the connection was lost"
        tasks: tuple[asyncio.Task[None], ...] = ()
        try:
            self._on_connected(stream.proxy, stream.connection, node)
            tasks = (
                asyncio.create_task(self._read(stream, request, context)),
                asyncio.create_task(self._write(stream, context)),
            )
            await asyncio.wait((*tasks, stream.ended), return_when=asyncio.FIRST_COMPLETED)
            status, reason = _outcome(stream, tasks)
            if status is not None:
                await _cancel(tasks)
                await context.abort(status, reason)
        finally:
            self.hub.detach(stream)
            self._report_end(stream, reason)
            await _cancel(tasks)

    def _report_end(self, stream: Stream, reason: str) -> None:
        """Once for every stream that was reported connected."""
        if self._reported.pop(stream.connection, None) is not None:
            self._on_disconnected(stream.proxy, stream.connection, reason)

    async def _read(self, stream: Stream, request: DeltaDiscoveryRequest, context: Context) -> None:
        while True:
            for fact in self.hub.receive(stream, request):
                if isinstance(fact, Acked):
                    self._on_ack(stream.proxy, fact)
                else:
                    self._on_nack(stream.proxy, fact)
            raw = await _next(context)
            if raw is None:
                return
            request = DeltaDiscoveryRequest.FromString(raw)

    async def _write(self, stream: Stream, context: Context) -> None:
        """Write what is due; the only place that does (two writes at once kill the call)."""
        while True:
            await stream.bell.wait()
            for response in self.hub.responses(stream):
                await context.write(response)

    # -- agents -----------------------------------------------------------------------------------------------

    async def _attach(self, _: object, context: Context) -> None:
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, DRAINING)
        hello = self.agents.hello(await _first(context))
        if hello is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message of Attach must be a Hello")
        proxy = await self._admitted(NodeInfo(hello.proxy), context)
        agent = self.agents.attach(proxy, hello)
        tasks: tuple[asyncio.Task[None], ...] = (
            asyncio.create_task(self.agents.read(agent, partial(_next, context))),
            asyncio.create_task(self.agents.write(agent, context.write)),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.agents.detach(agent)
            await _cancel(tasks)


def _outcome(stream: Stream, tasks: tuple[asyncio.Task[None], ...]) -> tuple[grpc.StatusCode | None, str]:
    """Why a stream is over, and the status to end it with; None when the client has closed it."""
    for task in tasks:
        error = task.exception() if task.done() and not task.cancelled() else None
        match error:
            case RemoteProtocolError():
                limit = grpc.StatusCode.RESOURCE_EXHAUSTED if error.limit else grpc.StatusCode.INVALID_ARGUMENT
                return limit, str(error)
            case DecodeError():
                return grpc.StatusCode.INVALID_ARGUMENT, "a request could not be decoded"
            case None:
                continue
            case _:
                return grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    if stream.ended.done():
        reason = stream.ended.result()
        return grpc.StatusCode.UNAVAILABLE if reason == DRAINING else grpc.StatusCode.ABORTED, reason
    return None, "closed by the proxy"


async def _next(context: Context) -> bytes | None:
    """The next message, None at the end of the stream."""
    raw: Any = await context.read()
    return None if raw is aio.EOF else raw


async def _first(context: Context) -> bytes:
    raw = None
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_REQUEST_SECONDS):
            raw = await _next(context)
    if raw is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended before its first message")
    return raw


async def _parse(raw: bytes, context: Context) -> DeltaDiscoveryRequest:
    try:
        return DeltaDiscoveryRequest.FromString(raw)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first request could not be decoded")


def _token(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            text = value.decode(errors="replace") if isinstance(value, bytes) else value
            scheme, _, token = text.partition(" ")
            if scheme.lower() == "bearer" and token:
                return token.strip()
    return None


async def _cancel(tasks: tuple[asyncio.Task[None], ...]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task


def _handler(behavior: Callable[[object, Context], Coroutine[Any, Any, None]]) -> Any:
    """A bidirectional method that takes and gives bytes as they are."""
    untyped: Any = behavior
    return grpc.stream_stream_rpc_method_handler(untyped)
