"""AdsServer: the asyncio skin around the hub. Reads, admits, feeds, writes; decides nothing about xDS.

Calls are carried by our own small gRPC server (`rpc`), in this loop and thread: a message costs a few Python calls
there, and a stream has no task, future or queue of its own while it is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, assert_never

import msgspec
from google.protobuf.message import DecodeError

from shared.events.state import Position
from shared.pb.agent_pb2 import ListenerLost, Observation, ProbedInbounds
from shared.pb.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from shared.pb.status_pb2 import ClientStatusRequest
from zone_cp.ads.agents import AGENT_SERVICE, Agents
from zone_cp.ads.calls import (
    DRAINING,
    Reader,
    cancel,
    first_message,
    outcome,
    token_of,
)
from zone_cp.ads.csds import CSDS_SERVICE, NotUnderstood, client_status
from zone_cp.ads.delta import DeltaStream
from zone_cp.ads.facts import Acked, Nacked, RemoteProtocolError
from zone_cp.ads.hub import CLOSED, LOST, Hub, NodeInfo, ProxyDelivery, Stream
from zone_cp.ads.introduction import introduced
from zone_cp.ads.names import DnsTable
from zone_cp.ads.rpc.calls import Aborted, Call, Method
from zone_cp.ads.rpc.exchange import Status
from zone_cp.ads.rpc.listener import Listener
from zone_cp.ads.rpc.secure import server_context
from zone_cp.ads.sotw import SotwStream
from zone_cp.ads.staging import StagedStream
from zone_cp.ads.starting import FirstSyncs
from zone_cp.ads.writing import Writer
from zone_cp.xds.snapshot import CLUSTER, ENDPOINT, EXTENSION_CONFIG, LISTENER, ROUTE, RUNTIME, SECRET, Snapshot

__all__ = ["ADS_SERVICE", "Admission", "Admitted", "AdsServer", "NodeInfo", "Refused", "Status", "TlsFiles"]

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
SERVICES = (
    (ADS_SERVICE, "AggregatedResources", ""),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", CLUSTER),
    ("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints", ENDPOINT),
    ("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", LISTENER),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", ROUTE),
    ("envoy.service.secret.v3.SecretDiscoveryService", "Secrets", SECRET),
    ("envoy.service.extension.v3.ExtensionConfigDiscoveryService", "ExtensionConfigs", EXTENSION_CONFIG),
    ("envoy.service.runtime.v3.RuntimeDiscoveryService", "Runtime", RUNTIME),
)
"""Service, what its methods are called after `Stream` and `Delta`, and its one type; "" for all."""


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM bytes of the server's certificate chain and its private key."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        """Never shows the key."""
        return "TlsFiles(certificate=…, key=…)"


class Admitted(msgspec.Struct, frozen=True):
    """The stream serves this proxy. first: it waits for no other (a zone egress, which all others' traffic needs)."""

    proxy: str
    first: bool = False


class Refused(msgspec.Struct, frozen=True):
    """The stream ends with this status and a reason that helps the operator of the proxy."""

    status: Status
    reason: str


Admission: TypeAlias = Admitted | Refused
Admit: TypeAlias = Callable[[NodeInfo, str | None], Awaitable[Admission]]


class Variant(msgspec.Struct, frozen=True):
    """One of the two protocols: the stream's state machine and what a request is decoded with."""

    stream: type[StagedStream]
    request: type[DeltaDiscoveryRequest | DiscoveryRequest]


DELTA, SOTW = Variant(DeltaStream, DeltaDiscoveryRequest), Variant(SotwStream, DiscoveryRequest)


Connected: TypeAlias = Callable[[str, str, NodeInfo], None]
"""proxy, connection id, node."""
Disconnected: TypeAlias = Callable[[str, str, str], None]
"""proxy, connection id, reason."""


class AdsServer:
    """xDS and the agents' service on one port. Callbacks run on the server's loop and must not block.

    A connection id is unique in this process and grows with time. A proxy is reported connected once, with the id of
    one of its streams; when that one ends and another is there (a newer aggregated stream, another one of a single
    type), `on_disconnected` of the older is called before `on_connected` of the other.
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
        on_probed: Callable[[str, ProbedInbounds | None], None] = lambda _proxy, _said: None,
        on_lost: Callable[[str, ListenerLost], None] = lambda _proxy, _lost: None,
        connection_prefix: str = "",
        methods: Mapping[str, Method] | None = None,
        may_inspect: Callable[[str | None], bool] = lambda _token: False,
        jitter: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """port 0 takes a free one; connection_prefix makes ids unique across restarts; methods go beside xDS, by path.

        may_inspect: whether a token opens CSDS. jitter: numbers in [0, 1), random.random in production.
        """
        self._address, self._port, self._tls = address, port, tls
        self._admit = admit
        self._on_connected, self._on_disconnected = on_connected, on_disconnected
        self._on_ack, self._on_nack = on_ack, on_nack
        self._prefix = connection_prefix
        self._methods = dict(methods or {})
        self._may_inspect = may_inspect
        self._starts = FirstSyncs(jitter)
        self._count = 0
        self._draining = False
        self._listener: Listener | None = None
        self._reported: dict[str, Stream] = {}
        self.hub = Hub()
        self.agents = Agents(on_observation, on_probed, on_lost)

    # -- life -------------------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError when the port is taken."""
        methods: dict[str, Method] = {f"/{AGENT_SERVICE}/Attach": self._attach} | self._methods
        for service, name, scope in SERVICES:
            for prefix, variant in (("Delta", DELTA), ("Stream", SOTW)):
                methods[f"/{service}/{prefix}{name}"] = partial(self._xds, variant, scope)
        for name in ("StreamClientStatus", "FetchClientStatus"):
            methods[f"/{CSDS_SERVICE}/{name}"] = self._status
        self._listener = Listener(methods)
        tls = None if self._tls is None else server_context(self._tls.certificate, self._tls.key)
        return await self._listener.start(self._address, self._port, tls)

    async def stop(self, drain_seconds: float) -> None:
        """Tell agents to move, end every stream, and wait at most drain_seconds for that."""
        if self._listener is None:
            return
        self._draining = True
        self.agents.drain()
        for stream in self.hub.streams():
            stream.end(DRAINING)
        await self._listener.stop(drain_seconds)
        self._listener = None

    # -- what is served ---------------------------------------------------------------------------------------

    def offer(self, proxy: str, snapshot: Snapshot) -> None:
        """Let the proxy have this snapshot, now or when it connects."""
        self.hub.offer(proxy, snapshot)

    def offer_dns(self, proxy: str, table: DnsTable) -> None:
        """Let the proxy's agent answer from this table, now or when it attaches."""
        self.agents.offer(proxy, table)

    def withhold(self, proxy: str) -> None:
        """Take back what a proxy was offered; see Hub.withhold."""
        self.hub.withhold(proxy)

    def forget(self, proxy: str) -> None:
        """Drop what was offered to a proxy that is gone for good."""
        self.hub.forget(proxy)
        self.agents.forget(proxy)

    def deliveries(self) -> tuple[ProxyDelivery, ...]:
        """How far every proxy has come."""
        return self.hub.deliveries()

    def advance(self, position: Position) -> None:
        """What every proxy was offered last holds at `position` too; see Hub.advance."""
        self.hub.advance(position)

    def leave(self, proxy: str, position: Position | None = None) -> None:
        """What the proxy was offered is not kept up to date any more; see Hub.leave."""
        self.hub.leave(proxy, position)

    async def acked(self, proxy: str, position: Position, timeout_seconds: float) -> Position:
        """Wait until a proxy has answered all of a position; see Hub.acked."""
        return await self.hub.acked(proxy, position, timeout_seconds)

    # -- xDS --------------------------------------------------------------------------------------------------

    async def _xds(self, variant: Variant, scope: str, call: Call) -> None:
        self._count += 1
        order = self._count
        if self._draining:
            raise Aborted(Status.UNAVAILABLE, DRAINING)
        try:
            node, request = introduced(variant.request, await first_message(call))
        except DecodeError:
            raise Aborted(Status.INVALID_ARGUMENT, "the first request could not be decoded") from None
        except RemoteProtocolError as error:
            raise Aborted(Status.RESOURCE_EXHAUSTED, str(error)) from None
        admitted = await self._admitted(node, call)
        call.admit()
        stream = Stream(node, admitted.proxy, f"{self._prefix}{order}", order, xds=variant.stream(), scope=scope)
        older = self._attached(stream)
        reader = Reader(partial(self._read, stream, variant), stream.fail)
        writer = Writer(partial(self.hub.responses, stream), call.send, stream.fail)
        call.when_ready(writer.go_on)
        tasks: list[asyncio.Task[None]] = []
        reason = LOST
        try:
            if older is not None:
                self._report_end(older, older.reason)
            self._report(stream)
            if admitted.first:
                stream.ring, stream.speak = writer.ring, writer.speak
            else:
                due = partial(self.hub.responses, stream)
                tasks.append(asyncio.create_task(self._starts.begin(stream, writer, due, call.write)))
                tasks[0].add_done_callback(tasks.remove)
            reader.begin(partial(self._take, stream, request))
            del request  # it would live as long as the stream
            call.listen(reader.take, partial(stream.end, CLOSED))
            await stream.ended
            status, reason = outcome(stream)
            if status is not None:
                await _silence(call, writer, tasks)
                raise Aborted(status, reason)
        finally:
            self.hub.detach(stream)
            self._report_end(stream, reason)
            await _silence(call, writer, tasks)

    def _attached(self, stream: Stream) -> Stream | None:
        """Let the stream serve its proxy; returns the older one that it takes the place of. Raises Aborted."""
        try:
            older = self.hub.attach(stream)
        except RemoteProtocolError as error:
            raise Aborted(Status.RESOURCE_EXHAUSTED, str(error)) from None
        if older is stream:
            raise Aborted(Status.ABORTED, stream.reason)
        return older

    async def _admitted(self, node: NodeInfo, call: Call) -> Admitted:
        admission = await self._admit(node, token_of(call))
        match admission:
            case Refused(status=status, reason=reason):
                raise Aborted(status, reason)
            case Admitted():
                return admission
        assert_never(admission)

    def _report(self, stream: Stream) -> None:
        """Tell that a proxy is connected, unless one of its other streams has told it."""
        if stream.proxy not in self._reported:
            self._reported[stream.proxy] = stream
            self._on_connected(stream.proxy, stream.connection, stream.node)

    def _report_end(self, stream: Stream, reason: str) -> None:
        """Once for every stream that was reported connected; another one of the proxy takes its place."""
        if self._reported.get(stream.proxy) is not stream:
            return
        del self._reported[stream.proxy]
        self._on_disconnected(stream.proxy, stream.connection, reason)
        for other in self.hub.streams_of(stream.proxy)[:1]:
            self._report(other)

    def _read(self, stream: Stream, variant: Variant, raw: bytes) -> None:
        self._take(stream, variant.request.FromString(raw))

    def _take(self, stream: Stream, request: Any) -> None:
        """Feed a request to a stream. Raises RemoteProtocolError."""
        if stream.scope:
            if request.type_url not in {"", stream.scope}:
                raise RemoteProtocolError(f"this service serves {stream.scope} only")
            request.type_url = stream.scope
        for fact in self.hub.receive(stream, request):
            if isinstance(fact, Acked):
                self._on_ack(stream.proxy, fact)
            else:
                self._on_nack(stream.proxy, fact)

    # -- CSDS -------------------------------------------------------------------------------------------------

    async def _status(self, call: Call) -> None:
        self._inspects(call)  # before anything of it is kept
        raw: bytes | None = await first_message(call)
        while raw is not None:
            self._inspects(call)
            try:
                said = client_status(self.hub.streams(), ClientStatusRequest.FromString(raw))
            except DecodeError:
                raise Aborted(Status.INVALID_ARGUMENT, "the request could not be decoded") from None
            except NotUnderstood as error:
                raise Aborted(Status.INVALID_ARGUMENT, str(error)) from None
            await call.write(said.SerializeToString())
            raw = await call.read()

    def _inspects(self, call: Call) -> None:
        if not self._may_inspect(token_of(call)):
            raise Aborted(Status.PERMISSION_DENIED, "CSDS takes a token of the role admin")

    # -- agents -----------------------------------------------------------------------------------------------

    async def _attach(self, call: Call) -> None:
        if self._draining:
            raise Aborted(Status.UNAVAILABLE, DRAINING)
        hello = self.agents.hello(await first_message(call))
        if hello is None:
            raise Aborted(Status.INVALID_ARGUMENT, "the first message of Attach must be a Hello")
        admitted = await self._admitted(NodeInfo(hello.proxy), call)
        call.admit()
        agent = self.agents.attach(admitted.proxy, hello)
        tasks: tuple[asyncio.Task[None], ...] = (
            asyncio.create_task(self.agents.read(agent, call.read)),
            asyncio.create_task(self.agents.write(agent, call.write)),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.agents.detach(agent)
            await cancel(tasks)


async def _silence(call: Call, writer: Writer, tasks: list[asyncio.Task[None]]) -> None:
    call.deafen()
    writer.close()
    await cancel(tuple(tasks))
